"""What is there, until when, and what happens next, in words for a person. No key in it."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from certs import chain
from certs.bundle import Bundle, Validity
from certs.rotation import Lifetimes, awaited, renewal
from certs.state import Leaf, Observed, Trust, covers
from certs.steps import Step


def steps(planned: Sequence[Step]) -> Iterator[str]:
    """A line for each step and one for its reason."""
    for step in planned:
        yield f"{step.verb} {step.target}"
        yield f"    because: {step.reason}"


def agenda(observed: Observed, now: datetime, lifetimes: Lifetimes) -> Iterator[str]:
    """What comes next by itself, and when; what is late comes first."""
    for moment, what in sorted(_agenda(observed, now, lifetimes)):
        yield f"  {'due since ' if moment < now else ''}{_when(moment, now)}: {what}"


def state(observed: Observed, planned: Sequence[Step], now: datetime, lifetimes: Lifetimes) -> Iterator[str]:
    """All of it. `now` is the API server's clock, `planned` what is to be done at once."""
    yield "CA"
    yield from _indented(_authority(observed, now))
    yield "Serving certificates"
    yield from _indented(_leaf(leaf, now) for leaf in observed.leaves)
    yield "Trust"
    yield from _indented(_trusts(observed, now))
    yield "Next"
    if planned:
        yield from _indented(["at once:", *_indented(steps(planned))])
    yield from agenda(observed, now, lifetimes)


def _authority(observed: Observed, now: datetime) -> Iterator[str]:
    authority = observed.authority
    if observed.problem:
        yield f"the Secret {observed.problem}"
    for name, bundle in (("signing", authority.signing), ("next   ", authority.next)):
        if bundle:
            facts = chain.facts(bundle.certificate)
            yield f"{name} {facts.fingerprint}: {_lasts(facts.validity, now)}"
    for one in authority.retired:
        yield f"retired {chain.facts(one.certificate).fingerprint}: no key; trusted until {_when(one.until, now)}"


def _leaf(leaf: Leaf, now: datetime) -> str:
    if leaf.validity is None:
        return f"{leaf.target}: {leaf.problem}"
    return f"{leaf.target}: {_lasts(leaf.validity, now)}"


def _lasts(validity: Validity, now: datetime) -> str:
    begins = f"NOT VALID before {_when(validity.not_before, now)}, " if now < validity.not_before else ""
    return f"{begins}{'ends' if now < validity.not_after else 'ENDED'} {_when(validity.not_after, now)}"


def _trusts(observed: Observed, now: datetime) -> Iterator[str]:
    for trust in observed.trusts:
        yield f"{trust.target}: {_trust(trust, observed.leaves, now)}"


def _trust(trust: Trust, leaves: tuple[Leaf, ...], now: datetime) -> str:
    if not trust.exists:
        return "is not there"
    names = ", ".join(sorted(chain.facts(pem).fingerprint for pem in trust.published)) or "no CA"
    verdict = "vouches" if covers(trust, leaves, now) else "DOES NOT VOUCH"
    return f"{names}; {verdict} for what is served"


def _agenda(observed: Observed, now: datetime, lifetimes: Lifetimes) -> Iterator[tuple[datetime, str]]:
    authority = observed.authority
    if authority.next:
        when = now + _left(observed, authority.next, now, lifetimes)
        yield when, "the next CA takes over, if `certs run` runs and nothing changes"
    elif authority.signing:
        yield renewal(chain.facts(authority.signing.certificate).validity, lifetimes), "the next CA is introduced"
    for leaf in observed.leaves:
        if leaf.validity:
            yield leaf.validity.renewal, f"{leaf.target.name} gets a fresh certificate"
    for one in authority.retired:
        yield one.until, f"CA {chain.facts(one.certificate).fingerprint} is no longer trusted"


def _left(observed: Observed, following: Bundle, now: datetime, lifetimes: Lifetimes) -> timedelta:
    steady = [trust.steady for trust in awaited(observed, following, now, lifetimes)]
    return max(lifetimes.publication - min(steady, default=lifetimes.publication), timedelta(0))


def _when(moment: datetime, now: datetime) -> str:
    apart = moment - now
    length = abs(apart)
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if (amount := length.total_seconds() / seconds) >= 2 or unit == "s":
            break
    words = f"in {amount:.0f} {unit}" if apart >= timedelta(0) else f"{amount:.0f} {unit} ago"
    return f"{moment:%F %T} UTC ({words})"


def _indented(lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
