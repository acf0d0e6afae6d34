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


def pod(document: object) -> Any:
    found = workload.pod(json.dumps(document).encode())
    return found and json.loads(found)


def test_a_deployment_leads_to_a_pod_of_its_replica_set() -> None:
    assert pod(deployment()) == {
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


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet", "ReplicaSet"])
def test_the_other_app_workloads_own_their_pods(kind: str) -> None:
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": "web", "controller": True}

    assert pod(deployment(kind))["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("document", [deployment("Job", "batch/v1"), cron_job()])
def test_pods_of_jobs_and_cron_jobs_are_known_to_belong_to_a_job(document: dict[str, Any]) -> None:
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "web", "controller": True}

    assert pod(document)["metadata"]["ownerReferences"] == [owner]


def test_a_pod_is_itself() -> None:
    assert pod(build.pod()) == build.pod()


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
    assert pod(document) is None


def test_only_what_a_controller_copies_is_taken_from_the_template() -> None:
    document = deployment(spec={"template": template(name="x", namespace="y", finalizers=["f"], uid="z")})

    assert set(pod(document)["metadata"]) == {"generateName", "finalizers", "namespace", "ownerReferences"}


def test_fields_that_nobody_knows_reach_the_pod() -> None:
    document = deployment()
    document["spec"]["template"]["spec"]["from-the-future"] = {"a": [1, None, {}]}

    assert pod(document)["spec"] == document["spec"]["template"]["spec"]


def test_a_workload_with_a_generated_name_has_pods_named_after_it() -> None:
    assert pod(deployment(metadata={"generateName": "run-"}))["metadata"]["generateName"] == "run-"


@pytest.mark.parametrize("missing", [{}, None])
def test_a_missing_template_leads_to_a_pod_without_spec(missing: object) -> None:
    assert "spec" not in pod(deployment(spec=missing))


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", "the object"),
        (b"[]", "the object"),
        (b"{", "the object"),
        (b"\xff", "the object"),
        (b'{"kind":1}', "kind"),
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
        workload.pod(raw)
