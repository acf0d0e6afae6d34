"""The watch of the API server over a network that swallows what is sent: a node without power, a NAT that forgot us."""

from collections.abc import Iterator
from time import monotonic

import pytest

from controlplane import apiserver, kube
from controlplane.apiserver import KubeError
from controlplane.kube import Collection, Kube
from tests.dataplane import network
from tests.dataplane.netns import NetNs, namespace
from tests.faulty import Faulty, event, page, serving

pytestmark = pytest.mark.dataplane

SERVICES = Collection("/api/v1/services")


@pytest.fixture
def somewhere() -> Iterator[NetNs]:
    network.require()
    with namespace() as made:
        yield made


def test_a_connection_on_which_nobody_answers_any_more_is_given_up_soon(
    somewhere: NetNs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TCP's own questions, long before the watch would be over. With a shorter time between them than we have."""
    monkeypatch.setattr(apiserver, "KEEPALIVE", {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3})

    def told() -> Iterator[object]:
        yield event("ADDED", "6", {"metadata": {"name": "one"}})
        yield from faulty.quiet()

    def watch() -> tuple[float, str]:
        with serving(faulty) as plain:
            configuration = plain.api.configuration
            configuration.socket_options = apiserver.socket_options()
            events = Kube(type(plain.api)(configuration)).events(SERVICES, "5")
            next(events)
            port = configuration.host.rpartition(":")[2]
            somewhere.run(*f"iptables-nft -A INPUT -i lo -p tcp --sport {port} -j DROP".split())
            begun = monotonic()
            with pytest.raises(KubeError) as failed:
                next(events)
            return monotonic() - begun, failed.value.reason

    faulty = Faulty(lambda _: page([]), lambda _: told())
    seconds, reason = somewhere.call(watch)
    assert reason == "unreachable"
    assert 3 <= seconds < 10
    assert kube.WATCH_SECONDS > 10
