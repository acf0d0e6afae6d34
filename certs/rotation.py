"""plan(observed, now) -> steps: the only place that knows the order in which certificates and trust are replaced.

A CA is replaced in this order, each part only after the one before was read back:

1. introduce: the next CA is made, and its key kept beside that of the signing one. It signs nothing yet.
2. publish: both are trusted everywhere: in the caBundles, and in the ConfigMap of each namespace.
3. wait: for the publication delay. No API says when an API server or a kubelet has picked up what was published.
4. promote: the next CA signs from now on. The same write destroys the key of the former one, whose certificate stays
   trusted as long as anything that it signed can be valid.
5. issue: the servers get certificates of the new CA. All who may meet them have trusted it since before step 4.
6. forget: once those of the former CA are over and replaced, its certificate leaves the trust.

Each step is safe by what was observed alone, not because of the steps before it in the same plan: it may follow a
crash, or fail, and the next plan is made of what is there then. Steps are carried out by compare-and-set on what was
read. Leaves and trusts are read *before* the CA Secret: whoever acts on an old CA Secret finds them changed since.

The wait is by how long this process has seen each object unchanged (`steady`), not by the clock on the wall, which
can jump, nor by a time that is stored, which would not notice that somebody took the trust away in between.
It is skipped if nothing is left to protect: no published CA vouches for a served certificate.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from certs import chain
from certs.bundle import BACKDATED, Bundle, Validity
from certs.objects import Target
from certs.state import Authority, Leaf, Observed, Retired, Trust, render
from certs.steps import Change, Create, Introduce, Issue, Publish, Step

_REFUSAL_ENDS = 10  # a namespace that refuses our trust is not waited for in the last tenth of a CA's lifetime


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates are valid, and how long what was published may take to arrive."""

    ca: timedelta = timedelta(days=365)
    leaf: timedelta = timedelta(days=30)
    publication: timedelta = timedelta(seconds=150)  # a kubelet syncs within 2 minutes

    def problems(self) -> Iterator[str]:
        """Why these cannot work together, if so."""
        if min(self.ca, self.leaf) < timedelta(seconds=1) or self.publication < timedelta(0):
            yield "lifetimes must be positive"
        if self.ca < 2 * self.leaf:
            yield "a CA must be valid at least twice as long as the certificates that it signs"
        if self.publication >= self.ca / 3:
            yield "the publication delay must be shorter than a third of the CA's lifetime"


def plan(observed: Observed, now: datetime, lifetimes: Lifetimes, secret: Target) -> tuple[Step, ...]:
    """What to do next, all of it safe at once; nothing if all is well. `secret` is the CA's.

    `now` is to be the clock of those who verify. Read again and plan again after it is done.
    """
    change = _change(observed, now, lifetimes, secret)
    # A trust is not written before it is known what must stay in it, nor a leaf while it changes who signs.
    publish = () if isinstance(change, Introduce | Change) and _orphans(observed, now) else _publish(observed)
    issue = () if change else _issue(observed, now, lifetimes)
    return (*_create(observed), *((change,) if change else ()), *publish, *issue)


def _create(observed: Observed) -> Iterator[Step]:
    for leaf in observed.leaves:
        if not leaf.exists:
            yield Create(leaf.target, "is not there")
    for trust in observed.trusts:
        if not trust.exists:
            yield Create(trust.target, "is not there")


def _publish(observed: Observed) -> Iterator[Step]:
    certificates = observed.authority.certificates
    if not certificates:
        return
    text = render(certificates)
    for trust in observed.trusts:
        if trust.exists and any(one != text for one in trust.texts):
            yield Publish(trust.target, certificates, _difference(trust, certificates))


def _difference(trust: Trust, certificates: tuple[bytes, ...]) -> str:
    lacking, foreign = set(certificates) - trust.published, trust.found - set(certificates)
    parts = [f"lacks CA {name}" for name in _fingerprints(lacking)]
    parts += [f"holds CA {name}, which vouches for nothing of ours" for name in _fingerprints(foreign)]
    return ", ".join(parts) or "is written in another way"


def _fingerprints(certificates: Iterable[bytes]) -> list[str]:
    return sorted(chain.facts(pem).fingerprint for pem in certificates)


