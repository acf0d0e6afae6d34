"""What becomes of a pod: injected, skipped or rejected, and in which words."""

import re
from typing import Any

import pytest

from tests import build
from tests.build import Document
from webhook.choices import check_leash
from webhook.errors import SettingsError
from webhook.injection import Injected, Skipped
from webhook.policy import RejectReason, SkipReason

SKIPPED: dict[SkipReason, Document] = {
    SkipReason.MIRROR_POD: build.pod({"kubernetes.io/config.mirror": "1"}),
    SkipReason.OPTED_OUT: build.pod(labels={"envoy-sidecar.io/inject": "disabled"}),
    SkipReason.HOST_NETWORK: build.pod(hostNetwork=True),
    SkipReason.WINDOWS: build.pod(os={"name": "windows"}),
    SkipReason.NO_CONTAINERS: build.pod(containers=[]),
}


@pytest.mark.parametrize("reason", SKIPPED)
def test_every_skip_has_a_code_and_a_sentence(reason: SkipReason) -> None:
    result = build.outcome(SKIPPED[reason])
    assert isinstance(result, Skipped)
    assert result.reason == reason
    if reason is not SkipReason.MIRROR_POD:
        assert result.warnings == (f"no sidecar ({reason}): {reason.sentence}",)


def test_a_windows_node_selector_skips() -> None:
    document = build.pod(nodeSelector={"kubernetes.io/os": "windows"})
    assert build.outcome(document).reason == SkipReason.WINDOWS


WINDOWS_NODES = {"kubernetes.io/os": ("In", ["windows"])}
LARGE_NODES = {"size": ("In", ["large"])}


@pytest.mark.parametrize("terms", [[WINDOWS_NODES], [WINDOWS_NODES, {**LARGE_NODES, **WINDOWS_NODES}]])
def test_a_pod_skips_whose_node_affinity_requires_windows(terms: list[Document]) -> None:
    document = build.pod(affinity=build.required_nodes(*terms))
    assert build.outcome(document).reason == SkipReason.WINDOWS


@pytest.mark.parametrize(
    "affinity",
    [
        build.required_nodes(WINDOWS_NODES, LARGE_NODES),
        build.required_nodes({"kubernetes.io/os": ("In", ["windows", "linux"])}),
        build.required_nodes({"kubernetes.io/os": ("NotIn", ["windows"])}),
        build.required_nodes(),
        {"nodeAffinity": {}},
    ],
    ids=["one of two terms", "either", "any other", "no term", "nothing"],
)
def test_a_pod_that_may_also_run_elsewhere_than_on_windows_is_injected(affinity: Document) -> None:
    assert isinstance(build.outcome(build.pod(affinity=affinity)), Injected)


def test_an_opted_out_pod_is_not_rejected_for_its_annotations() -> None:
    document = build.pod({"log-level": "banana"}, labels={"envoy-sidecar.io/inject": "disabled"})
    assert build.outcome(document).reason == SkipReason.OPTED_OUT


@pytest.mark.parametrize("spec", [{"hostNetwork": True}, {"os": {"name": "windows"}}])
def test_a_pod_that_asks_for_a_sidecar_and_cannot_have_one_is_rejected(spec: Document) -> None:
    document = build.pod(labels={"envoy-sidecar.io/inject": "enabled"}, **spec)
    assert build.rejection(document).reason == RejectReason.CANNOT_INJECT


def test_the_inject_label_has_two_values() -> None:
    rejected = build.rejection(build.pod(labels={"envoy-sidecar.io/inject": "enable"}))
    assert rejected.reason == RejectReason.BAD_LABEL
    assert rejected.problems == (
        'label envoy-sidecar.io/inject: "enable": use enabled or disabled; did you mean enabled?',
    )


def test_an_operator_may_deny_opting_out() -> None:
    document = build.pod(labels={"envoy-sidecar.io/inject": "disabled"})
    rejected = build.rejection(document, by=build.operator("authors: {optOut: denied}"))
    assert rejected.reason == RejectReason.OPT_OUT_DENIED
    assert "ask the operator: authors.optOut" in rejected.problems[0]


# Annotations


def test_a_bad_value_names_annotation_value_and_what_is_allowed() -> None:
    rejected = build.rejection(build.pod({"log-level": "banana"}))
    assert rejected.reason == RejectReason.BAD_ANNOTATION
    assert rejected.problems == (
        'envoy-sidecar.io/log-level: "banana": use one of trace, debug, info, warning, error, critical, off',
    )


