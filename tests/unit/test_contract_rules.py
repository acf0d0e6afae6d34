"""The API server's contract for admission webhooks, rule by rule (Kubernetes: Dynamic Admission Control)."""

import base64
import json
from typing import Any

import jsonpatch
import pytest

from tests import build
from tests.build import Document
from webhook import injection, review, settings
from webhook.errors import MalformedReview
from webhook.injection import Injected, Outcome, Unchanged
from webhook.policy import RejectReason, SkipReason

PLAIN = build.pod()
BAD = build.pod({"log-level": "banana"})
SKIPPED = build.pod(hostNetwork=True)


def respond(document: Document, **request: Any) -> Document:
    """The `AdmissionReview` that answers the CREATE of this pod."""
    parsed = review.parse(json.dumps(build.review(document, **request)).encode())
    assert parsed.object is not None
    outcome = injection.inject(parsed.object, "privileged", build.DEFAULTS)
    answer: Document = json.loads(review.respond(parsed, outcome, build.DEFAULTS.hash))
    return answer


def response(document: Document, **request: Any) -> Document:
    found: Document = respond(document, **request)["response"]
    return found


ALL = pytest.mark.parametrize("document", [PLAIN, BAD, SKIPPED], ids=["injected", "rejected", "skipped"])


@ALL
def test_rule_01_the_answer_is_an_admission_review_v1(document: Document) -> None:
    answer = respond(document)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")


@ALL
def test_rule_02_the_uid_is_echoed_in_every_answer(document: Document) -> None:
    assert response(document, uid="some-uid")["uid"] == "some-uid"


@ALL
def test_rule_03_patch_and_patch_type_come_together_or_not_at_all(document: Document) -> None:
    answer = response(document)
    assert ("patch" in answer) == ("patchType" in answer)
    assert answer.get("patchType", "JSONPatch") == "JSONPatch"


def test_rule_03_the_patch_is_base64_of_json() -> None:
    operations = json.loads(base64.b64decode(response(PLAIN)["patch"], validate=True))
    assert jsonpatch.apply_patch(PLAIN, operations) == build.injected(PLAIN)


@pytest.mark.parametrize("document", [PLAIN, SKIPPED], ids=["injected", "skipped"])
def test_rule_04_only_the_authors_mistakes_are_denied(document: Document) -> None:
    assert response(document)["allowed"] is True
    assert response(BAD)["allowed"] is False


@pytest.mark.parametrize("field", ["labels", "annotations", "initContainers", "volumes"])
@pytest.mark.parametrize("value", ["absent", None, "empty"])
def test_rule_05_the_patch_applies_whether_a_parent_is_absent_null_or_empty(field: str, value: Any) -> None:
    document = build.pod({}, {}, initContainers=[], volumes=[])
    parent = document["metadata" if field in document["metadata"] else "spec"]
    if value == "absent":
        del parent[field]
    elif value is None:
        parent[field] = None
    assert build.sidecar_of(build.injected(document))


def test_rule_06_a_denial_carries_a_message_and_a_code_of_its_own() -> None:
    status = response(BAD)["status"]
    assert status["code"] == 403
    assert "envoy-sidecar.io/log-level" in status["message"]


def test_rule_07_a_warning_has_at_most_120_characters_and_loses_nothing() -> None:
    key = "x" * 200
    warnings = response(build.pod({key: "1", "exclude-inbound-port": "1"}))["warnings"]
    assert all(len(warning) <= 120 for warning in warnings)
    assert "did you mean envoy-sidecar.io/exclude-inbound-ports?" in " ".join(" ".join(warnings).split())


def test_rule_07_the_number_of_warnings_is_bounded() -> None:
    warnings = response(build.pod({f"unknown-{index}": "" for index in range(5000)}))["warnings"]
    assert len(warnings) <= 16
    assert "more" in warnings[-1]


