"""What the API server sends us, and what it never does: the two registrations."""

from collections.abc import Mapping
from typing import Any, get_args

import pytest

from certs.objects import Installation
from tests.contract.rendered import (
    COMPONENTS,
    MANIFESTS,
    NAMESPACE,
    SYSTEM,
    WEBHOOK,
    Object,
    kustomize,
    one,
    render,
    selects,
    webhooks,
)
from webhook import app, pod, policy, workload

INJECTOR, ADVISOR = "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"
BOTH = pytest.mark.parametrize("kind", [INJECTOR, ADVISOR])
ENFORCE = "pod-security.kubernetes.io/enforce"
OPT_IN = {pod.INJECT_LABEL: "enabled"}
OPT_OUT = {pod.INJECT_LABEL: "disabled"}


def namespace(name: str = "shop", labels: Mapping[str, str] = OPT_IN, level: str | None = None) -> dict[str, str]:
    """The labels of a namespace, with the one that the API server sets."""
    return {"kubernetes.io/metadata.name": name, **labels, **({ENFORCE: level} if level else {})}


def asked(kind: str, of: Mapping[str, str], labels: Mapping[str, str] | None = None, *components: str) -> list[Object]:
    """The entries that the API server calls for an object with these labels in a namespace with those."""
    return [
        entry
        for entry in webhooks(render(*components), kind)
        if selects(entry["namespaceSelector"], of) and selects(entry.get("objectSelector"), labels or {})
    ]


@BOTH
@pytest.mark.parametrize("level", [None, "privileged", "baseline", "restricted"])
def test_exactly_one_entry_matches_and_its_path_tells_the_level(kind: str, level: str | None) -> None:
    (entry,) = asked(kind, namespace(level=level))
    endpoint = app.ENDPOINTS[entry["clientConfig"]["service"]["path"]]
    assert endpoint.level == (level or "privileged")
    assert endpoint.name == ("inject" if kind == INJECTOR else "advise")


@BOTH
def test_every_path_of_ours_is_registered_once(kind: str) -> None:
    paths = [entry["clientConfig"]["service"]["path"] for entry in webhooks(render(), kind)]
    name = "inject" if kind == INJECTOR else "advise"
    assert sorted(paths) == sorted(path for path, endpoint in app.ENDPOINTS.items() if endpoint.name == name)


@BOTH
@pytest.mark.parametrize("name", SYSTEM)
def test_system_namespaces_and_our_own_never_match_whatever_their_labels(kind: str, name: str) -> None:
    levels = (None, "privileged", "baseline", "restricted")
    assert [asked(kind, namespace(name, level=level)) for level in levels] == [[], [], [], []]


@BOTH
@pytest.mark.parametrize("labels", [{}, OPT_OUT, {pod.INJECT_LABEL: "true"}, {pod.INJECT_LABEL: ""}])
def test_a_namespace_that_did_not_opt_in_never_matches(kind: str, labels: Mapping[str, str]) -> None:
    assert asked(kind, namespace(labels=labels)) == []


def test_a_pod_that_opted_out_never_reaches_us() -> None:
    assert asked(INJECTOR, namespace(), OPT_OUT) == []


@pytest.mark.parametrize("value", ["enabled", "true", ""])
def test_a_pod_with_any_other_value_of_the_label_reaches_us(value: str) -> None:
    assert len(asked(INJECTOR, namespace(), {pod.INJECT_LABEL: value})) == 1


def test_with_opt_out_denied_a_pod_that_opted_out_reaches_us() -> None:
    assert len(asked(INJECTOR, namespace(), OPT_OUT, "opt-out-denied")) == 1


def test_rule_16_the_injector_sees_the_creation_of_pods_and_nothing_else() -> None:
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    assert [entry["rules"] for entry in webhooks(render(), INJECTOR)] == [[pods | {"scope": "Namespaced"}]] * 3