def _issue(observed: Observed, now: datetime, lifetimes: Lifetimes) -> Iterator[Step]:
    ca = observed.authority.signing
    if ca is None or not chain.facts(ca.certificate).validity.holds(now):
        return
    validity = Validity.starting(now, lifetimes.leaf, within=chain.facts(ca.certificate).validity)
    for leaf in observed.leaves:
        if leaf.exists and (reason := _due(leaf, ca.certificate, now)):
            yield Issue(leaf.target, ca, leaf.names, validity, reason)


def _due(leaf: Leaf, ca: bytes, now: datetime) -> str:
    """Why a server needs another certificate; empty if it does not."""
    if leaf.bundle is None:
        return leaf.problem
    facts, end = chain.facts(leaf.bundle.certificate), chain.facts(ca).validity.not_after
    if not chain.signed(ca, leaf.bundle.certificate):
        return f"was not signed by the present CA, {chain.facts(ca).fingerprint}"
    if not facts.validity.holds(now):
        return f"is valid from {facts.validity.not_before:%F %T} until {facts.validity.not_after:%F %T}, not now"
    if facts.validity.renewal <= now and facts.validity.not_after < end:
        return f"ends {facts.validity.not_after:%F %T}: two thirds are over"
    if facts.names != frozenset(leaf.names):
        return "is for other names"
    return ""


def _change(
    observed: Observed, now: datetime, lifetimes: Lifetimes, secret: Target
) -> Create | Introduce | Change | None:
    """The one thing that is to happen to the CA Secret."""
    authority, orphans = observed.authority, _orphans(observed, now)
    adopted = (*authority.retired, *(Retired(pem, _last(pem, now, lifetimes)) for pem in orphans))
    if not observed.exists:
        return Create(secret, "is not there")
    if not authority.signing and not authority.next:
        kept = Authority(retired=adopted)
        reason = f"{observed.problem or 'holds no key'}: a CA is needed"
        return Introduce(secret, kept, Validity.starting(now, lifetimes.ca), reason)
    if orphans:
        names = ", ".join(_fingerprints(orphans))
        reason = f"CA {names} is trusted and may be in use, and this Secret does not know it"
        return Change(secret, _demoted(authority, adopted, now, lifetimes), "adopt", reason)
    if authority.next:
        return _with_next(observed, authority.next, now, lifetimes, secret)
    if authority.signing and (reason := _ends(authority.signing, now, lifetimes)):
        return Introduce(secret, authority, Validity.starting(now, lifetimes.ca), reason)
    return _forget(observed, now, lifetimes, secret)


def _demoted(authority: Authority, adopted: tuple[Retired, ...], now: datetime, lifetimes: Lifetimes) -> Authority:
    """Others are trusted, so ours may not be: it signs again once it has been published like a new one."""
    if authority.signing is None:
        return replace(authority, retired=adopted)
    if authority.next is None:
        return Authority(None, authority.signing, adopted)
    return Authority(None, authority.next, (*adopted, _retire(authority.signing, now, lifetimes)))


def _ends(ca: Bundle, now: datetime, lifetimes: Lifetimes) -> str:
    """Why a CA must be replaced; empty if not yet. Early enough that no leaf must end with its CA."""
    validity = chain.facts(ca.certificate).validity
    if not validity.holds(now):
        return f"the CA is valid from {validity.not_before:%F %T} until {validity.not_after:%F %T}, not now"
    if now >= renewal(validity, lifetimes):
        return f"the CA ends {validity.not_after:%F %T}: it is time for the next"
    return ""


def renewal(ca: Validity, lifetimes: Lifetimes) -> datetime:
    """When the successor of a CA is introduced."""
    return min(ca.renewal, ca.not_after - lifetimes.leaf - lifetimes.publication)


def _with_next(
    observed: Observed, following: Bundle, now: datetime, lifetimes: Lifetimes, secret: Target
) -> Introduce | Change | None:
    authority = observed.authority
    if reason := _ends(following, now, lifetimes):
        return Introduce(secret, authority, Validity.starting(now, lifetimes.ca), f"next: {reason}")
    if reason := _ready(observed, following, now, lifetimes):
        former = (_retire(authority.signing, now, lifetimes, observed),) if authority.signing else ()
        return Change(secret, Authority(following, None, (*authority.retired, *former)), "promote", reason)
    return None