@ALL
def test_rule_08_audit_annotations_say_decision_reason_and_settings(document: Document) -> None:
    told = {"injected": "added", "rejected": "bad_annotation", "skipped": "host_network"}
    annotations = response(document)["auditAnnotations"]
    assert annotations["reason"] == told[annotations["decision"]]
    assert annotations["settings-hash"] == build.DEFAULTS.hash


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"banana", b'{"kind": "AdmissionReview"}', b"\xff\xfe"])
def test_rule_09_an_undecodable_body_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedReview, match="no AdmissionReview"):
        review.parse(body)


def test_rule_10_unknown_request_fields_are_ignored() -> None:
    document = build.review(fromTheFuture={"a": [1]})
    document["fromTheFuture"] = 1
    assert review.parse(json.dumps(document).encode()).namespace == "shop"


def through_the_api_server(document: Document) -> Document:
    """What admission plugins may do to our containers between two looks."""
    for container in [*document["spec"]["initContainers"], *document["spec"]["containers"]]:
        container["imagePullPolicy"] = "Always"
        container.setdefault("resources", {}).setdefault("limits", {}).setdefault("ephemeral-storage", "1Gi")
    return document


def test_rule_11_output_fed_back_gives_no_patch_also_after_the_api_server_touched_it() -> None:
    assert isinstance(build.outcome(through_the_api_server(build.injected(PLAIN))), Unchanged)


def test_rule_11_our_container_name_without_our_marker_is_rejected() -> None:
    document = build.pod(containers=[build.container("envoy-sidecar")])
    assert build.rejection(document).reason == RejectReason.FOREIGN_PARTS


def test_rule_12_other_annotations_survive() -> None:
    document = build.injected(build.pod({"example.com/a": "1"}))
    assert document["metadata"]["annotations"]["example.com/a"] == "1"


def test_rule_13_keys_are_escaped_in_pointers() -> None:
    result = build.outcome(build.pod({}))
    assert isinstance(result, Injected)
    paths = [operation["path"] for operation in json.loads(result.patch)]
    assert "/metadata/annotations/envoy-sidecar.io~1version" in paths


def test_rule_14_unknown_fields_survive() -> None:
    native = build.container("native", restartPolicy="Always", fromTheFuture={"a": 1})
    document = build.injected(build.pod(initContainers=[native], fromTheFuture=[1]))
    assert native in document["spec"]["initContainers"]
    assert document["spec"]["fromTheFuture"] == [1]


def test_rule_15_the_namespace_is_the_requests() -> None:
    document = build.pod()
    document["metadata"] = {"generateName": "web-"}
    body = json.dumps(build.review(document, namespace="from-the-request", name="")).encode()
    assert review.parse(body).namespace == "from-the-request"
    assert build.sidecar_of(build.injected(document))


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE", "CONNECT"])
def test_rule_16_only_the_creation_of_a_pod_is_answered_with_a_sidecar(operation: str) -> None:
    assert not review.parse(json.dumps(build.review(operation=operation)).encode()).creates_pod


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (build.pod({"kubernetes.io/config.mirror": "1"}), SkipReason.MIRROR_POD),
        (build.pod(hostNetwork=True), SkipReason.HOST_NETWORK),
        (build.pod(os={"name": "windows"}), SkipReason.WINDOWS),
        (build.pod(nodeSelector={"kubernetes.io/os": "windows"}), SkipReason.WINDOWS),
        (build.pod(affinity=build.required_nodes({"kubernetes.io/os": ("In", ["windows"])})), SkipReason.WINDOWS),
    ],
)
def test_rule_16_mirror_host_network_and_windows_pods_are_skipped(document: Document, reason: SkipReason) -> None:
    assert build.outcome(document).reason == reason


def containers_of_ours(by: settings.Settings) -> list[Document]:
    spec = build.injected(PLAIN, by=by)["spec"]
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    return [container for container in containers if container["name"].startswith("envoy-sidecar")]


