"""Two network namespaces joined by a cable: a pod, and a peer that is any other host. Nothing leads out of them.

A namespace lives as long as the process that holds it, so a killed test session leaves nothing behind.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests import needs
from tests.apiserver.processes import eventually, running
from webhook.redirect import Redirection, render

CHECKOUT = Path(__file__).parents[2]
SCRIPT = CHECKOUT / "webhook" / "redirect.sh"
# The interpreter of this session may live where other users cannot read.
PYTHON = "/usr/bin/python3"
PROGRAMS = {"ip": "iproute2", "nsenter": "util-linux", "setpriv": "util-linux", "iptables-nft": "iptables"}
PROGRAMS["iptables-legacy"] = "iptables"

Family = Literal["ipv4", "ipv6"]
Backend = Literal["nft", "legacy"]
POD: dict[Family, str] = {"ipv4": "10.77.0.1", "ipv6": "fd77::1"}
PEER: dict[Family, str] = {"ipv4": "10.77.0.2", "ipv6": "fd77::2"}
PEER_ELSEWHERE: dict[Family, str] = {"ipv4": "10.78.0.2", "ipv6": "fd78::2"}
LOOPBACK: dict[Family, str] = {"ipv4": "127.0.0.1", "ipv6": "::1"}


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, by the process that holds it, and a folder that stands in for /run in it."""

    holder: int
    folder: Path

    def wrap(self, *command: str, uid: int = 0, gid: int = 0) -> list[str]:
        """The command that runs `command` inside, as that user and group."""
        inside = ["nsenter", f"--net=/proc/{self.holder}/ns/net", "unshare", "--mount", "sh", "-c"]
        drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return [*inside, f'mount --bind "{self.folder}" /run && exec "$@"', "sh", *drop, *command]

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside to its end."""
        environment = {**os.environ, **(env or {})}
        return subprocess.run(self.wrap(*command), env=environment, check=check, text=True, capture_output=True)

    def redirect(
        self, wanted: Redirection, backend: Backend, *arguments: str, shell: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Runs the init container's script inside, with the rules for `wanted`."""
        rules = render(wanted)
        env = {
            "ENVOY_SIDECAR_MODE": wanted.mode,
            "IPTABLES_RULES_IPV4": rules.ipv4,
            "IPTABLES_RULES_IPV6": rules.ipv6,
            "IPTABLES_BACKEND": backend,
        }
        return self.run(*shell, str(SCRIPT), *arguments, env=env, check=False)

    def rules(self, backend: Backend) -> list[str]:
        """Every rule of both families, as `iptables-save` prints them, without counters."""
        saved = [self.run(f"{program}-{backend}-save").stdout for program in ("iptables", "ip6tables")]
        return [line for line in "".join(saved).splitlines() if line.startswith("-A")]


@dataclass(frozen=True, slots=True)
class Network:
    """The two ends of the cable."""

    pod: Namespace
    peer: Namespace


def require() -> None:
    """Ends the test on a machine that cannot make namespaces or lacks a program."""
    if not sys.platform.startswith("linux"):
        needs.missing("Linux", "run this tier in a Linux virtual machine")
    needs.root("run as root, in a container or virtual machine of its own")
    for program, package in PROGRAMS.items():
        needs.binary(program, f"apt-get install {package}")
    needs.binary(PYTHON, "apt-get install python3")


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A pod and its peer, with addresses of both families; `folder` gets what their programs print."""
    require()
    with ExitStack() as stack:
        pod = stack.enter_context(_namespace(folder / "pod"))
        peer = stack.enter_context(_namespace(folder / "peer"))
        pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(peer.holder))
        for namespace, addresses in ((pod, [POD]), (peer, [PEER, PEER_ELSEWHERE])):
            _configure(namespace, addresses)
        for prefix in ("10.78.0.0/24", "fd78::/64"):
            pod.run("ip", "route", "add", prefix, "dev", "eth0")
        yield Network(pod, peer)


@contextmanager
def _namespace(folder: Path) -> Iterator[Namespace]:
    (folder / "envoy-sidecar").mkdir(parents=True)
    (folder / "envoy-sidecar").chmod(0o777)
    with running(["unshare", "--net", "sleep", "infinity"], folder / "holder.log") as holder:
        ours = Path("/proc/self/ns/net").readlink()
        theirs = Path(f"/proc/{holder.pid}/ns/net")
        eventually(lambda: theirs.readlink() != ours, "a new network namespace")
        yield Namespace(holder.pid, folder)


def _configure(namespace: Namespace, addresses: Sequence[Mapping[Family, str]]) -> None:
    for device in ("lo", "eth0"):
        namespace.run("ip", "link", "set", device, "up")
    for pair in addresses:
        namespace.run("ip", "address", "add", f"{pair['ipv4']}/24", "dev", "eth0")
        namespace.run("ip", "address", "add", f"{pair['ipv6']}/64", "dev", "eth0", "nodad")
