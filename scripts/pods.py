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
CLUSTER = 'envoy_cluster_name="shop/orders'
BALANCING = {"round-robin": "round_robin", "latency": "client_side_weighted_round_robin"}  # in Envoy's words


def main() -> int:
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
        report(web, "upstream_rq_completed")

        title("9. Three answers 503 from now on; what may be repeated is, elsewhere, and three is left alone")
        behave(replicas[2], status=503)
        report(web, "upstream_rq_retry", "upstream_rq_retry_success", "outlier_detection_ejections_active")

        title("10. Three is mended. Two takes 60 ms for an answer, the others 2")
        for pod, milliseconds in zip(replicas, (2, 60, 2), strict=True):
            behave(pod, milliseconds=milliseconds)
        for how in BALANCING:
            plane.say(*orders(replicas, load_balancing=how))
            balanced(web, how)
            print(f"load-balancing: {how}")
            report(web)

        title("11. The control plane is killed")
        process.kill()
        process.wait()
        report(web)

    title("12. It is back, and of orders only one and two are left")
    plane.say(*orders(replicas[:2]))
    with plane.serving():
        eventually(lambda: replicas[2].address["ipv4"] not in admin(web, "/clusters"), "web is told")
        report(web)


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
    """What web's application gets for some requests, and what its sidecar's metrics say then."""
    answered = load(web, threads=3, each=40)  # as many retries at once as the budget always allows
    statuses = sorted(Counter(answer.status for answer in answered).items())
    print("GET http://orders/ ->", ", ".join(f"{number} times {status}" for status, number in statuses))
    split = ", ".join(f"{shares(answered)[name]} of {name}" for name in sorted(REPLICAS))
    print(f"  {split}; {mean_milliseconds(answered):.1f} ms in the mean")
    _, page = web.call(lambda: ask("127.0.0.1", METRICS, "/stats/prometheus"))
    for name in metrics:
        start = f"envoy_cluster_{name}{{{CLUSTER}"
        print(*(f"  {line}" for line in page.splitlines() if line.startswith(start)), sep="\n")


def shares(answered: Sequence[Answer]) -> Counter[str]:
    return Counter(answer.body for answer in answered if answer.status == 200)


def title(line: str) -> None:
    print("\n" + (f"\x1b[1m== {line}\x1b[0m" if sys.stdout.isatty() else f"== {line}"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
