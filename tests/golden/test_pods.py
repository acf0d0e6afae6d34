"""What the API server stores for each kind of pod: the patched pod, whole, for a person to read and compare."""

from typing import Any

import pytest
import yaml

from tests import build
from tests.build import Document
from tests.goldens import check_golden
from webhook.policy import Level
from webhook.settings import Settings

APP = build.container(
    "app",
    ports=[{"name": "http", "containerPort": 8080}],
    resources={"requests": {"cpu": "500m", "memory": "512Mi"}},
    readinessProbe={"httpGet": {"path": "/healthz", "port": "http"}},
)
OTHERS = [build.container("log-shipper", restartPolicy="Always"), build.container("migrate")]
CONTROL_PLANE = "envoy-sidecar-controlplane.envoy-sidecar-system.svc:15012"
LABELS = {"app.kubernetes.io/name": "web"}
DATABASE = build.container(
    "db",
    ports=[{"name": "mysql", "containerPort": 3306}],
    startupProbe={"tcpSocket": {"port": "mysql"}, "failureThreshold": 30},
    livenessProbe={"tcpSocket": {"port": 3306}, "timeoutSeconds": 5},
    readinessProbe={"exec": {"command": ["mysqladmin", "ping"]}},
)
EVERYTHING = {
    "exclude-inbound-ports": "8081,9000-9010",
    "exclude-outbound-ports": "6379",
    "exclude-outbound-cidrs": "169.254.169.254/32,fd00:ec2::254/128",
    "include-outbound-cidrs": "10.0.0.0/8,fd00::/8",
    "opaque-inbound-ports": "9092",
    "opaque-outbound-ports": "9092",
    "cpu-request": "10%",
    "cpu-limit": "2",
    "memory-request": "128Mi",
    "memory-limit": "512Mi",
    "log-level": "info",
    "access-log": "all",
    "drain-seconds": "25",
    "upstreams": "orders,users.accounts",
}


def pod(annotations: dict[str, str] | None = None, **spec: Any) -> Document:
    return build.pod(annotations, dict(LABELS), **{"containers": [APP], **spec})


CASES: dict[str, tuple[Document, Level, Settings]] = {
    "native": (pod(), "privileged", build.DEFAULTS),
    "native-beside-others": (pod(initContainers=OTHERS), "privileged", build.DEFAULTS),
    "native-every-annotation": (pod(EVERYTHING), "privileged", build.DEFAULTS),
    "classic": (pod({"sidecar": "classic"}), "privileged", build.DEFAULTS),
    "classic-beside-others": (pod({"sidecar": "classic"}, initContainers=OTHERS), "privileged", build.DEFAULTS),
    "tcp-probes": (pod(containers=[DATABASE]), "privileged", build.DEFAULTS),
    "none-at-restricted": (pod({"mode": "none"}), "restricted", build.DEFAULTS),
    "controlplane": (pod(), "privileged", build.operator(f"bootstrap: {{controlPlane: {CONTROL_PLANE}}}")),
    "tproxy": (pod(), "privileged", build.operator("sidecar: {mode: tproxy}")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_stored_pod(name: str) -> None:
    document, level, by = CASES[name]
    stored = build.injected(document, level, by)
    check_golden(f"pods/{name}.yaml", yaml.dump(stored, Dumper=Readable, sort_keys=False, width=120))


class Readable(yaml.SafeDumper):
    """Multi-line text as a block, nothing as an alias."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, _text)