def test_a_misspelt_value_is_answered_with_the_nearest_right_one() -> None:
    (problem,) = build.rejection(build.pod({"log-level": "wraning"})).problems
    assert problem.endswith("; did you mean warning?")


def test_every_bad_annotation_is_reported_at_once() -> None:
    document = build.pod({"log-level": "x", "cpu-limit": "-1", "mode": "y"})
    assert len(build.rejection(document).problems) == 3


def test_a_misspelt_key_warns_with_the_nearest_right_one() -> None:
    result = build.outcome(build.pod({"exclude-inbound-port": "80"}))
    assert isinstance(result, Injected)
    assert result.warnings == (
        '"envoy-sidecar.io/exclude-inbound-port" is no annotation of ours; '
        "did you mean envoy-sidecar.io/exclude-inbound-ports?",
    )


def test_an_operator_may_reject_unknown_keys() -> None:
    strict = build.operator("unknownAnnotations: reject")
    assert build.rejection(build.pod({"banana": "1"}), by=strict).reason == RejectReason.UNKNOWN_ANNOTATION


def test_annotations_of_others_are_none_of_our_business() -> None:
    result = build.outcome(build.pod({"example.com/envoy-sidecar.io": "x", "prometheus.io/scrape": "true"}))
    assert result.warnings == ()


def test_a_negative_memory_limit_is_rejected() -> None:
    assert build.rejection(build.pod({"memory-limit": "-128Mi"})).reason == RejectReason.BAD_ANNOTATION


def test_a_request_above_its_limit_is_rejected_with_both_figures() -> None:
    rejected = build.rejection(build.pod({"memory-request": "1Gi"}))
    assert rejected.reason == RejectReason.RESOURCES
    assert rejected.problems == (
        "envoy-sidecar.io/memory-request: 1Gi is above envoy-sidecar.io/memory-limit, 320Mi: "
        "raise the limit or lower the request",
    )


def test_one_resource_annotation_keeps_the_other_defaults() -> None:
    resources = build.sidecar_of(build.injected(build.pod({"cpu-request": "200m"})))["resources"]
    assert resources == {
        "requests": {"cpu": "200m", "memory": "80Mi"},
        "limits": {"cpu": "1", "memory": "320Mi"},
    }


def test_a_percentage_is_taken_of_what_the_pods_own_containers_ask_for() -> None:
    asking = [
        build.container("a", resources={"requests": {"cpu": "1", "memory": "1Gi"}}),
        build.container("b", resources={"limits": {"cpu": "500m", "memory": "1Gi"}}),
    ]
    document = build.pod({"cpu-request": "10%", "memory-request": "5%"}, containers=asking)
    requests = build.sidecar_of(build.injected(document))["resources"]["requests"]
    assert requests == {"cpu": "150m", "memory": "107374183"}


def test_a_percentage_of_a_limit_is_taken_of_the_limits_that_there_are() -> None:
    limited = build.container("a", resources={"limits": {"cpu": "2"}})
    document = build.pod({"cpu-limit": "50%"}, containers=[limited, build.container("b")])
    assert build.sidecar_of(build.injected(document))["resources"]["limits"]["cpu"] == "1"


def test_a_percentage_of_nothing_is_rejected() -> None:
    rejected = build.rejection(build.pod({"cpu-request": "10%"}))
    assert rejected.problems == (
        "envoy-sidecar.io/cpu-request: 10% of nothing: no container of the pod has a cpu request",
    )


def test_an_authors_port_list_adds_to_the_operators() -> None:
    by = build.operator("redirect: {excludeOutboundPorts: [9000]}")
    result = build.outcome(build.pod({"exclude-outbound-ports": "6379,9001"}), by=by)
    assert isinstance(result, Injected)
    assert result.choices.exclude_outbound_ports == ((6379, 6379), (9000, 9001))


@pytest.mark.parametrize("label", ["injct", "mode"])
def test_an_unknown_label_under_our_prefix_warns(label: str) -> None:
    (warning,) = build.outcome(build.pod(labels={f"envoy-sidecar.io/{label}": "disabled"})).warnings
    assert f"envoy-sidecar.io/{label}" in warning
    assert "is no label of ours" in warning


# The operator's leash


