"""A lab: one node and pods on it, each made from the *injected manifest itself*.

A plain manifest goes through the webhook's own code; then its init container's command runs, its Envoy with its
arguments, its ConfigMap, its probes. So a test proves what would run in a cluster, not a copy of it. Each pod is a
network namespace with a cable to the node, which routes between them, acts as kube-proxy, and leads nowhere else.

    with lab(tmp_path) as lab:
        orders, web = lab.pod(server("orders")), lab.pod(server("web"))
        web.call(lambda: fetch(orders.address["ipv4"], 8080), uid=1000)
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from controlplane.bootstrap import config_map
from tests import envoy, mounted, tokens
from tests.build import DEFAULTS, injected, pod
from tests.dataplane import netns, network
from tests.dataplane.container import CHECKOUT, Sandbox
from tests.dataplane.kubelet import Container, Kubelet
from tests.dataplane.netns import NetNs
from tests.dataplane.network import Family
from webhook.policy import Level
from webhook.settings import Settings

T = TypeVar("T")
Document = dict[str, Any]
NODE: dict[Family, str] = {"ipv4": "10.77.0.254", "ipv6": "fd77::fe"}
# As the kubelet writes it; whoever serves DNS does so on the node.
SEARCH = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")
RESOLV_CONF = f"nameserver {NODE['ipv4']}\nsearch {' '.join(SEARCH)}\noptions ndots:5\n"
APPLICATION = 1000  # the user that applications run as


def application(program: str, *arguments: str, name: str = "app", uid: int = APPLICATION, **fields: Any) -> Document:
    """A container that runs a program of this folder."""
    command = [sys.executable, str(CHECKOUT / "tests" / "dataplane" / program), *arguments]
    return {
        "name": name,
        "image": "registry.example/app:1",
        "command": command,
        "securityContext": {"runAsUser": uid, "runAsGroup": uid},
        **fields,
    }


def asks(port: int | str, path: str = "/") -> Document:
    """A probe that asks the application over HTTP."""
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": 1}


def manifest(name: str, *containers: Document, annotations: dict[str, str] | None = None, **spec: Any) -> Document:
    """A Pod as its author writes it; annotations without a slash get our prefix."""
    made = pod(annotations or {}, labels={"app": name}, containers=[*containers], **spec)
    made["metadata"]["name"] = name
    return made


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that runs: its stored manifest, its addresses, and who starts and stops it."""

    document: Document
    address: Mapping[Family, str]
    net: NetNs
    folder: Path
    kubelet: Kubelet

    def call(self, function: Callable[[], T], *, uid: int = APPLICATION, gid: int | None = None) -> T:
        """What `function` returns in the pod's network, as that user: the application's, unless said otherwise."""
        return self.net.call(function, uid=uid, gid=uid if gid is None else gid)

    def container(self, name: str) -> Container:
        return (self.kubelet.sidecars | self.kubelet.containers)[name]

    def log(self, name: str = "envoy-sidecar") -> str:
        """What a container has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


class Lab:
    """A node; `pod` starts pods on it, which end with it.

    `config_maps` are those of their namespace besides the bootstrap, `hosts` what names stand for, and `issue` makes
    a token from a pod's metadata and an audience: of pods to come.
    """

    def __init__(self, node: NetNs, folder: Path, stack: ExitStack) -> None:
        self.node, self.folder, self._stack = node, folder, stack
        self.config_maps: dict[str, Mapping[str, bytes]] = {}
        self.hosts: dict[str, str] = {}
        self.issue: Callable[[Document, str], bytes] = _token
        self._numbers = count(1)

    def pod(
        self,
        document: Document,
        *,
        inject: bool = True,
        level: Level = "privileged",
        settings: Settings = DEFAULTS,
        ipv6: bool = True,
    ) -> Pod:
        """A pod that is ready; with `inject=False`, without a sidecar; with `ipv6=False`, on a kernel without it."""
        pod = self.create(document, inject=inject, level=level, settings=settings, ipv6=ipv6)
        pod.kubelet.start()
        pod.kubelet.wait_until_ready()
        return pod

    def create(
        self,
        document: Document,
        *,
        inject: bool = True,
        level: Level = "privileged",
        settings: Settings = DEFAULTS,
        primary: Family = "ipv4",
        ipv6: bool = True,
    ) -> Pod:
        """A pod that has its network, and of which nothing runs yet: for tests of how it starts.

        `primary` is the family of status.podIP, where the kubelet asks; without `ipv6`, the kernel has none.
        """
        stored = injected(document, level, settings) if inject else document
        number = next(self._numbers)
        folder = self.folder / f"{number}-{stored['metadata']['name'][:20]}"
        folder.mkdir(parents=True)
        address: dict[Family, str] = {"ipv4": f"10.77.0.{number}", "ipv6": f"fd77::{number:x}"}
        net = self._stack.enter_context(netns.namespace())
        self._plug(net, f"pod{number}", address)
        volumes = self._volumes(stored, folder, settings)
        (folder / "etc").mkdir()
        (folder / "etc" / "hosts").write_text(_hosts(stored["spec"], self.hosts))
        (folder / "etc" / "resolv.conf").write_text(RESOLV_CONF)
        sandbox = Sandbox(net, folder, volumes, _facts(stored, address[primary]), _images(settings), ipv6)
        kubelet = Kubelet(stored["spec"], sandbox, self.node)
        self._stack.callback(kubelet.kill)
        return Pod(stored, address, net, folder, kubelet)

    def _plug(self, net: NetNs, device: str, address: Mapping[Family, str]) -> None:
        """Lays a cable from the pod to the node, over which everything goes, other pods too."""
        net.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", device, "netns", str(self.node.holder))
        for family, own in address.items():
            _connect(self.node, device, family, NODE[family], own)
            _connect(net, "eth0", family, own, NODE[family])
            net.run("ip", _FLAG[family], "route", "add", "default", "via", NODE[family])

    def _volumes(self, stored: Document, folder: Path, settings: Settings) -> dict[str, Path]:
        """A folder for each volume; the bootstrap is the one that the control plane would have published."""
        bootstrap = config_map(settings.bootstrap, stored["metadata"]["namespace"])
        texts = {name: text.encode() for name, text in bootstrap["data"].items()}
        known = {bootstrap["metadata"]["name"]: texts, **self.config_maps}
        made = {}
        for volume in stored["spec"].get("volumes", []):
            place = made[volume["name"]] = folder / "volumes" / volume["name"]
            place.mkdir(parents=True)
            match volume:
                case {"emptyDir": _}:
                    place.chmod(0o777)
                case {"configMap": {"name": name, **how}} if name in known or how.get("optional"):
                    mounted.write(place, known.get(name, {}))
                case {"projected": {"sources": [{"serviceAccountToken": {"audience": audience, "path": path}}]}}:
                    mounted.write(place, {path: self.issue(stored["metadata"], audience)})
                case _:
                    raise NotImplementedError(f"the lab has no such volume: {volume}")
        return made


_FLAG: dict[Family, str] = {"ipv4": "-4", "ipv6": "-6"}


def _connect(net: NetNs, device: str, family: Family, own: str, other: str) -> None:
    """Gives the end of a cable its address, and the way to the other end's."""
    whole = [f"{own}/32"] if family == "ipv4" else [f"{own}/128", "nodad"]
    net.run("ip", "address", "add", *whole, "dev", device)
    net.run("ip", "link", "set", device, "up")
    net.run("ip", _FLAG[family], "route", "add", other, "dev", device)


