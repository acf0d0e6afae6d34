"""Connections that are open stay open, whatever becomes of Services that are not theirs."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controlplane.extensions import Json
from tests.apiserver.processes import eventually
from tests.build import pod
from tests.cluster import node, service, slice_of
from tests.dataplane.lab import Document, Lab, Pod, application, lab, manifest
from tests.dataplane.told import ControlPlane, admin, told, until_told
from tests.dataplane.wire import dial

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

# Says what it hears, over an upgraded connection or over plain TCP.
ECHO = """
import socket, threading
def serve(c):
    while (heard := c.recv(1000)):
        c.sendall(b'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n'
                  if heard.startswith(b'GET ') else heard)
s = socket.create_server(('0.0.0.0', 8080))
while True: threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""
UPGRADE = b"GET / HTTP/1.1\r\nHost: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
TCP: Json = {"port": 5432, "name": "tcp"}


def echo(name: str) -> Document:
    return {"name": "app", "image": "registry.example/app:1", "command": [sys.executable, "-c", ECHO, name]}


@dataclass(frozen=True, slots=True)
class Caller:
    """A pod that is told of the Services `chat`, of HTTP, and `database`, of TCP."""

    pod: Pod
    plane: ControlPlane
    replica: Pod
    _moments: Iterator[int] = field(default_factory=lambda: count(1))

    def told_of(self, *others: Json, **database: Any) -> None:
        """Waits until that is in effect: Envoy has changed, and closed what it had to close for that. `database` is
        what that Service says of itself.
        """
        address = f"10.96.1.{next(self._moments)}"
        self.plane.say(
            node("node-1", "eu-1a"),
            service("chat", clusterIP="10.96.0.8"),
            slice_of("chat", [self.replica.address["ipv4"]]),
            service("database", ports=[TCP], clusterIP="10.96.0.7", **database),
            slice_of("database", [self.replica.address["ipv4"]], ports=[{"port": 8080, "name": "tcp"}]),
            service("moment", ports=[{"port": 9999, "name": "tcp"}], clusterIP=address),
            *others,
        )
        eventually(lambda: address in self._active_listeners(), "the proxy is told of this moment", seconds=30)
        eventually(lambda: not self._counted("draining"), "nothing is being closed", seconds=30)

    def _active_listeners(self) -> str:
        """All come in one response."""
        found = json.loads(admin(self.pod, "/config_dump?resource=dynamic_listeners") or "{}").get("configs", [])
        return json.dumps([one.get("active_state") for one in found])

    def _counted(self, name: str) -> int:
        lines = admin(self.pod, f"/stats?filter=^listener_manager.*{name}").splitlines()
        assert lines
        return sum(int(line.split(": ")[1]) for line in lines)

    def open(self, address: str, port: int, first: bytes, until: bytes) -> socket.socket:
        connection = dial(self.pod, address, port)
        connection.settimeout(10)
        connection.sendall(first)
        heard = b""
        while not heard.endswith(until):
            heard += connection.recv(1000)
        return connection


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    folder = tmp_path_factory.mktemp("connections")
    with lab(folder / "lab") as made:
        yield from _caller(made, folder)


def _caller(made: Lab, folder: Path) -> Iterator[Caller]:
    replica = made.pod(manifest("echo", echo("echo")), inject=False)
    web = manifest("web", application("echo.py", "8080"), annotations={"drain-seconds": "1"})
    created, plane = told(made, web, folder)
    created.kubelet.start()
    created.kubelet.wait_until_ready()
    found = Caller(created, plane, replica)
    plane.say()
    with plane.serving():
        found.plane.say(service("chat", clusterIP="10.96.0.8"))
        until_told(created, "out_80")
        yield found


def other(*ports: int | Json, **spec: Any) -> Json:
    return service("other", ports=ports or [80, 5432], clusterIP="10.96.0.9", **spec)


OTHERS: dict[str, list[Json]] = {
    "is called in the caller's zone first": [other(trafficDistribution="PreferSameZone")],
    "is called on the caller's node only": [other(internalTrafficPolicy="Local")],
    "has a port of theirs, of any protocol": [other(80, 5432)],
    "has a port of theirs, of TCP": [other(TCP, {"port": 80, "name": "tcp"})],
    "has both families": [other(clusterIPs=["10.96.0.9", "fd96::9"])],
}


@pytest.mark.parametrize("what", OTHERS.values(), ids=OTHERS)
def test_a_service_that_comes_and_goes_ends_no_connection_of_anothers(caller: Caller, what: list[Json]) -> None:
    caller.told_of()
    with connections(caller) as opened:
        for world in (what, []):
            caller.told_of(*world)
            assert answers(opened) == [ASKED] * 2


def test_the_last_service_of_a_port_ends_no_connection_that_only_passed_through_that_port(caller: Caller) -> None:
    caller.told_of(other(8080))
    with passing(caller) as opened:
        for world in ([], [other({"port": 8080, "name": "tcp"})], [other(8080)], []):
            caller.told_of(*world)
            assert answers(opened) == [ASKED] * 2


def test_a_pod_that_declares_its_upstreams_keeps_its_connections(caller: Caller) -> None:
    caller.told_of(other())
    with connections(caller) as opened:
        declares = pod({"upstreams": "chat,database,moment"})
        declares["metadata"]["name"] = "web"
        caller.told_of(other(), declares)
        assert answers(opened) == [ASKED] * 2
    caller.told_of()


OWN = [{"sessionAffinity": "ClientIP"}, {"trafficDistribution": "PreferSameZone"}, {"internalTrafficPolicy": "Local"}]


@pytest.mark.parametrize("says", OWN, ids=lambda says: "-".join(*says.items()))
def test_what_a_service_says_anew_of_its_traffic_ends_no_connection_of_its_own(
    caller: Caller, says: dict[str, str]
) -> None:
    caller.told_of()
    with connections(caller) as opened:
        for database in (says, {}):
            caller.told_of(**database)
            assert answers(opened) == [ASKED] * 2


@contextmanager
def connections(caller: Caller) -> Iterator[list[socket.socket]]:
    """One to each of its Services."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(caller.open("10.96.0.7", 5432, b"x", b"x")),
            stack.enter_context(caller.open("10.96.0.8", 80, UPGRADE, b"\r\n\r\n")),
        ]


@contextmanager
def passing(caller: Caller) -> Iterator[list[socket.socket]]:
    """Two to an address that is no Service's, at port 8080."""
    address = caller.replica.address["ipv4"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(caller.open(address, 8080, b"x", b"x")),
            stack.enter_context(caller.open(address, 8080, UPGRADE, b"\r\n\r\n")),
        ]


ASKED = b"still there?"


def answers(opened: list[socket.socket]) -> list[bytes]:
    for connection in opened:
        connection.sendall(ASKED)
    return [connection.recv(1000) for connection in opened]