@pytest.mark.parametrize(
    "annotation", [{"image": "registry.example/envoy:1"}, {"mode": "tproxy"}, {"mode": "none"}, {"concurrency": "8"}]
)
def test_what_is_not_left_to_authors_is_rejected_with_whom_to_ask(annotation: dict[str, str]) -> None:
    rejected = build.rejection(build.pod(annotation))
    assert rejected.reason == RejectReason.NOT_ALLOWED
    assert f"ask the operator: authors.allow.{next(iter(annotation))}" in rejected.problems[0]


@pytest.mark.parametrize(
    ("allow", "annotation"),
    [
        ("{image: true}", {"image": "registry.example/envoy:1"}),
        ("{mode: [tproxy]}", {"mode": "tproxy"}),
        ("{concurrency: ['8']}", {"concurrency": "8"}),
    ],
)
def test_an_operator_may_leave_it_to_authors(allow: str, annotation: dict[str, str]) -> None:
    result = build.outcome(build.pod(annotation), by=build.operator(f"authors: {{allow: {allow}}}"))
    assert isinstance(result, Injected)


def test_an_operator_may_take_an_annotation_from_authors() -> None:
    by = build.operator("authors: {allow: {exclude-outbound-ports: false}}")
    assert build.rejection(build.pod({"exclude-outbound-ports": "80"}), by=by).reason == RejectReason.NOT_ALLOWED


def test_writing_the_operators_own_value_is_always_allowed() -> None:
    assert isinstance(build.outcome(build.pod({"concurrency": "2", "mode": "redirect"})), Injected)


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example/envoy:v1", True),
        ("registry.example/envoy@sha256:" + "a" * 64, True),
        ("registry.example/envoy", True),
        ("registry.example/envoy-of-mine:v1", False),
        ("elsewhere.example/envoy:v1", False),
        ("mirror.example/team/envoy:v1", True),
        ("mirror.example:5000/envoy:v1", False),
        ("tagged.example/envoy:v1", True),
        ("tagged.example/envoy:v1@sha256:" + "a" * 64, False),
        ("tagged.example/envoy:v11", False),
    ],
)
def test_an_authors_image_lies_under_an_allowed_prefix(image: str, allowed: bool) -> None:
    prefixes = "[registry.example/envoy, mirror.example, 'tagged.example/envoy:v1']"
    by = build.operator(f"{{authors: {{allow: {{image: true}}}}, images: {{allowed: {prefixes}}}}}")
    result = build.outcome(build.pod({"image": image}), by=by)
    assert isinstance(result, Injected) == allowed


def test_classic_with_mode_none_is_rejected() -> None:
    document = build.pod({"sidecar": "classic", "mode": "none"})
    assert "classic does not go with mode none" in build.rejection(document, "restricted").problems[0]


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        ("{logLevel: false}", "authors.allow.logLevel: no such annotation; did you mean log-level?"),
        ("{mode: [tproxi]}", "did you mean tproxy?"),
    ],
)
def test_a_misspelt_leash_is_refused(allow: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        check_leash(build.operator(f"authors: {{allow: {allow}}}"), "settings.yaml")


# PodSecurity


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_level_that_forbids_net_admin_rejects_naming_label_and_ways_out(level: Any) -> None:
    rejected = build.rejection(build.pod(), level)
    assert rejected.reason == RejectReason.POD_SECURITY
    assert rejected.problems == (
        f"mode redirect needs NET_ADMIN, which this namespace's label pod-security.kubernetes.io/enforce={level} "
        "forbids: annotate the pod envoy-sidecar.io/mode: none, or label the namespace "
        "pod-security.kubernetes.io/enforce=privileged",
    )


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_mode_none_is_the_way_into_such_a_namespace(level: Any) -> None:
    document = build.injected(build.pod({"mode": "none"}), level)
    assert [c["name"] for c in document["spec"]["initContainers"]] == ["envoy-sidecar"]


# Pods that cannot work


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"containers": [build.container("envoy-sidecar")]}, 'container "envoy-sidecar"'),
        ({"initContainers": [build.container("envoy-sidecar-init")]}, 'container "envoy-sidecar-init"'),
        ({"volumes": [{"name": "envoy-sidecar-run", "emptyDir": {}}]}, 'volume "envoy-sidecar-run"'),
        (
            {"containers": [build.container(volumeMounts=[{"name": "envoy-sidecar-run", "mountPath": "/x"}])]},
            'container "app" mounts envoy-sidecar-run',
        ),
    ],
)
def test_a_name_of_ours_is_rejected(spec: Document, words: str) -> None:
    rejected = build.rejection(build.pod(**spec))
    assert rejected.reason == RejectReason.FOREIGN_PARTS
    assert words in rejected.problems[0]


