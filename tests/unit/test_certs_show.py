"""certs show: a person sees what is there, what is wrong with it, and what comes next."""

from datetime import timedelta

import pytest

from certs import show
from certs.objects import CONFIGURATIONS
from certs.rehearsal import Rehearsal
from certs.rotation import Lifetimes
from tests.rehearsed import INSTALLATION, NOW, cluster, keeper, settled

WEBHOOK = next(iter(INSTALLATION.leaves))
WELL = settled().read()


def shown(store: Rehearsal, later: timedelta = timedelta(0)) -> str:
    """What it says so much later."""
    store.at = NOW + later
    one = keeper(store)
    reading, observed, steps = one.look()
    return "\n".join(show.state(observed, steps, reading.at, one.lifetimes))


def well() -> Rehearsal:
    return Rehearsal(WELL)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (timedelta(0), "webhook-tls: ends 2026-12-25 12:00:00 UTC (in 30 d)"),
        (timedelta(days=31), "webhook-tls: ENDED 2026-12-25 12:00:00 UTC (24 h ago)"),
        (timedelta(days=-9), "webhook-tls: NOT VALID before 2026-11-25 11:00:00 UTC (in 9 d), ends 2026-12-25"),
        (timedelta(days=21), "due since 2026-12-15 12:00:00 UTC (24 h ago): envoy-sidecar-webhook-tls gets a fresh"),
    ],
    ids=["good", "over", "not yet", "late"],
)
def test_it_says_how_a_certificate_stands(later: timedelta, words: str) -> None:
    assert words in shown(well(), later)


def test_what_is_late_comes_before_what_is_not() -> None:
    agenda = [
        line for line in shown(well(), timedelta(days=21)).splitlines() if " gets a " in line or "next CA" in line
    ]
    assert [line.startswith("  due since") for line in agenda] == [True, True, False]


def test_before_the_first_installation_it_says_what_is_missing() -> None:
    said = shown(cluster())
    assert "the Secret is not there" in said
    assert f"{WEBHOOK}: is not there" in said
    assert "MutatingWebhookConfiguration envoy-sidecar-webhook: no CA; DOES NOT VOUCH for what is served" in said


def test_what_is_to_be_done_at_once_is_told_with_its_reason() -> None:
    store = well()
    store.publish(CONFIGURATIONS[0], store.found[CONFIGURATIONS[0]], b"")
    assert f"  at once:\n    publish {CONFIGURATIONS[0]}\n        because: lacks CA " in shown(store)


def test_a_next_ca_says_how_long_it_waits() -> None:
    store = well()
    del store.found[INSTALLATION.authority]
    one = keeper(store)
    for _ in range(3):
        reading, _, steps = one.look()
        for step in steps:
            one.act(step, reading)
    said = shown(store)
    assert "  next    " in said
    assert "  retired " in said
    assert f"(in {Lifetimes().publication.total_seconds() / 60:.0f} min): the next CA takes over" in said
