"""The demo's second half: pods as an injected manifest makes them, told of a Service by a control plane, while its
replicas fail one after another.

Each pod is a network namespace of this machine; the laboratory of tests/dataplane plays the kubelet.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import needs
from tests.apiserver.processes import eventually
from tests.dataplane.lab import Lab, Pod, application, asks, lab, manifest
from tests.dataplane.load import Answer, load, mean_milliseconds
from tests.dataplane.told import ControlPlane, admin, ask, control_plane, orders, replica, until_told

REPLICAS = ("one", "two", "three")
METRICS = 15090
OF_ORDERS = '{envoy_cluster_name="shop/orders_80"}'
PASSED_ON = 'envoy_cluster_upstream_rq_total{envoy_cluster_name="inbound"}'
CONNECTED = "envoy_control_plane_connected_state{}"
BALANCING = {"round-robin": "round_robin", "latency": "client_side_weighted_round_robin"}  # in Envoy's words


def main() -> int:
    """Returns 0; raises SystemExit, which says so, at the first call that is not answered."""
    try:
        with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as node:
            tell(node, Path(folder))
    except needs.MISSING as missing:
        print(f"\nLeft out: pods that call each other through their sidecars; that {missing}")
    return 0


def tell(node: Lab, folder: Path) -> None:
    plane = control_plane(node, folder)
    plane.say()
    with plane.serving() as process:
        title("7. Beside a control plane, four such pods: init container, Envoy and application as the manifest says")
        replicas = [started(node, plane, replica(name), name) for name in REPLICAS]
        web = started(node, plane, application("echo.py", "8080", readinessProbe=asks(8080)), "web")

        title("8. One, two and three become the Service orders, and web calls it")
        plane.say(*orders(replicas))
        until_told(web, "out_80")
        report(web, *of_orders("upstream_rq_completed"))

        title("9. Three answers 503 from now on; what may be repeated is, elsewhere, and three is left alone")
        behave(replicas[2], status=503)
        report(web, *of_orders("upstream_rq_retry", "upstream_rq_retry_success", "outlier_detection_ejections_active"))

        title("10. Three is mended. Two takes 60 ms for an answer, the others 2")
        for pod, milliseconds in zip(replicas, (2, 60, 2), strict=True):
            behave(pod, milliseconds=milliseconds)
        for how in BALANCING:
            plane.say(*orders(replicas, load_balancing=how))
            balanced(web, how)
            print(f"load-balancing: {how}")
            before = [metric(pod, PASSED_ON) for pod in replicas]
            report(web)
            more = (metric(pod, PASSED_ON) - former for pod, former in zip(replicas, before, strict=True))
            counted = ", ".join(f"+{number} of {name}" for number, name in zip(more, REPLICAS, strict=True))
            print(f"  their sidecars' {PASSED_ON}: {counted}")

        title("11. The control plane is killed")
        process.kill()
        process.wait()
        report(web, CONNECTED)

    title("12. It is back, and of orders only one and two are left")
    plane.say(*orders(replicas[:2]))
    with plane.serving():
        eventually(lambda: replicas[2].address["ipv4"] not in admin(web, "/clusters"), "web is told")
        report(web, CONNECTED, *of_orders("membership_total"))


def behave(pod: Pod, status: int = 200, milliseconds: float = 0) -> None:
    """The pod's application answers so from now on."""
    pod.call(lambda: ask("127.0.0.1", 8080, f"/behave/{status}/{milliseconds}"))


def balanced(web: Pod, how: str) -> None:
    """Calls orders until that is in effect, and every replica has been weighed."""
    eventually(lambda: BALANCING[how] in admin(web, "/config_dump"), "that is in effect")
    eventually(lambda: len(shares(load(web, threads=4, each=50))) == len(REPLICAS), "all of them answer")
    load(web, threads=4, each=50)


def started(node: Lab, plane: ControlPlane, container: dict[str, object], name: str) -> Pod:
    began = time.perf_counter()
    pod = node.pod(manifest(name, container), settings=plane.settings)
    took = time.perf_counter() - began
    print(f"{name:5} {pod.address['ipv4']}: ready after {took:.1f} s; {pod.log('envoy-sidecar-init').strip()}")
    return pod


def report(web: Pod, *metrics: str) -> None:
    """What web's application gets for some requests, and what its sidecar's metrics say then.

    Raises SystemExit if one of them is not answered.
    """
    answered = load(web, threads=3, each=40)  # as many retries at once as the budget always allows
    statuses = Counter(answer.status for answer in answered)
    print("GET http://orders/ ->", ", ".join(f"{number} times {status}" for status, number in sorted(statuses.items())))
    split = ", ".join(f"{shares(answered)[name]} of {name}" for name in REPLICAS)
    print(f"  {split}; {mean_milliseconds(answered):.1f} ms in the mean")
    for name in metrics:
        print(f"  {name} {metric(web, name)}")
    if failed := statuses.total() - statuses[200]:
        sys.exit(f"{failed} of {statuses.total()} calls were not answered")


def of_orders(*names: str) -> list[str]:
    """These metrics of Envoy's cluster for orders."""
    return [f"envoy_cluster_{name}{OF_ORDERS}" for name in names]


def metric(pod: Pod, name: str) -> int:
    """What the metrics page of its sidecar says; 0 of what has not happened yet."""
    _, page = pod.call(lambda: ask("127.0.0.1", METRICS, "/stats/prometheus"))
    return next((int(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{name} ")), 0)


def shares(answered: Sequence[Answer]) -> Counter[str]:
    return Counter(answer.body for answer in answered if answer.status == 200)


def title(line: str) -> None:
    print("\n" + (f"\x1b[1m== {line}\x1b[0m" if sys.stdout.isatty() else f"== {line}"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
