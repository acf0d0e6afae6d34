"""The demo's second half: two pods as an injected manifest makes them, with real rules and real Envoys between them.

Each is a network namespace of this machine; the laboratory of tests/dataplane plays the kubelet.
"""

import http.client
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import needs
from tests.dataplane.lab import Lab, Pod, application, asks, lab, manifest

REQUESTS, PORT, METRICS = 20, 8080, 15090
SHOWN = {
    "web": ("envoy_http_downstream_rq_completed{", "outbound"),
    "orders": ("envoy_http_downstream_rq_completed{", "inbound"),
}


def main() -> int:
    try:
        with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as node:
            tell(node)
    except needs.MISSING as missing:
        print(f"\nLeft out: two pods that talk through their sidecars; that {missing}")
    return 0


def tell(node: Lab) -> None:
    title("7. Two such pods, each a network namespace: init container, Envoy and application as the manifest says")
    web, orders = (started(node, name) for name in SHOWN)
    title(f"8. {REQUESTS} requests from web's application to orders")
    began = time.perf_counter()
    answers = [web.call(lambda: get(orders.address["ipv4"], PORT)) for _ in range(REQUESTS)]
    took = 1000 * (time.perf_counter() - began) / REQUESTS
    good = sum(status == 200 for status, _ in answers)
    print(f"GET http://{orders.address['ipv4']}:{PORT}/ -> {good} times 200, {took:.1f} ms each, a connection for each")
    for pod, name in ((web, "web"), (orders, "orders")):
        print(f"  {name}, http://{pod.address['ipv4']}:{METRICS}/stats/prometheus:")
        for line in counted(pod, *SHOWN[name]):
            print(f"    {line}")
    print("  (what is more than that in orders are its readiness probes)")
    title("9. The application of orders ends; its sidecar answers for it, and web's passes that on")
    orders.container("app").kill()
    status, _ = web.call(lambda: get(orders.address["ipv4"], PORT))
    print(f"GET http://{orders.address['ipv4']}:{PORT}/ -> {status}")


def started(node: Lab, name: str) -> Pod:
    began = time.perf_counter()
    pod = node.pod(manifest(name, application("echo.py", str(PORT), readinessProbe=asks(PORT))))
    took = time.perf_counter() - began
    at = {(container, what): when for when, container, what in pod.kubelet.events}
    ready = 1000 * (at["envoy-sidecar", "up"] - at["envoy-sidecar", "started"])
    print(
        f"{name}, {pod.address['ipv4']}: ready after {took:.1f} s, its Envoy after {ready:.0f} ms. Its init container:"
    )
    print(f"  {pod.log('envoy-sidecar-init').strip()}")
    return pod


def get(address: str, port: int, path: str = "/") -> tuple[int, str]:
    """Status and body."""
    with closing(http.client.HTTPConnection(address, port, timeout=10)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, response.read().decode()


def counted(pod: Pod, metric: str, manager: str) -> Iterator[str]:
    """The lines of the pod's metrics page that say what went through its sidecar."""
    _, page = pod.call(lambda: get("127.0.0.1", METRICS, "/stats/prometheus"))
    return (line for line in page.splitlines() if line.startswith(metric) and f'="{manager}"' in line)


def title(line: str) -> None:
    print("\n" + (f"\x1b[1m== {line}\x1b[0m" if sys.stdout.isatty() else f"== {line}"))


if __name__ == "__main__":
    sys.exit(main())
