"""The demo: plays the API server before a real webhook process, and prints each exchange as it was."""

import base64
import difflib
import http.client
import json
import signal
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
WIDTH = 110  # columns
SETTINGS = EXAMPLES.parents[1] / "manifests" / "base" / "settings.yaml"
HERE = "server: {address: 127.0.0.1, shutdownGraceSeconds: 0}\n"  # here are no endpoints to wait for
SHOWN_METRICS = ("admissions_total", "duration_seconds_count", "duration_seconds_sum", "expiry", "_info")
Json = dict[str, Any]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, webhook(Path(folder)) as server:
        title("1. A pod of the Deployment in docs/examples/web.yaml is created")
        pod = pod_of(EXAMPLES / "web.yaml")
        stored = show_injection(server, pod)
        title("2. The same pod comes back, as after another webhook: nothing left to do")
        describe(server.admit(stored))
        title("3. A pod on the host's network (docs/examples/host-network.yaml): skipped, and told why")
        describe(server.admit(pod_of(EXAMPLES / "host-network.yaml")))
        title("4. A pod with misspelt annotations (docs/examples/misspelt.yaml): rejected, and told what is right")
        describe(server.admit(pod_of(EXAMPLES / "misspelt.yaml")))
        title(f"5. http://127.0.0.1:{server.metrics_port}/metrics (of {server.metrics().count(chr(10))} lines)")
        for line in server.metrics().splitlines():
            if not line.startswith("#") and any(part in line for part in SHOWN_METRICS):
                print(f"  {line}")


# The server's side


@dataclass(frozen=True, slots=True)
class Webhook:
    """A running webhook, asked over HTTPS as the API server asks."""

    connection: http.client.HTTPSConnection
    metrics_port: int

    def admit(self, pod: Json) -> Json:
        """The `response` of the review for the creation of `pod`; prints the exchange."""
        body = json.dumps(review(pod)).encode()
        began = time.perf_counter()
        self.connection.request("POST", "/inject", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        took = 1000 * (time.perf_counter() - began)
        print(f"POST /inject ({len(body)} bytes) -> {answer.status} in {took:.1f} ms")
        response: Json = json.loads(content)["response"]
        return response

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as page:
            text: str = page.read().decode()
        return text


@contextmanager
def webhook(folder: Path) -> Iterator[Webhook]:
    """Makes certificates, starts `python -m webhook serve`, and stops it as the kubelet would."""
    (folder / "settings.yaml").write_text(SETTINGS.read_text() + HERE)
    module, tls = [sys.executable, "-m"], folder / "tls"
    subprocess.run([*module, "certs", "dev", str(tls)], check=True, stdout=subprocess.DEVNULL)
    began = time.perf_counter()
    command = [*module, "webhook", "serve", "--settings", str(folder / "settings.yaml"), "--tls-dir", str(tls)]
    process = subprocess.Popen([*command, "--port", "0", "--metrics-port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        first = process.stdout.readline()
        serving = json.loads(first)
        took = 1000 * (time.perf_counter() - began)
        print(f"The webhook serves {took:.0f} ms after its start; HTTPS port {serving['port']}.")
        trust = ssl.create_default_context(cafile=tls / "ca.crt")
        connection = http.client.HTTPSConnection("127.0.0.1", serving["port"], timeout=10, context=trust)
        connection.connect()
        yield Webhook(connection, serving["metrics_port"])
        connection.close()
        title("6. SIGTERM")
        began = time.perf_counter()
    finally:
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=30)
    print(f"Exit code {process.returncode} after {time.perf_counter() - began:.2f} s. What the webhook logged:\n")
    print(textwrap.indent(first + log, "  "), end="")


# What an API server knows


def pod_of(file: Path) -> Json:
    """The pod of the first workload in `file`, as its controller would create it."""
    workload: Json = next(yaml.safe_load_all(file.read_text()))
    if workload["kind"] == "Pod":
        return workload
    template, name = workload["spec"]["template"], workload["metadata"]["name"]
    metadata = {"generateName": f"{name}-", "namespace": workload["metadata"]["namespace"], **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def review(pod: Json) -> Json:
    """The AdmissionReview for the creation of `pod`."""
    request = {
        "uid": str(uuid.uuid4()),
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": pod["metadata"]["namespace"],
        "operation": "CREATE",
        "userInfo": {"username": "demo"},
        "object": pod,
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


# What a person sees


def show_injection(server: Webhook, pod: Json) -> Json:
    """Prints what the webhook changes in `pod`; the pod that the API server would store."""
    response = server.admit(pod)
    describe(response)
    patch = json.loads(base64.b64decode(response["patch"]))
    print(textwrap.fill("Operations: " + ", ".join(f"{op['op']} {op['path']}" for op in patch), WIDTH), end="\n\n")
    stored: Json = jsonpatch.apply_patch(pod, patch)
    for line in list(difflib.unified_diff(text(pod), text(stored), n=100, lineterm=""))[3:]:
        print(colour({"+": 32, "-": 31}.get(line[0], 0), line))
    print("\nShortened values are whole in: .venv/bin/python -m webhook inject -f docs/examples/web.yaml \\")
    print("  --settings manifests/base/settings.yaml")
    return stored


def describe(response: Json) -> None:
    """Prints what a response says to people, and whether it holds a patch."""
    patch = base64.b64decode(response.get("patch", ""))
    print(f"allowed: {str(response['allowed']).lower()}; patch: {f'{len(patch)} bytes' if patch else 'none'}")
    if status := response.get("status"):
        print(textwrap.indent(f"message: {status['message']}", "  "))
    for warning in response.get("warnings", []):
        print(f"  warning: {warning}")


def text(pod: Json) -> list[str]:
    return yaml.safe_dump(shortened(pod), sort_keys=False, default_flow_style=None, width=WIDTH).splitlines()


def shortened(value: Any) -> Any:
    """`value` with what would not fit on a line cut, and marked as cut."""
    match value:
        case dict():
            return {key: shortened(item) for key, item in value.items()}
        case list():
            return [shortened(item) for item in value]
        case str() if len(value) > 80:
            return f"{value[:50].splitlines()[0]} ... ({len(value)} characters)"
    return value


def title(line: str) -> None:
    print("\n" + colour(1, f"== {line}"))


def colour(code: int, line: str) -> str:
    return f"\x1b[{code}m{line}\x1b[0m" if code and sys.stdout.isatty() else line


if __name__ == "__main__":
    main()
