"""Our manifests in the cluster, and the moment at which the API server acts on them.

What was applied takes a moment to reach admission; every wait here asks with a server-side dry run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.apiserver.cluster import Cluster, Object, Result
from tests.apiserver.injector import Injector, injecting, manifests, pointed, settings
from tests.apiserver.objects import (
    OPT_OUT,
    SIDECAR,
    binding,
    config_map,
    deployment,
    init_names,
    namespace,
    pod,
    service_account,
)
from tests.apiserver.processes import eventually, free_port

PROBE = "probe"
DEVELOPER = "developer"
GUARD_OF_CONFIG_MAPS = "ValidatingAdmissionPolicy 'envoy-sidecar-config-maps'"
BOOTSTRAP = "envoy-sidecar-bootstrap-0123456789"

# Somebody who may do everything with the ConfigMaps of every namespace, and nothing else.
# (Kubernetes' own ClusterRole `admin` is empty until the controller-manager has filled it.)
DEVELOPER_RIGHTS: list[Object] = [
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "config-maps"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}],
    },
    binding("config-maps", DEVELOPER),
]


@dataclass(frozen=True, slots=True)
class Installation:
    """A cluster with our manifests in it, and our processes beside it."""

    cluster: Cluster
    webhook: Injector
    directory: Path

    def install(self) -> None:
        """Applies `manifests/base` and waits until it acts; also a namespace to ask in, and a developer."""
        probe = [namespace(PROBE), service_account(PROBE), *DEVELOPER_RIGHTS]
        self.cluster.kubectl("apply", "-f", "-", stdin=probe)
        self.apply(self.manifests(), self.webhook)
        self.settle()

    @contextmanager
    def overlay(self, *components: str, down: bool = False) -> Iterator[None]:
        """`manifests/base` with these components, in the place of the base alone; `down`: nobody serves.

        Does not wait until the API server acts on it: what to ask for is the caller's own.
        """
        base, objects = self.manifests(), self.manifests(components)
        inside = self.directory / "-".join(["with", *components])
        processes = nullcontext(self.nobody()) if down else injecting(inside, settings(objects), replicas=1)
        with processes as webhook:
            self.apply(objects, webhook)
            try:
                yield
            finally:
                self.apply(base, self.webhook)
                in_base = [identity(one) for one in base]
                self.remove([one for one in objects if identity(one) not in in_base])
                self.settle()

    def nobody(self) -> Injector:
        """An address where nobody listens."""
        return Injector(free_port(), (), self.webhook.certificate)

    def manifests(self, components: Sequence[str] = ()) -> list[Object]:
        return manifests(self.cluster, self.directory, components)

    def apply(self, objects: Sequence[Object], webhook: Injector) -> None:
        """Applies manifests, calling these processes; does not wait."""
        self.cluster.kubectl("apply", "-f", "-", stdin=pointed(objects, webhook.port, webhook.certificate))

    def remove(self, objects: Sequence[Object]) -> None:
        if objects:
            self.cluster.kubectl("delete", "-f", "-", stdin=objects)

    def settle(self) -> None:
        """Waits until every part of `manifests/base` acts."""
        eventually(self.injects, "pods come out with a sidecar")
        eventually(self.leaves_opted_out_pods, "a pod that opted out is left alone")
        eventually(self.advises, "a Deployment with a bad annotation brings a warning")
        eventually(self.guards_config_maps, "our ConfigMaps are guarded")
        eventually(self.flags_labels, "an odd value of the namespace label brings a warning")

    def ask(self, thing: Object, *arguments: str, within: str = PROBE) -> Result:
        """What the API server would say to a `create`."""
        command = ("create", "-n", within, "--dry-run=server", "-o", "json", "-f", "-", *arguments)
        return self.cluster.kubectl(*command, stdin=thing, check=False)

    def refused(self, thing: Object, within: str = PROBE) -> Result:
        """Waits until `thing` is refused, and returns the refusal."""

        def refusal() -> Result | None:
            answer = self.ask(thing, within=within)
            return answer if answer.code else None

        return eventually(refusal, f"{thing['kind']} {thing['metadata']['name']} is refused")

    def injects(self) -> bool:
        answer = self.ask(pod())
        return answer.code == 0 and SIDECAR in init_names(answer.object)

    def leaves_opted_out_pods(self) -> bool:
        answer = self.ask(pod(labels=OPT_OUT))
        return answer.code == 0 and SIDECAR not in init_names(answer.object)

    def advises(self) -> bool:
        return "log-level" in self.ask(deployment(pod(annotations={"log-level": "banana"}))).warnings

    def guards_config_maps(self) -> bool:
        return GUARD_OF_CONFIG_MAPS in self.ask(config_map(BOOTSTRAP), f"--as={DEVELOPER}").stderr

    def flags_labels(self) -> bool:
        odd = namespace("odd", {"envoy-sidecar.io/inject": "yes"})
        return self.ask(odd).warnings != ""


def identity(thing: Object) -> tuple[str, str, str]:
    """What makes an object the same one in another rendering of the manifests."""
    metadata = thing["metadata"]
    return thing["kind"], metadata.get("namespace", ""), metadata["name"]
