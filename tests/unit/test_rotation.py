"""rotation: what is planned in every state that certificates and trust can be found in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest

from certs import chain
from certs.authority import issue_ca, issue_leaf
from certs.bundle import Bundle, Validity
from certs.objects import CONFIGURATIONS, Installation, Target
from certs.rotation import Lifetimes, plan, renewal
from certs.state import Authority, Leaf, Observed, Retired, Trust, covers, decode, decode_leaf, encode, render
from certs.steps import Change, Introduce, Issue, Publish, Step

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
INSTALLATION, LIFETIMES = Installation(), Lifetimes()
LONG, SHORT = timedelta(seconds=150), timedelta(seconds=149)
WEBHOOK, CONTROLPLANE = INSTALLATION.leaves
SHOP = INSTALLATION.config_map("shop")


@cache
def ca(name: str = "signing", age: timedelta = DAY, lifetime: timedelta = 365 * DAY) -> Bundle:
    return issue_ca(name, Validity.starting(NOW - age, lifetime))


@cache
def signed(by: Bundle, age: timedelta = DAY, names: tuple[str, ...] = INSTALLATION.leaves[WEBHOOK]) -> Bundle:
    within = chain.facts(by.certificate).validity
    return issue_leaf(by, names, Validity.starting(NOW - age, LIFETIMES.leaf, within))


def leaf(bundle: Bundle | None, problem: str = "", **fields: object) -> Leaf:
    return replace(Leaf(WEBHOOK, INSTALLATION.leaves[WEBHOOK], bundle=bundle, problem=problem), **fields)  # type: ignore[arg-type]


def trust(*certificates: Bundle, at: Target = CONFIGURATIONS[0], steady: timedelta = LONG) -> Trust:
    order = Authority(retired=tuple(Retired(one.certificate, NOW) for one in certificates)).certificates
    return Trust(at, (render(order),), steady=steady)


def observed(
    authority: Authority | None = None,
    *,
    leaves: tuple[Leaf, ...] | None = None,
    trusts: tuple[Trust, ...] | None = None,
    problem: str = "",
) -> Observed:
    """All is well, but for what is given. No authority: its Secret is there and holds nothing of use."""
    known = authority or Authority()
    certificates = [Bundle(pem, b"") for pem in known.certificates] or [ca()]
    if leaves is None:
        leaves = (leaf(signed(known.signing or ca()), steady=LONG),)
    return Observed(True, known, problem, leaves, (trust(*certificates),) if trusts is None else trusts)


WELL = Authority(signing=ca())
WAITING = Authority(signing=ca(), next=ca("next", timedelta(0)))
OLD = ca("old", age=300 * DAY)
NOTHING = Observed(
    False,
    Authority(),
    "is not there",
    (leaf(None, "is not there", exists=False),),
    (Trust(CONFIGURATIONS[0], (b"", b"")), Trust(SHOP, (b"",), exists=False, operators=False)),
)


def planned(state: Observed, now: datetime = NOW) -> tuple[Step, ...]:
    return plan(state, now, LIFETIMES, INSTALLATION.authority)


def verbs(state: Observed, now: datetime = NOW) -> list[str]:
    return [step.verb for step in planned(state, now)]


STATES: dict[str, tuple[Observed, list[str]]] = {
    "all is well": (observed(WELL), []),
    "nothing is there": (NOTHING, ["create", "create", "create"]),
    "the secrets are there and empty": (
        observed(problem="is empty", leaves=(leaf(None, "is empty"),), trusts=(trust(),)),
        ["introduce"],
    ),
    "a CA was made and nothing is published yet": (
        observed(Authority(next=ca("next", timedelta(0))), leaves=(leaf(None, "is empty"),), trusts=(trust(),)),
        ["promote", "publish"],
    ),
    "a CA signs and nothing is published yet": (
        observed(WELL, leaves=(leaf(None, "is empty"),), trusts=(trust(),)),
        ["publish", "issue"],
    ),
    "the CA secret is deleted": (replace(observed(), exists=False, problem="is not there"), ["create"]),
    "the CA secret is spoilt": (observed(problem="is garbage"), ["introduce"]),
    "everything is deleted but the trust": (
        replace(observed(leaves=(leaf(None, "is not there", exists=False),)), exists=False),
        ["create", "create"],
    ),
    "the leaf is deleted": (observed(WELL, leaves=(leaf(None, "is not there", exists=False),)), ["create"]),
    "the leaf is spoilt": (observed(WELL, leaves=(leaf(None, "is garbage"),)), ["issue"]),
    "the leaf is two thirds over": (observed(WELL, leaves=(leaf(signed(ca(age=60 * DAY), 20 * DAY)),)), ["issue"]),
    "the leaf is over": (
        observed(Authority(signing=ca(age=60 * DAY)), leaves=(leaf(signed(ca(age=60 * DAY), 31 * DAY)),)),
        ["issue"],
    ),
    "the leaf is not valid yet: the clock was set back": (
        observed(WELL, leaves=(leaf(signed(ca(), -2 * DAY)),)),
        ["issue"],
    ),
    "the leaf is for other names": (observed(WELL, leaves=(leaf(signed(ca(), DAY, ("other.svc",))),)), ["issue"]),
    "the leaf is somebody else's": (observed(WELL, leaves=(leaf(signed(ca("other"))),)), ["issue"]),
    "the CA is two thirds over": (
        observed(Authority(signing=OLD), leaves=(leaf(signed(OLD)),)),
        ["introduce"],
    ),
    "the CA is over": (observed(Authority(signing=ca(age=400 * DAY)), leaves=()), ["introduce"]),
    "the CA is not valid yet: the clock was set back": (
        observed(Authority(signing=ca(age=-2 * DAY)), leaves=()),
        ["introduce"],
    ),
    "the next CA is published but not for long": (
        observed(WAITING, trusts=(trust(ca(), ca("next", timedelta(0)), steady=SHORT),)),
        [],
    ),
    "the next CA has been published for long": (observed(WAITING), ["promote"]),
    "the next CA is missing in one trust": (
        observed(WAITING, trusts=(trust(ca(), ca("next", timedelta(0))), trust(ca()))),
        ["publish"],
    ),
    "the next CA is over before it signed anything": (
        observed(replace(WAITING, next=ca("late", age=400 * DAY))),
        ["introduce"],
    ),
    "the next CA signs already: its Secret is an old copy": (
        observed(
            WAITING,
            leaves=(leaf(signed(ca("next", timedelta(0)), timedelta(0))),),
            trusts=(trust(ca("next", timedelta(0))),),
        ),
        ["promote", "publish"],
    ),
    "no CA signs, and the next must wait": (
        observed(
            Authority(next=ca("next", timedelta(0)), retired=(Retired(ca().certificate, NOW + DAY),)),
            trusts=(trust(ca(), ca("next", timedelta(0)), steady=SHORT),),
        ),
        [],
    ),
    "the CA is over, and the next must wait": (
        observed(
            Authority(ca(age=400 * DAY), ca("next", timedelta(0)), (Retired(ca().certificate, NOW + DAY),)),
            leaves=(leaf(None, "is lost"),),
            trusts=(trust(ca(age=400 * DAY), ca(), ca("next", timedelta(0)), steady=SHORT),),
        ),
        [],
    ),
    "a caBundle is emptied": (observed(WELL, trusts=(Trust(CONFIGURATIONS[0], (b"",)),)), ["publish"]),
    "one entry of a caBundle is emptied": (
        observed(WELL, trusts=(Trust(CONFIGURATIONS[0], (ca().certificate, b"")),)),
        ["publish"],
    ),
    "a caBundle is garbage": (observed(WELL, trusts=(Trust(CONFIGURATIONS[0], (b"garbage",)),)), ["publish"]),
    "somebody added a CA that vouches for nothing": (observed(WELL, trusts=(trust(ca(), ca("x")),)), ["publish"]),
    "somebody else's CA vouches for what is served": (
        observed(WELL, leaves=(leaf(signed(ca("other"))),), trusts=(trust(ca("other")),)),
        ["adopt"],
    ),
    "a new namespace has no trust yet": (observed(WELL, trusts=(Trust(SHOP, (b"",), exists=False),)), ["create"]),
    "a registration is not installed": (observed(WELL, trusts=()), []),
    "a retired CA is over": (observed(replace(WELL, retired=(Retired(OLD.certificate, NOW),))), ["forget"]),
    "a retired CA is not over": (observed(replace(WELL, retired=(Retired(OLD.certificate, NOW + DAY),))), []),
}


@pytest.mark.parametrize(("state", "expected"), STATES.values(), ids=STATES)
def test_what_is_done_when(state: Observed, expected: list[str]) -> None:
    assert verbs(state) == expected


@pytest.mark.parametrize("state", [state for state, _ in STATES.values()], ids=STATES)
def test_every_step_says_why(state: Observed) -> None:
    assert all(step.reason for step in planned(state))


@pytest.mark.parametrize("state", [state for state, _ in STATES.values()], ids=STATES)
def test_no_step_and_no_state_shows_a_key(state: Observed) -> None:
    assert "PRIVATE" not in f"{planned(state)!r} {state!r} {planned(state)} {state}"


# The change of a CA.


def test_the_former_key_is_gone_with_the_promotion() -> None:
    (step,) = planned(observed(WAITING))
    assert isinstance(step, Change)
    assert b"PRIVATE" not in b"".join(value for name, value in encode(step.authority).items() if name != "ca.key")
    assert step.authority.signing == WAITING.next


def test_a_retired_ca_is_trusted_until_its_last_certificate_has_ended() -> None:
    (step,) = planned(observed(WAITING))
    assert isinstance(step, Change)
    assert step.authority.retired == (Retired(ca().certificate, NOW + LIFETIMES.leaf),)


def test_a_retired_ca_is_trusted_until_what_is_served_has_ended_though_lifetimes_were_longer_once() -> None:
    served = issue_leaf(ca(), INSTALLATION.leaves[WEBHOOK], Validity.starting(NOW, 60 * DAY))
    (step,) = planned(observed(WAITING, leaves=(leaf(served, steady=LONG),)))
    assert isinstance(step, Change)
    assert step.authority.retired == (Retired(ca().certificate, NOW + 60 * DAY),)


def test_a_retired_ca_is_not_trusted_longer_than_it_is_valid() -> None:
    ending = replace(WAITING, signing=OLD)
    (step,) = planned(observed(ending, leaves=(leaf(signed(OLD)),)), NOW + 50 * DAY)
    assert isinstance(step, Change)
    assert step.authority.retired[0].until == chain.facts(OLD.certificate).validity.not_after


def test_a_promotion_changes_no_published_text() -> None:
    (step,) = planned(observed(WAITING))
    assert isinstance(step, Change)
    assert step.authority.certificates == WAITING.certificates


def test_a_ca_that_still_has_certificates_out_is_kept_whatever_the_clock_says() -> None:
    retired = Authority(signing=ca("new"), retired=(Retired(ca().certificate, NOW - DAY),))
    state = observed(retired, leaves=(leaf(signed(ca()), steady=LONG),))
    assert "forget" not in verbs(state)


def test_a_retired_ca_is_kept_until_servers_have_taken_up_their_certificates() -> None:
    over = replace(WELL, retired=(Retired(OLD.certificate, NOW),))
    assert verbs(observed(over, leaves=(leaf(signed(ca()), steady=SHORT),))) == []


def test_a_leaf_does_not_outlive_its_ca() -> None:
    ending = Authority(signing=OLD, next=ca("next", timedelta(0)))
    trusts = (trust(*map_bundles(ending), steady=SHORT),)
    (step,) = planned(observed(ending, leaves=(leaf(None, "is lost"),), trusts=trusts), NOW + 50 * DAY)
    assert isinstance(step, Issue)
    assert step.validity.not_after == chain.facts(OLD.certificate).validity.not_after


def test_a_leaf_that_lasts_as_long_as_its_ca_is_not_issued_again_and_again() -> None:
    bundle = signed(OLD, -50 * DAY)
    state = observed(Authority(OLD, ca("next", -50 * DAY)), leaves=(leaf(bundle),), trusts=(trust(OLD, steady=SHORT),))
    assert "issue" not in verbs(state, NOW + 64 * DAY)


@pytest.mark.parametrize(("ca_days", "leaf_days"), [(365, 30), (30, 10), (20, 10)])
def test_the_next_ca_comes_before_a_leaf_would_be_cut_short(ca_days: int, leaf_days: int) -> None:
    lifetimes = Lifetimes(ca_days * DAY, leaf_days * DAY)
    validity = Validity.starting(NOW, lifetimes.ca)
    assert renewal(validity, lifetimes) + lifetimes.publication <= validity.not_after - lifetimes.leaf


def test_a_namespace_younger_than_the_next_ca_is_not_waited_for() -> None:
    waiting = replace(WAITING, next=ca("next", age=timedelta(hours=1)))
    young = replace(trust(*map_bundles(waiting), at=SHOP, steady=timedelta(0)), born=NOW - timedelta(minutes=59))
    assert verbs(observed(waiting, trusts=(trust(*map_bundles(waiting)), young))) == ["promote"]


def test_an_older_namespace_that_opts_in_is_waited_for() -> None:
    old = replace(trust(*map_bundles(WAITING), at=SHOP, steady=timedelta(0)), born=NOW - timedelta(minutes=1))
    assert verbs(observed(WAITING, trusts=(trust(*map_bundles(WAITING)), old))) == []


def test_a_namespace_that_refuses_its_trust_does_not_hold_up_the_last_tenth() -> None:
    ending = Authority(OLD, ca("next", timedelta(0)))
    refusing = replace(trust(OLD, at=SHOP), refuses=True)
    state = observed(ending, leaves=(leaf(signed(OLD)),), trusts=(trust(*map_bundles(ending)), refusing))
    late = chain.facts(OLD.certificate).validity.not_after - 30 * DAY
    assert "promote" not in verbs(state, NOW)
    assert "promote" in verbs(state, late)


def test_nothing_is_waited_for_when_no_ca_vouches_for_what_is_served() -> None:
    state = observed(WAITING, leaves=(leaf(signed(ca("lost")), steady=LONG),), trusts=(trust(ca()),))
    assert "promote" in verbs(state)


@pytest.mark.parametrize("lost", [leaf(None, "is garbage"), leaf(signed(ca("lost")), steady=SHORT)])
def test_a_server_may_go_on_with_what_was_lost_or_replaced_a_moment_ago(lost: Leaf) -> None:
    assert "promote" not in verbs(observed(WAITING, leaves=(lost,), trusts=(trust(ca()),)))


# Loss and intrusion.


def test_a_lost_ca_stays_trusted_while_its_certificates_are_served() -> None:
    (step,) = planned(observed(problem="is empty"))
    assert isinstance(step, Introduce)
    assert [one.certificate for one in step.authority.retired] == [ca().certificate]


def test_a_lost_ca_is_found_in_any_trust_that_operators_write() -> None:
    emptied = Trust(CONFIGURATIONS[0], (b"",))
    (step,) = planned(observed(problem="is empty", trusts=(emptied, trust(ca(), at=CONFIGURATIONS[1]))))
    assert isinstance(step, Introduce)
    assert [one.certificate for one in step.authority.retired] == [ca().certificate]


def test_a_ca_that_is_not_valid_yet_is_not_dropped_for_a_clock_that_was_set_back() -> None:
    (step,) = planned(observed(problem="is empty"), NOW - 9 * DAY)
    assert isinstance(step, Introduce)
    assert [one.certificate for one in step.authority.retired] == [ca().certificate]


def test_an_old_copy_of_the_ca_does_not_end_the_trust_in_what_servers_go_on_with() -> None:
    lost = leaf(None, "is not there", exists=False)
    steps = planned(observed(WELL, leaves=(lost,), trusts=(trust(ca(), ca("newer")),)))
    assert [step.verb for step in steps] == ["create", "adopt"]


def test_what_stands_in_a_namespace_of_its_own_is_not_believed() -> None:
    planted = replace(trust(ca("planted"), at=SHOP), operators=False)
    steps = planned(observed(problem="is empty", leaves=(leaf(None, "is empty"),), trusts=(planted,)))
    assert [step.authority.retired for step in steps if isinstance(step, Introduce)] == [()]


def test_a_ca_that_others_are_trusted_beside_waits_like_a_new_one() -> None:
    (step,) = planned(observed(WELL, leaves=(leaf(signed(ca("other"))),), trusts=(trust(ca("other")),)))
    assert isinstance(step, Change)
    assert (step.authority.signing, step.authority.next) == (None, ca())


def test_the_reason_names_the_certificates_that_somebody_put_there() -> None:
    (step,) = planned(observed(WELL, trusts=(trust(ca(), ca("x")),)))
    assert isinstance(step, Publish)
    assert f"holds CA {chain.facts(ca('x').certificate).fingerprint}, which vouches for nothing of ours" in step.reason


# What the CA Secret holds.


def test_an_authority_comes_back_as_it_was_stored() -> None:
    stored = replace(WAITING, retired=(Retired(OLD.certificate, NOW),))
    assert decode(encode(stored)) == (stored, "")


@pytest.mark.parametrize("spoilt", ["ca.crt", "ca.key", "next.crt", "next.key", "retired.json"])
@pytest.mark.parametrize(
    "by",
    [b"", b"rubbish", b"[1]", ca("x").certificate, ca("x").key, b"\xff"],
    ids=["nothing", "rubbish", "JSON", "a certificate", "another key", "no UTF-8"],
)
def test_what_cannot_be_read_is_as_if_it_were_absent_and_is_told(spoilt: str, by: bytes) -> None:
    stored = replace(WAITING, retired=(Retired(OLD.certificate, NOW),))
    found, problem = decode(encode(stored) | {spoilt: by})
    assert spoilt in problem
    assert found != stored


def test_a_servers_pair_comes_back_as_it_was_stored() -> None:
    bundle = signed(ca())
    assert decode_leaf({"tls.crt": bundle.certificate, "tls.key": bundle.key}) == (bundle, "")


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ({}, "is empty"),
        ({"tls.crt": ca().certificate, "tls.key": ca("x").key}, "tls.crt and tls.key are no matching pair"),
    ],
)
def test_a_servers_pair_that_is_none_is_told(stored: dict[str, bytes], problem: str) -> None:
    assert decode_leaf(stored) == (None, problem)


def test_a_certificate_that_is_no_ca_cannot_sign() -> None:
    server = signed(ca())
    assert decode({"ca.crt": server.certificate, "ca.key": server.key})[0].signing is None


# Whether all is well.


def test_a_trust_covers_what_it_vouches_for() -> None:
    assert covers(trust(ca()), (leaf(signed(ca())),), NOW)


@pytest.mark.parametrize(
    ("of", "bundle", "now"),
    [
        (trust(ca("other")), signed(ca()), NOW),
        (trust(ca()), None, NOW),
        (trust(ca()), signed(ca()), NOW + 30 * DAY),
        (trust(), signed(ca()), NOW),
    ],
    ids=["another CA", "no certificate", "over", "empty"],
)
def test_a_trust_does_not_cover(of: Trust, bundle: Bundle | None, now: datetime) -> None:
    assert not covers(of, (leaf(bundle),), now)


@pytest.mark.parametrize(
    ("lifetimes", "words"),
    [
        (Lifetimes(ca=59 * DAY), "at least twice as long"),
        (Lifetimes(ca=timedelta(0), leaf=timedelta(0)), "must be positive"),
        (Lifetimes(publication=timedelta(seconds=-1)), "must be positive"),
        (Lifetimes(ca=3 * DAY, leaf=DAY, publication=DAY), "shorter than a third"),
    ],
)
def test_lifetimes_that_cannot_work_together_are_refused(lifetimes: Lifetimes, words: str) -> None:
    assert any(words in problem for problem in lifetimes.problems())


def test_the_lifetimes_that_are_built_in_work_together() -> None:
    assert not list(Lifetimes().problems())


def map_bundles(authority: Authority) -> tuple[Bundle, ...]:
    return tuple(Bundle(pem, b"") for pem in authority.certificates)
