"""What passes a sidecar by although it is a Service: Envoy counts by address; which Service that is, is said here.

Bounded by what the cluster has and a pod calls: no name comes from a request.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from controlplane.clusters import PASSTHROUGH
from controlplane.xds.mesh import Key, Mesh, Port, Service
from controlplane.xds.policy import DEFAULT

INFO = "envoy_sidecar_controlplane_service_info"
ADDRESS = "envoy_endpoint_address"  # the label by which Envoy calls an address: what is said of it is joined on that
PROBLEMS = "envoy_sidecar_controlplane_service_problems"
BUDGET = "envoy_sidecar_controlplane_service_retry_budget_ratio"


@dataclass(frozen=True, slots=True)
class Called:
    """What a pod calls: how often, by the address where it passed through, and by the Service that it was told of."""

    passed: dict[str, int]
    told: dict[Key, int]


def addresses(mesh: Mesh) -> Iterator[tuple[str, Service, Port]]:
    """Every address of a Service that kube-proxy balances, as Envoy writes it: 10.96.0.1:80, [fd96::1]:80."""
    for service in mesh.all_services():
        for ip in service.addresses if service.form == "balanced" else ():
            for port in service.ports:
                yield f"[{ip}]:{port.number}" if ":" in ip else f"{ip}:{port.number}", service, port


def page(mesh: Mesh) -> bytes:
    """The names of all addresses, for Prometheus, the budgets that are not the default, and whose annotations or ports
    are wrong; it seldom changes.
    """
    names = (f'{INFO}{{{ADDRESS}="{address}",{_labels(service)}}} 1\n' for address, service, _ in addresses(mesh))
    budgets = (
        f"{BUDGET}{{{_labels(service)}}} {service.policy.retry_budget / 100:g}\n"
        for service in mesh.all_services()
        if service.policy.retry_budget != DEFAULT.retry_budget
    )
    problems = (
        f"{PROBLEMS}{{{_labels(service)}}} {len(service.problems)}\n"
        for service in mesh.all_services()
        if service.problems
    )
    return "".join(
        [
            f"# HELP {INFO} Which Service has an address.\n# TYPE {INFO} gauge\n",
            *names,
            f"# HELP {BUDGET} Its retry-budget, if it is another than the default.\n# TYPE {BUDGET} gauge\n",
            *budgets,
            f"# HELP {PROBLEMS} How much is wrong with it, if anything: see its Events.\n# TYPE {PROBLEMS} gauge\n",
            *problems,
        ]
    ).encode()


def _labels(service: Service) -> str:
    return f'destination_namespace="{service.key.namespace}",destination_service="{service.key.name}"'


def read(text: str) -> Called:
    """A sidecar's page /stats/destinations. Raises ValueError if it is none."""
    called = Called({}, {})
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            cluster, count = sample.labels.get("envoy_cluster_name", ""), int(sample.value)
            if cluster == PASSTHROUGH and ADDRESS in sample.labels:
                called.passed[sample.labels[ADDRESS]] = count
            elif (key := _told(cluster)) is not None:
                called.told[key] = called.told.get(key, 0) + count
    return called


def _told(cluster: str) -> Key | None:
    """The Service of a cluster, as statistics call it: shop/orders_80."""
    namespace, slash, rest = cluster.partition("/")
    return Key(namespace, rest.rpartition("_")[0]) if slash and namespace else None
