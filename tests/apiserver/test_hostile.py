"""Which texts never get as far as the sidecar, because the API server refuses them: the names that Envoy is told.

Each is read by the kubelet from a field of the pod that one of Kubernetes' own rules limits to letters, digits, `-`,
`.` and `_`. Annotations, an owner's name and what is written for the application's own containers may be any text:
tests/unit/test_hostile.py and tests/dataplane/test_hostile.py are about those.
"""

from collections.abc import Callable

import pytest

from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.objects import init_names, namespace, pod
from tests.hostile import HOSTILE


def named(text: str) -> Object:
    return pod(text)


def generated(text: str) -> Object:
    written = pod()
    written["metadata"] = {"generateName": text}
    return written


def labelled(text: str) -> Object:
    return pod(labels={"app": text})


def account(text: str) -> Object:
    """A pod of an account that there is not is refused before its fields are looked at."""
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": text}}


def on_node(text: str) -> Object:
    return pod(nodeName=text)


SUBDOMAIN = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
LABEL = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'"


@pytest.mark.parametrize(
    ("write", "field", "rule"),
    [
        (named, "metadata.name", SUBDOMAIN),
        (generated, "metadata.generateName", SUBDOMAIN),
        (labelled, "metadata.labels", LABEL),
        (account, "metadata.name", SUBDOMAIN),
        (on_node, "spec.nodeName", SUBDOMAIN),
    ],
    ids=["pod", "generated", "label", "account", "node"],
)
def test_a_name_that_envoy_is_told_holds_no_hostile_text(
    kubernetes: Cluster, shop: str, write: Callable[[str], Object], field: str, rule: str
) -> None:
    for text in HOSTILE:
        refused = kubernetes.kubectl(
            "create", "-n", shop, "--dry-run=server", "-f", "-", stdin=write(text), check=False
        )
        assert f"{field}: Invalid value" in refused.stderr, text
        assert rule in refused.stderr, text


def test_the_name_of_a_namespace_holds_none(kubernetes: Cluster) -> None:
    for text in HOSTILE:
        refused = kubernetes.kubectl("create", "--dry-run=server", "-f", "-", stdin=namespace(text), check=False)
        assert "metadata.name: Invalid value" in refused.stderr, text


def test_annotations_the_names_of_owners_and_environments_may_be_any_text(kubernetes: Cluster, shop: str) -> None:
    written = pod()
    texts = [text for text in HOSTILE if "\0" not in text]
    written["metadata"]["annotations"] = {f"example.com/{number}": text for number, text in enumerate(texts)}
    written["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Job", "name": text, "uid": f"{number}", "controller": number == 0}
        for number, text in enumerate(texts)
    ]
    written["spec"]["containers"][0]["env"] = [{"name": f"E{n}", "value": text} for n, text in enumerate(texts)]
    created = kubernetes.kubectl("create", "-n", shop, "-o", "json", "-f", "-", stdin=written, check=False)
    assert init_names(created.object), created.stderr
