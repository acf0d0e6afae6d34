"""The manifests as `kubectl kustomize` renders them, and the one rule of Kubernetes that their tests need."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests import needs
from tests.apiserver import binaries

Object = dict[str, Any]

CHECKOUT = Path(__file__).parents[2]
MANIFESTS = CHECKOUT / "manifests"
COMPONENTS = sorted(folder.name for folder in (MANIFESTS / "components").iterdir())
NAMESPACE = "envoy-sidecar-system"
# The Deployments; one image serves all.
WEBHOOK, CERTS, CONTROLPLANE = "envoy-sidecar-webhook", "envoy-sidecar-certs", "envoy-sidecar-controlplane"
SYSTEM = ("kube-system", "kube-public", "kube-node-lease", NAMESPACE)


@cache
def render(*components: str, settings: str | None = None, more: str = "{}") -> tuple[Object, ...]:
    """`manifests/base` with these components, settings as an overlay like the example brings them, and `more` (YAML)
    that a person writes into the overlay."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder).resolve()

        def relative(*parts: str) -> str:
            return os.path.relpath(MANIFESTS.joinpath(*parts), inside)

        listed = [relative("components", component) for component in components]
        if settings is not None:
            shutil.copytree(MANIFESTS / "overlays" / "example" / "settings", inside / "settings")
            (inside / "settings" / "settings.yaml").write_text(settings)
            listed.append("settings")
        kustomization = {"resources": [relative("base")], "components": listed, **yaml.safe_load(more)}
        (inside / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return kustomize(inside)


@cache
def kustomize(folder: Path) -> tuple[Object, ...]:
    """What `kubectl apply -k` would apply."""
    command = [kubectl(), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def kubectl() -> str:
    """Any kubectl will do here; nothing is built for it."""
    found = binaries.assets("kubectl") or binaries.cached("kubectl") or shutil.which("kubectl")
    return str(found or needs.missing("kubectl", "put it on PATH, or: python -m tests.apiserver.binaries kubectl"))


def one(objects: Iterable[Object], kind: str, name: str = "") -> Object:
    """The only object of that kind, and of that name if one is given."""
    (found,) = [it for it in objects if it["kind"] == kind and name in ("", it["metadata"]["name"])]
    return found


def webhooks(objects: Iterable[Object], kind: str) -> list[Object]:
    """The entries of the registration of that kind."""
    entries: list[Object] = one(objects, kind)["webhooks"]
    return entries


def pod_spec(objects: Iterable[Object], deployment: str = WEBHOOK) -> Object:
    """Of that Deployment."""
    spec: Object = one(objects, "Deployment", deployment)["spec"]["template"]["spec"]
    return spec


def settings_file(objects: Iterable[Object]) -> str:
    """The file that `--settings` names in the webhook's container."""
    everything = list(objects)
    spec = pod_spec(everything)
    (container,) = spec["containers"]
    (option,) = [argument for argument in container["args"] if argument.startswith("--settings=")]
    path = Path(option.removeprefix("--settings="))
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == str(path.parent)]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mount["name"]]
    return str(one(everything, "ConfigMap", volume["configMap"]["name"])["data"][path.name])


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector (meta/v1) matches these labels; an absent one matches everything."""
    expressions = (selector or {}).get("matchExpressions", [])
    exact = (selector or {}).get("matchLabels", {})
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        matches(expression, labels) for expression in expressions
    )


def matches(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":  # also where there is no such label
            return value not in expression["values"]
        case other:
            raise AssertionError(f"no selector of ours uses the operator {other}")