@pytest.mark.parametrize("port", [15001, 15002, 15003, 15006, 15007, 15020, 15021, 15090])
def test_a_container_port_of_ours_is_rejected(port: int) -> None:
    document = build.pod(containers=[build.container(ports=[{"containerPort": port}])])
    rejected = build.rejection(document)
    assert rejected.reason == RejectReason.CONFLICT
    assert rejected.problems == (f'container "app": port {port} is the sidecar\'s; choose another',)


CONFLICTS: list[Document] = [
    {"securityContext": {"runAsUser": 1337}},
    {"securityContext": {"runAsGroup": 1337}},
    {"securityContext": {"fsGroup": 1337}},
    {"securityContext": {"supplementalGroups": [1, 1337]}},
    {"containers": [build.container(securityContext={"runAsUser": 1337})]},
    {"initContainers": [build.container(securityContext={"runAsGroup": 1337})]},
    {"containers": [build.container(securityContext={"capabilities": {"add": ["NET_ADMIN"]}})]},
    {"containers": [build.container(securityContext={"capabilities": {"add": ["cap_net_admin"]}})]},
    {"containers": [build.container(securityContext={"capabilities": {"add": ["ALL"]}})]},
    {"containers": [build.container(securityContext={"privileged": True})]},
]


@pytest.mark.parametrize("spec", CONFLICTS)
def test_our_uid_or_gid_or_net_admin_in_the_application_is_rejected(spec: Document) -> None:
    assert build.rejection(build.pod(**spec)).reason == RejectReason.CONFLICT


@pytest.mark.parametrize("spec", CONFLICTS)
def test_an_operator_may_turn_that_into_a_warning(spec: Document) -> None:
    result = build.outcome(build.pod(**spec), by=build.operator("authors: {conflicts: warn}"))
    assert isinstance(result, Injected)
    assert len(result.warnings) == 1


@pytest.mark.parametrize("spec", CONFLICTS)
def test_without_redirection_there_is_nothing_to_escape(spec: Document) -> None:
    assert isinstance(build.outcome(build.pod({"mode": "none"}, **spec), "restricted"), Injected)


def test_a_port_of_another_protocol_is_no_conflict() -> None:
    document = build.pod(containers=[build.container(ports=[{"containerPort": 15001, "protocol": "UDP"}])])
    assert isinstance(build.outcome(document), Injected)


def test_the_uid_that_conflicts_is_the_operators() -> None:
    by = build.operator("sidecar: {uid: 2000, gid: 2000}")
    assert isinstance(build.outcome(build.pod(securityContext={"runAsUser": 1337}), by=by), Injected)
    assert build.rejection(build.pod(securityContext={"runAsUser": 2000}), by=by).reason == RejectReason.CONFLICT


# Pod-level resources (contract rule 17)


def test_pod_level_requests_that_cannot_hold_the_sidecar_are_rejected_with_the_numbers() -> None:
    document = build.pod(
        resources={"requests": {"cpu": "1"}},
        containers=[build.container(resources={"requests": {"cpu": "1"}})],
    )
    rejected = build.rejection(document)
    assert rejected.reason == RejectReason.RESOURCES
    assert rejected.problems == (
        "spec.resources.requests.cpu is 1, but the containers and the sidecar ask for 1050m "
        "(50m is the sidecar's): set it to 1050m or more (where it is not written, the API server takes what the "
        "containers ask for, or else the pod's limit)",
    )


@pytest.mark.parametrize(("asked", "taken"), [({"requests": {"cpu": "1"}}, "1"), ({}, "20m")])
def test_pod_level_requests_that_are_not_written_are_what_the_api_server_takes(asked: Document, taken: str) -> None:
    document = build.pod(resources={"limits": {"cpu": "20m"}}, containers=[build.container(resources=asked)])
    assert f"spec.resources.requests.cpu is {taken}, but" in build.rejection(document).problems[0]


def test_a_pod_level_limit_below_a_native_sidecars_is_fine() -> None:
    # validatePodResourceConsistency holds the limits of containers against the pod's, not those of init containers.
    assert isinstance(build.outcome(build.pod(resources={"limits": {"memory": "256Mi"}})), Injected)