def _token(metadata: Document, audience: str) -> bytes:
    return tokens.token(f"{metadata['namespace']}/{metadata['name']}", audience).encode()


def _hosts(spec: Document, known: Mapping[str, str]) -> str:
    """The kubelet's /etc/hosts: how pods in a lab know each other by name, where no test serves DNS."""
    aliases = [f"{alias['ip']} {' '.join(alias['hostnames'])}" for alias in spec.get("hostAliases", [])]
    others = [f"{address} {name}" for name, address in known.items()]
    return "\n".join(["127.0.0.1 localhost", "::1 localhost", *aliases, *others, ""])


def _facts(stored: Document, address: str) -> dict[str, str]:
    return {
        "metadata.name": stored["metadata"]["name"],
        "metadata.namespace": stored["metadata"]["namespace"],
        "status.podIP": address,
        "spec.nodeName": stored["spec"].get("nodeName", "node-1"),
        "spec.serviceAccountName": stored["spec"].get("serviceAccountName", "default"),
    }


def _images(settings: Settings) -> dict[str, Sequence[str]]:
    """The entrypoints of our images; an application's container names its command."""
    return {
        settings.sidecar.image: [str(envoy.binary())],
        settings.init.image: [str(CHECKOUT / "webhook" / "redirect.sh")],
    }


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A node without pods; `folder` gets what they print. Ends the test where the machine does not allow it."""
    network.require()
    envoy.binary()
    with ExitStack() as stack:
        node = stack.enter_context(netns.namespace())
        for switch in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            node.run("sysctl", "-qw", f"{switch}=1")
        for address in NODE.values():  # each cable has it as well; this is for who listens before there is one
            node.run("ip", "address", "add", address, "dev", "lo")
        yield Lab(node, folder, stack)
