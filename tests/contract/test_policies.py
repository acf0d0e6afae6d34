"""The admission policies speak of the same names as the code."""

import re

import pytest

from controlplane import bootstrap
from controlplane.bootstrap import Bootstrap
from tests.contract.rendered import SYSTEM, Object, one, render
from webhook import pod
from webhook.policy import SkipReason

POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
NAMES = ("envoy-sidecar-config-maps", "envoy-sidecar-namespace-label", "envoy-sidecar-guard")


def policy(name: str) -> Object:
    spec: Object = one(render("guard"), POLICY, name)["spec"]
    return spec


def guarded(name: str) -> bool:
    """Whether a ConfigMap of that name is one of ours."""
    (condition,) = policy("envoy-sidecar-config-maps")["matchConditions"]
    pattern = re.fullmatch(r".*\.matches\('(.+)'\)", condition["expression"])
    assert pattern is not None
    return re.search(pattern[1], name) is not None


def test_the_bootstraps_that_we_render_are_guarded() -> None:
    assert guarded(bootstrap.config_map_name(Bootstrap()))


@pytest.mark.parametrize("name", ["envoy-sidecar-ca-2", "envoy-sidecar-notes", "my-envoy-sidecar-ca", "settings"])
def test_other_config_maps_are_not(name: str) -> None:
    assert not guarded(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_is_bound(name: str) -> None:
    assert one(render("guard"), BINDING, name)["spec"]["policyName"] == name


def test_our_config_maps_are_denied_and_the_others_only_warn() -> None:
    actions = {name: one(render("guard"), BINDING, name)["spec"]["validationActions"] for name in NAMES}
    assert actions == dict(zip(NAMES, (["Deny"], ["Warn"], ["Warn", "Audit"]), strict=True))


def test_what_only_warns_never_stops_a_request() -> None:
    assert [policy(name)["failurePolicy"] for name in NAMES] == ["Fail", "Ignore", "Ignore"]


def test_the_guard_knows_every_reason_to_be_skipped() -> None:
    reasons = {condition["name"].removeprefix("not.") for condition in policy("envoy-sidecar-guard")["matchConditions"]}
    never_stored = {SkipReason.NO_CONTAINERS, SkipReason.NOT_POD_CREATION, SkipReason.NO_PODS}
    assert reasons == set(SkipReason) - never_stored


def test_the_guard_knows_our_names() -> None:
    text = repr(policy("envoy-sidecar-guard"))
    for name in (pod.SIDECAR, pod.INJECTED_LABEL, pod.INJECT_LABEL, pod.MIRROR_ANNOTATION):
        assert f"'{name}'" in text


def test_the_guard_watches_the_namespaces_that_the_injector_serves() -> None:
    entry = one(render(), "MutatingWebhookConfiguration")["webhooks"][0]["namespaceSelector"]["matchExpressions"]
    levels = [it for it in entry if it["key"] != "pod-security.kubernetes.io/enforce"]
    assert policy("envoy-sidecar-guard")["matchConstraints"]["namespaceSelector"]["matchExpressions"] == levels


def test_the_label_policy_knows_the_label_and_the_namespaces_that_are_never_injected() -> None:
    text = repr(policy("envoy-sidecar-namespace-label"))
    assert f"'{pod.INJECT_LABEL}'" in text
    assert all(f"'{name}'" in text for name in SYSTEM)
