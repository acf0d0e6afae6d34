"""What an author writes cannot become configuration of the sidecar: not by quotes, braces, new lines or `$(VAR)`."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import container, outcome, pod
from tests.hostile import HOSTILE
from webhook.annotations import TABLE
from webhook.injection import Injected, Rejected

OURS = {"POD_NAME", "POD_NAMESPACE", "POD_IP", "NODE_NAME", "SERVICE_ACCOUNT"}
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))


def document(text: str) -> dict[str, Any]:
    """A pod with this text wherever its author writes text that is read."""
    written = pod({"upstreams": text}, labels={"app.kubernetes.io/name": text, "app": text, "pod-template-hash": text})
    written["metadata"] |= {
        "name": text,
        "generateName": text,
        "ownerReferences": [{"apiVersion": "v1", "kind": "Job", "name": text, "uid": "1", "controller": True}],
    }
    written["spec"] |= {"serviceAccountName": text, "nodeName": text, "hostname": text}
    written["spec"]["containers"] = [container(text, env=[{"name": "POD_NAME", "value": text}])]
    return written


def rendered(written: dict[str, Any]) -> dict[str, Any] | None:
    """Our containers and volumes in the pod; None if it is refused."""
    made = outcome(written)
    if isinstance(made, Rejected):
        return None
    assert isinstance(made, Injected)
    operations = json.loads(made.patch)
    added = [step["value"] for step in operations]
    values = [part for value in added for part in (value if isinstance(value, list) else [value])]
    parts = [value for value in values if isinstance(value, dict) and "name" in value]
    return {part["name"]: part for part in parts}


PLAIN = rendered(pod({"upstreams": ""}, labels={"app": "web"}))


@given(texts)
def test_nothing_of_it_gets_into_the_sidecar(text: str) -> None:
    """Refused, or left out: but for the name of the service, which has no character that means anything."""
    written = document(text)
    written["metadata"]["annotations"] = {}
    made = rendered(written)
    assert made
    assert PLAIN
    envoy, plain = made["envoy-sidecar"], PLAIN["envoy-sidecar"]
    place = plain["args"].index("--service-cluster") + 1
    assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", envoy["args"][place])
    envoy["args"][place] = plain["args"][place]
    assert made == PLAIN


@given(st.sampled_from([row.key for row in TABLE]), texts)
def test_an_annotation_is_a_value_of_its_kind_or_refused(key: str, text: str) -> None:
    written = pod()
    written["metadata"]["annotations"] = {key: text}
    made = rendered(written)
    if made is None:
        return
    envoy = made["envoy-sidecar"]
    assert PLAIN
    arguments = dict(zip(envoy["args"][::2], envoy["args"][1::2], strict=False))
    laid_over = json.loads(arguments["--config-yaml"])
    assert set(laid_over) == set(json.loads(PLAIN["envoy-sidecar"]["args"][3]))
    assert all(set(re.findall(r"\$\(([^)]*)\)", argument)) <= OURS for argument in envoy["args"])
    for step in made["envoy-sidecar-init"]["env"]:
        assert re.fullmatch(r"[-\w\s*:\[\].,/!]*", step["value"]), step


@pytest.mark.parametrize("text", HOSTILE)
def test_upstreams_are_names_of_services(text: str) -> None:
    assert rendered(pod({"upstreams": text})) is None