def test_rules_18_and_21_to_23_how_the_injector_is_called() -> None:
    expected = {
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
    }
    for entry in webhooks(render(), INJECTOR):
        assert expected.items() <= entry.items()
        assert 2 <= entry["timeoutSeconds"] <= 5


def test_rule_22_only_mirror_pods_are_dropped_by_a_match_condition() -> None:
    for entry in webhooks(render(), INJECTOR):
        (condition,) = entry["matchConditions"]
        assert f"'{pod.MIRROR_ANNOTATION}' in object.metadata.annotations" in condition["expression"]


def test_rule_22a_the_advisor_never_stands_in_the_way() -> None:
    expected = {"failurePolicy": "Ignore", "sideEffects": "None", "matchPolicy": "Equivalent"}
    for entry in webhooks(render(), ADVISOR):
        assert expected.items() <= entry.items()
        assert entry["timeoutSeconds"] <= 5


def test_rule_22a_the_advisor_sees_every_workload_that_we_know() -> None:
    known = {(kind.lower() + "s", it.api_version) for kind, it in workload.KINDS.items() if kind != "Pod"}
    for entry in webhooks(render(), ADVISOR):
        rules = entry["rules"]
        assert {
            (name, f"{group}/v1") for rule in rules for group in rule["apiGroups"] for name in rule["resources"]
        } == known
        assert {tuple(rule["operations"]) for rule in rules} == {("CREATE", "UPDATE")}


@BOTH
def test_the_three_entries_differ_in_name_path_and_level_only(kind: str) -> None:
    def common(entry: Object) -> dict[str, Any]:
        service = {**entry["clientConfig"]["service"], "path": ""}
        others = [it for it in entry["namespaceSelector"]["matchExpressions"] if it["key"] != ENFORCE]
        return entry | {"name": "", "clientConfig": {"service": service}, "namespaceSelector": others}

    first, *rest = [common(entry) for entry in webhooks(render(), kind)]
    assert rest == [first, first]


@BOTH
def test_rule_25_the_api_server_finds_our_service_under_a_name_that_the_certificate_holds(kind: str) -> None:
    service = one(render(), "Service", WEBHOOK)
    name, ports = service["metadata"]["name"], {port["name"]: port["port"] for port in service["spec"]["ports"]}
    for entry in webhooks(render(), kind):
        called = entry["clientConfig"]["service"]
        assert (called["namespace"], called["name"], called["port"]) == (NAMESPACE, name, ports["https"])
        (leaf,) = [names for target, names in Installation().leaves.items() if target.name == f"{WEBHOOK}-tls"]
        assert f"{called['name']}.{called['namespace']}.svc" in leaf


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_no_manifest_holds_a_ca_bundle(component: str | None) -> None:
    registrations = [it for it in render(*([component] if component else [])) if "webhooks" in it]
    assert len(registrations) == 2
    assert "caBundle" not in repr(registrations)


def test_failure_policy_ignore_changes_the_failure_policy_and_nothing_else() -> None:
    changed = [entry | {"failurePolicy": "Fail"} for entry in webhooks(render("failure-policy-ignore"), INJECTOR)]
    assert changed == webhooks(render(), INJECTOR)
    assert {entry["failurePolicy"] for entry in webhooks(render("failure-policy-ignore"), INJECTOR)} == {"Ignore"}


def test_an_installation_like_the_example_lets_no_pod_start_outside_the_mesh() -> None:
    example = kustomize(MANIFESTS / "overlays" / "example")
    assert {entry["failurePolicy"] for entry in webhooks(example, INJECTOR)} == {"Fail"}


def test_opt_out_denied_changes_the_object_selector_and_nothing_else() -> None:
    base = webhooks(render(), INJECTOR)
    selector = base[0]["objectSelector"]
    assert [entry | {"objectSelector": selector} for entry in webhooks(render("opt-out-denied"), INJECTOR)] == base


def test_the_levels_are_those_that_the_policy_knows() -> None:
    assert {endpoint.level for endpoint in app.ENDPOINTS.values()} == set(get_args(policy.Level))
