"""Which problems become Events, when one author has very many."""

import re

import pytest

from controlplane.extensions import Json
from controlplane.kube import KubeError
from controlplane.reporter import OF_A_NAMESPACE, Reporter
from controlplane.xds.mesh import Mesh
from tests.apiserver.processes import eventually
from tests.cluster import mesh, service, slice_of

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Written:
    """What was written, in the place of an API server; the first is refused for a reason, if there is one."""

    def __init__(self, *refusals: KubeError) -> None:
        self.refusals, self.events = list(refusals), list[Json]()

    def write(self, event: Json) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.events.append(event)

    def of(self, namespace: str) -> list[Json]:
        return [event for event in self.events if event["metadata"]["namespace"] == namespace]


def bad(count: int, namespace: str, value: str = "x") -> list[Json]:
    return [service(f"s{number}", namespace, {"retries": value}) for number in range(count)]


def both(evil: int, value: str = "x") -> Mesh:
    return mesh(*bad(evil, "evil", value), *bad(1, "shop"))


def test_one_author_with_thousands_of_problems_keeps_no_other_from_hearing_of_his() -> None:
    written = Written()
    Reporter(written.write).look(both(evil=5000))
    eventually(lambda: written.of("shop"), "the other's is written")
    assert len(written.of("evil")) == OF_A_NAMESPACE


def test_one_author_who_is_wrong_in_a_new_way_all_the_time_is_told_a_few() -> None:
    written = Written()
    reporter = Reporter(written.write)
    for number in range(100):
        reporter.look(both(evil=10, value=f"x{number}"))
    eventually(lambda: written.of("shop"), "the other's is written")
    assert len(written.of("evil")) <= OF_A_NAMESPACE + 1


@pytest.mark.parametrize("reason", ["refused", "missing", "server"])
def test_one_that_the_api_server_refuses_does_not_end_the_others(reason: str) -> None:
    written = Written(KubeError(reason, "namespace is being terminated"))  # type: ignore[arg-type]
    Reporter(written.write).look(both(evil=1))
    eventually(lambda: written.of("shop"), "the other's is written")


@pytest.mark.parametrize("name", ["a" * 199 + "-" * 20 + "a", "a" * 198 + "." + "a-a.a" * 8])
def test_an_events_name_is_one_that_the_api_server_takes(name: str) -> None:
    written = Written()
    raw = slice_of(endpoints=["127.0.0.1"])
    raw["metadata"]["name"] = name
    Reporter(written.write).look(mesh(service(), raw))
    (event,) = eventually(lambda: written.events, "it is written")
    assert SUBDOMAIN.fullmatch(event["metadata"]["name"])
    assert len(event["metadata"]["name"]) <= 253