def test_a_pod_level_limit_below_a_classic_sidecars_is_rejected() -> None:
    document = build.pod({"sidecar": "classic"}, resources={"limits": {"memory": "256Mi"}})
    rejected = build.rejection(document)
    assert rejected.problems == (
        "spec.resources.limits.memory is 256Mi, below the sidecar's limit of 320Mi: "
        "raise it, or set envoy-sidecar.io/memory-limit",
    )


def test_a_pod_level_limit_as_large_as_a_classic_sidecars_is_fine() -> None:
    document = build.pod({"sidecar": "classic"}, resources={"limits": {"memory": "320Mi"}})
    assert isinstance(build.outcome(document), Injected)


def test_a_native_sidecar_runs_beside_the_init_containers() -> None:
    initial = build.container("init", resources={"requests": {"cpu": "1"}})
    document = build.pod(resources={"requests": {"cpu": "1"}}, initContainers=[initial])
    assert "ask for 1050m" in build.rejection(document).problems[0]


def test_a_classic_sidecar_is_not_there_yet_while_init_containers_run() -> None:
    document = build.pod(
        {"sidecar": "classic"},
        resources={"requests": {"cpu": "1"}},
        initContainers=[build.container("init", resources={"requests": {"cpu": "1"}})],
        containers=[build.container(resources={"requests": {"cpu": "100m"}})],
    )
    assert isinstance(build.outcome(document), Injected)


def test_the_init_containers_request_counts_too() -> None:
    document = build.pod({"cpu-request": "1m"}, resources={"requests": {"cpu": "5m"}})
    assert "ask for 10m" in build.rejection(document).problems[0]


@pytest.mark.parametrize("whole", ["1000e-3", "1e0", "1000m"])
def test_pod_level_requests_are_read_in_every_notation(whole: str) -> None:
    asking = build.container(resources={"requests": {"cpu": "1e0"}})
    document = build.pod(resources={"requests": {"cpu": whole}}, containers=[asking])
    assert build.rejection(document).reason == RejectReason.RESOURCES


def test_pod_level_resources_with_room_are_fine() -> None:
    resources = {"requests": {"cpu": "2", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
    assert isinstance(build.outcome(build.pod(resources=resources)), Injected)


# What may surprise


def test_a_classic_sidecar_in_a_job_warns() -> None:
    result = build.outcome(build.owned_by("Job", build.pod({"sidecar": "classic"})))
    assert any("the Job never completes" in warning for warning in result.warnings)


def test_an_excluded_port_that_no_container_has_warns() -> None:
    document = build.pod(
        {"exclude-inbound-ports": "8080,9000-9010"},
        containers=[build.container(ports=[{"containerPort": 8080}])],
    )
    assert build.outcome(document).warnings == ("exclude-inbound-ports: no container declares port 9000-9010",)


def test_a_drain_longer_than_the_grace_period_warns() -> None:
    document = build.pod({"drain-seconds": "60"}, terminationGracePeriodSeconds=45)
    assert build.outcome(document).warnings == (
        "drain-seconds 60 exceeds terminationGracePeriodSeconds 45: the drain is cut short",
    )


@pytest.mark.parametrize(("drain", "warns"), [("30", False), ("31", True)])
def test_the_grace_period_is_30_seconds_where_none_is_written(drain: str, warns: bool) -> None:
    warnings = build.outcome(build.pod({"drain-seconds": drain})).warnings
    assert any("terminationGracePeriodSeconds 30" in warning for warning in warnings) == warns


def test_init_containers_before_a_classic_sidecar_warn() -> None:
    document = build.pod({"sidecar": "classic"}, initContainers=[build.container("migrate")])
    assert any("their traffic does not pass it" in warning for warning in build.outcome(document).warnings)


def test_mode_none_warns_that_inbound_traffic_does_not_pass() -> None:
    result = build.outcome(build.pod({"mode": "none"}), "restricted")
    assert any("inbound traffic does not pass" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", ["exclude-inbound-ports", "opaque-outbound-ports", "upstreams"])
def test_an_annotation_that_has_no_effect_in_mode_none_warns(name: str) -> None:
    result = build.outcome(build.pod({"mode": "none", name: ""}), "restricted")
    assert f"{name} has no effect in mode none" in result.warnings
