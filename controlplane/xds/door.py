"""Who waits to be let in, and what each pod may still ask for: so that one pod never takes the place of others."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from controlplane.xds.allowance import Allowance, Allowances
from controlplane.xds.identity import Identity
from controlplane.xds.session import PODS, Ended, allowances

STREAMS_PER_POD = 3
# That have ended here, while the proxy takes nothing of what lies before their status. gRPC has no means to end these
# but the end of the connection: until then they take its memory, and one of its calls. A pod with so many in that time
# gets no more.
BLOCKED_PER_POD, BLOCKED_SECONDS = 5, 300.0
COMPLAINTS, COMPLAINTS_A_SECOND = 20.0, 1 / 60  # of a pod's rejections, so many are logged

Pod = tuple[str, str]


class Door:
    """One server's. A pod's stream that says nothing would hold one of the places that all share."""

    def __init__(self) -> None:
        self._blocked: OrderedDict[Pod, list[float]] = OrderedDict()  # until when
        self._waiting: Counter[Pod] = Counter()
        self._allowances = allowances()
        self._complaints = Allowances(COMPLAINTS_A_SECOND, COMPLAINTS, PODS)

    @contextmanager
    def waiting(self, identity: Identity | None, now: float) -> Iterator[None]:
        """While it has said nothing yet. Raises Ended for one too many of its pod."""
        pod = pod_of(identity) if identity else ("", "")
        if identity and self._waiting[pod] >= STREAMS_PER_POD:
            raise Ended("replaced", "too many streams of one pod that say nothing")
        if sum(until > now for until in self._blocked.get(pod, ())) >= BLOCKED_PER_POD:
            raise Ended("replaced", "too many streams of one pod that took nothing of what they were told")
        self._waiting[pod] += 1
        try:
            yield
        finally:
            self._waiting[pod] -= 1
            if not self._waiting[pod]:
                del self._waiting[pod]

    def block(self, identity: Identity, now: float) -> None:
        """One ended here, and not for gRPC."""
        pod = pod_of(identity)
        self._blocked[pod] = [*self._blocked.get(pod, ()), now + BLOCKED_SECONDS][-BLOCKED_PER_POD:]
        self._blocked.move_to_end(pod)
        if len(self._blocked) > PODS:
            self._blocked.popitem(last=False)

    def allowance(self, identity: Identity, now: float) -> Allowance:
        """What the pod may ask for, by all its streams together."""
        return self._allowances.of(pod_of(identity), now)

    def may_complain(self, identity: Identity, now: float) -> bool:
        """Whether what it rejects is worth another line of the log."""
        complaints = self._complaints.of(pod_of(identity), now)
        if complaints.take(1, now) >= 0:
            return True
        complaints.give_back(1)
        return False


def pod_of(identity: Identity) -> Pod:
    """By which it is counted."""
    return identity.namespace, identity.pod
