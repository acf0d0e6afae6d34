"""From a workload to the Pod that its controller would create."""

import json
from typing import Any

import pytest

from tests import build
from webhook import workload
from webhook.errors import MalformedReview

DEEP = b'{"apiVersion":"apps/v1","kind":"Deployment","spec":' + b"[" * 10_000 + b"]" * 10_000 + b"}"


def template(**metadata: Any) -> dict[str, Any]:
    return {"metadata": metadata, "spec": build.pod()["spec"]}


def deployment(kind: str = "Deployment", api_version: str = "apps/v1", **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"template": template(labels={"app": "web"}, annotations={"a/b": "c"})},
        **fields,
    }


def cron_job() -> dict[str, Any]:
    return deployment("CronJob", "batch/v1", spec={"jobTemplate": {"spec": {"template": template()}}})


def pods(document: object) -> list[dict[str, Any]]:
    return [json.loads(pod) for pod in workload.pods(json.dumps(document).encode())]


def test_a_deployment_leads_to_a_pod_of_its_replica_set() -> None:
    assert pods(deployment()) == [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "generateName": "web-",
                "labels": {"app": "web"},
                "annotations": {"a/b": "c"},
                "namespace": "shop",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "controller": True}],
            },
            "spec": build.pod()["spec"],
        }
    ]


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "ReplicaSet"])
def test_the_other_app_workloads_own_their_pods(kind: str) -> None:
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": "web", "controller": True}

    assert pods(deployment(kind))[0]["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("document", [deployment("Job", "batch/v1"), cron_job()])
def test_pods_of_jobs_and_cron_jobs_are_known_to_belong_to_a_job(document: dict[str, Any]) -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "web", "controller": True}

    assert pods(document)[0]["metadata"]["ownerReferences"] == [owner]


def test_a_pod_is_itself() -> None:
    assert pods(build.pod()) == [build.pod()]


def test_the_items_of_a_list_are_found_however_deep() -> None:
    inner = {"apiVersion": "v1", "kind": "List", "items": [deployment(), {"apiVersion": "v1", "kind": "Service"}]}
    outer = {"apiVersion": "v1", "kind": "List", "items": [build.pod(), inner]}

    assert [pod["metadata"].get("generateName") for pod in pods(outer)] == [None, "web-"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"apiVersion": "v1", "kind": "Service"},
        {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job"},
        {"apiVersion": "extensions/v1beta1", "kind": "Deployment"},
        {"apiVersion": "v1", "kind": "List"},
    ],
)
def test_what_makes_no_pods_leads_to_none(document: dict[str, Any]) -> None:
    assert pods(document) == []


def test_only_what_a_controller_copies_is_taken_from_the_template() -> None:
    document = deployment(spec={"template": template(name="x", namespace="y", finalizers=["f"], uid="z")})

    assert set(pods(document)[0]["metadata"]) == {"generateName", "finalizers", "namespace", "ownerReferences"}


def test_fields_that_nobody_knows_reach_the_pod() -> None:
    document = deployment()
    document["spec"]["template"]["spec"]["from-the-future"] = {"a": [1, None, {}]}

    assert pods(document)[0]["spec"] == document["spec"]["template"]["spec"]


def test_a_workload_with_a_generated_name_has_pods_named_after_it() -> None:
    assert pods(deployment(metadata={"generateName": "run-"}))[0]["metadata"]["generateName"] == "run-"


@pytest.mark.parametrize("missing", [{}, None])
def test_a_missing_template_leads_to_a_pod_without_spec(missing: object) -> None:
    assert "spec" not in pods(deployment(spec=missing))[0]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", "the object"),
        (b"[]", "the object"),
        (b"{", "the object"),
        (b"\xff", "the object"),
        (b'{"kind":1}', "kind"),
        (b'{"apiVersion":"v1","kind":"List","items":{}}', "items"),
        (b'{"apiVersion":"v1","kind":"List","items":[1]}', "items[0]"),
        (b'{"apiVersion":"apps/v1","kind":"Deployment","metadata":[]}', "metadata"),
        (b'{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":1}}', "name"),
        (b'{"apiVersion":"apps/v1","kind":"Deployment","spec":[]}', "spec"),
        (b'{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":"x"}}', "spec.template"),
        (b'{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"metadata":1}}}', "spec.template.metadata"),
        (b'{"apiVersion":"batch/v1","kind":"CronJob","spec":{"jobTemplate":{"spec":1}}}', "spec.jobTemplate.spec"),
        (DEEP, "nested"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_path(raw: bytes, path: str) -> None:
    with pytest.raises(MalformedReview, match=path.replace("[", r"\[")):
        workload.pods(raw)