def _ready(observed: Observed, following: Bundle, now: datetime, lifetimes: Lifetimes) -> str:
    """Why the next CA may sign; empty if it may not yet."""
    ca = following.certificate
    if any(leaf.bundle and chain.signed(ca, leaf.bundle.certificate) for leaf in observed.leaves):
        return "it has signed what is served already"
    if not _protected(observed, ca, now, lifetimes):
        return "nothing that is served is trusted, so nothing is put at risk"
    waited_for = awaited(observed, following, now, lifetimes)
    if all(trust.steady >= lifetimes.publication and ca in trust.published for trust in waited_for):
        return f"it has been trusted everywhere for {lifetimes.publication.total_seconds():g} s"
    return ""


def awaited(observed: Observed, following: Bundle, now: datetime, lifetimes: Lifetimes) -> Iterator[Trust]:
    """The trusts that the next CA must have been in. A namespace younger than it has known no trust without it."""
    made = chain.facts(following.certificate).validity.not_before + BACKDATED
    signing = observed.authority.signing
    end = chain.facts(signing.certificate).validity.not_after if signing else None
    late = end is not None and now >= end - lifetimes.ca / _REFUSAL_ENDS
    for trust in observed.trusts:
        young = trust.born is not None and trust.born > made
        if trust.exists and not young and not (trust.refuses and late):
            yield trust


def _protected(observed: Observed, following: bytes, now: datetime, lifetimes: Lifetimes) -> bool:
    """Whether something may be served that somebody trusts by another CA than the next one."""
    others = {pem for trust in observed.trusts for pem in trust.found if pem != following}
    for leaf in observed.leaves:
        if leaf.bundle and any(chain.vouches(pem, leaf.bundle.certificate, now) for pem in others):
            return True
    # What a server mounts was lost, or has just changed: it may go on with what it has.
    unknown = any(leaf.bundle is None or leaf.steady < lifetimes.publication for leaf in observed.leaves)
    return unknown and any(chain.facts(pem).ours and chain.vouches(pem, pem, now) for pem in others)


def _orphans(observed: Observed, now: datetime) -> tuple[bytes, ...]:
    """CAs that are trusted and may be in use, and that the CA Secret does not know: it was lost, or is an old copy.

    Only what operators write is believed; and of a ConfigMap in a namespace of its own, nothing. One that is not valid
    yet counts: it may be the clock that is wrong, and not for long.
    """
    known = set(observed.authority.certificates)
    served = [leaf.bundle.certificate for leaf in observed.leaves if leaf.bundle]
    found = sorted({pem for trust in observed.trusts if trust.operators for pem in trust.found} - known)
    lost = observed.authority.signing is None or any(leaf.bundle is None for leaf in observed.leaves)
    return tuple(
        pem
        for pem in found
        if chain.is_root(pem)
        and now < chain.facts(pem).validity.not_after
        and ((lost and chain.facts(pem).ours) or any(chain.signed(pem, certificate) for certificate in served))
    )


def _forget(observed: Observed, now: datetime, lifetimes: Lifetimes, secret: Target) -> Change | None:
    served = [leaf.bundle.certificate for leaf in observed.leaves if leaf.bundle]
    steady = all(leaf.steady >= lifetimes.publication for leaf in observed.leaves)  # servers have taken up theirs
    over = [one for one in observed.authority.retired if one.until <= now]
    over = [one for one in over if not any(chain.signed(one.certificate, pem) for pem in served)]
    if not over or not steady:
        return None
    names = ", ".join(_fingerprints(one.certificate for one in over))
    kept = tuple(one for one in observed.authority.retired if one not in over)
    reason = f"all that CA {names} has signed is over"
    return Change(secret, replace(observed.authority, retired=kept), "forget", reason)


def _retire(ca: Bundle, now: datetime, lifetimes: Lifetimes, observed: Observed | None = None) -> Retired:
    ends = [leaf.validity.not_after for leaf in (observed.leaves if observed else ()) if leaf.validity]
    last = max([_last(ca.certificate, now, lifetimes), *ends])
    return Retired(ca.certificate, min(last, chain.facts(ca.certificate).validity.not_after))


def _last(ca: bytes, now: datetime, lifetimes: Lifetimes) -> datetime:
    """When the last certificate that `ca` can have signed by now ends."""
    return min(now + lifetimes.leaf, chain.facts(ca).validity.not_after)