EVERY_FORM = pytest.mark.parametrize(
    "by",
    [
        build.DEFAULTS,
        build.operator("sidecar: {form: classic}"),
        build.operator("sidecar: {mode: none}"),
        build.operator("sidecar: {mode: tproxy}"),
    ],
    ids=["native", "classic", "none", "tproxy"],
)


@EVERY_FORM
def test_rule_17_every_container_of_ours_is_complete(by: settings.Settings) -> None:
    for container in containers_of_ours(by):
        assert {"cpu", "memory"} == set(container["resources"]["requests"]) == set(container["resources"]["limits"])
        assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(("mode", "takes"), [("redirect", True), ("tproxy", True), ("none", False)])
def test_only_a_sidecar_that_asks_the_control_plane_takes_a_token_along(mode: str, takes: bool) -> None:
    by = build.operator(f"{{bootstrap: {{controlPlane: 'controlplane.mesh:15012'}}, sidecar: {{mode: {mode}}}}}")
    document = build.injected(PLAIN, by=by)
    names = {volume["name"] for volume in document["spec"]["volumes"]}
    mounted = {mount["name"] for mount in build.sidecar_of(document)["volumeMounts"]}
    asking = {"envoy-sidecar-ca", "envoy-sidecar-token"}
    assert names & asking == mounted & asking == (asking if takes else set())


@EVERY_FORM
def test_rule_17_the_applications_token_is_kept_out_of_our_containers(by: settings.Settings) -> None:
    for container in containers_of_ours(by):
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        token = mounts["/var/run/secrets/kubernetes.io/serviceaccount"]
        assert token == {
            "name": "envoy-sidecar-no-token",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        }


def test_rule_17_our_volumes_live_in_memory_and_are_bounded() -> None:
    for volume in build.injected(PLAIN)["spec"]["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["medium"] == "Memory"
            assert volume["emptyDir"]["sizeLimit"]


def test_rule_17_pod_level_resources_must_cover_the_sum() -> None:
    document = build.pod(resources={"requests": {"memory": "10Mi"}})
    assert build.rejection(document).reason == RejectReason.RESOURCES


@ALL
def test_rule_18_a_dry_run_gets_the_same_answer(document: Document) -> None:
    assert response(document, dryRun=True) == response(document, dryRun=False)


@EVERY_FORM
def test_rule_19_what_the_pod_level_says_does_not_reach_our_containers(by: settings.Settings) -> None:
    for container in containers_of_ours(by):
        assert {"runAsUser", "runAsGroup", "runAsNonRoot"} <= set(container["securityContext"])


@pytest.mark.parametrize("context", [{"runAsUser": 1337}, {"supplementalGroups": [1337]}])
def test_rule_19_our_uid_and_gid_belong_to_the_sidecar(context: Document) -> None:
    assert build.rejection(build.pod(securityContext=context)).reason == RejectReason.CONFLICT


def test_rule_20_the_patch_of_a_pod_with_2000_variables_is_as_small_as_any() -> None:
    env = [{"name": f"V{index}", "value": "x"} for index in range(2000)]
    large: Outcome = build.outcome(build.pod(containers=[build.container(env=env)]))
    assert isinstance(large, Injected)
    assert large.patch == build.outcome(PLAIN).patch  # type: ignore[union-attr]


# What the peers let pass


def test_a_quote_in_an_annotation_cannot_break_the_patch() -> None:
    document = build.pod({"log-level": '"}],"x":["', "access-log": "a\nb"})
    status = response(document)["status"]
    assert status["message"].isprintable()


def test_128_services_of_the_longest_names_are_as_many_as_a_list_may_hold() -> None:
    longest = [f"{number:03}{'s' * 60}.{'n' * 63}" for number in range(128)]
    assert response(build.pod({"upstreams": ",".join(longest)}))["allowed"] is True


def test_200_kb_of_annotations_are_answered() -> None:
    document = build.pod({"example.com/blob": "x" * 200_000, "upstreams": "y" * 200_000})
    message = response(document)["status"]["message"]
    assert "the value is too long" in message
    assert len(message) < 1000
