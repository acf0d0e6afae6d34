"""What `certs` is given in the cluster is what its code needs: arguments, paths, names, rights."""

from collections.abc import Iterator

import pytest

from certs import objects
from certs.__main__ import _parser
from certs.objects import CONFIGURATIONS, Installation, Kind
from tests.contract.rendered import CERTS, NAMESPACE, SYSTEM, Object, one, pod_spec, render, webhooks

OURS = Installation()
PLURALS: dict[Kind, str] = {
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
}


def container() -> Object:
    (found,) = pod_spec(render(), CERTS)["containers"]
    assert isinstance(found, dict)
    return found


def rights(kind: str) -> Iterator[tuple[str, frozenset[str], frozenset[str]]]:
    """Resource, names, verbs: of the Role or the ClusterRole."""
    for rule in one(render(), kind, CERTS)["rules"]:
        for resource in rule["resources"]:
            yield resource, frozenset(rule.get("resourceNames", [])), frozenset(rule["verbs"])


def test_the_process_understands_its_arguments() -> None:
    program, *arguments = container()["args"]
    options = _parser().parse_args(arguments)
    assert program == "certs"
    assert options.namespace == NAMESPACE
    assert [port["containerPort"] for port in container()["ports"]] == [options.metrics_port]


def test_it_is_given_a_token() -> None:
    assert pod_spec(render(), CERTS)["automountServiceAccountToken"] is True


def test_rule_24_it_writes_the_three_secrets_and_reads_no_other() -> None:
    names = frozenset(target.name for target in (OURS.authority, *OURS.leaves))
    assert list(rights("Role")) == [("secrets", names, frozenset({"get", "create", "patch", "update"}))]


def test_rule_24_whatever_it_may_write_anywhere_it_may_by_name() -> None:
    writes = frozenset({"create", "patch", "update"})
    named = {(resource, names) for resource, names, verbs in rights("ClusterRole") if verbs & writes}
    registrations = {(PLURALS[target.kind], frozenset({target.name})) for target in CONFIGURATIONS}
    assert named == registrations | {("configmaps", frozenset({objects.CONFIG_MAP}))}


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
def test_it_deletes_nothing_and_nothing_is_a_wildcard(kind: str) -> None:
    granted = [(resource, verbs) for resource, _, verbs in rights(kind)]
    assert [it for it in granted if it[1] & {"delete", "deletecollection", "*"} or it[0] == "*"] == []


def test_the_registrations_that_it_writes_are_ours() -> None:
    for target in CONFIGURATIONS:
        assert one(render(), target.kind)["metadata"]["name"] == target.name


@pytest.mark.parametrize("kind", [target.kind for target in CONFIGURATIONS])
def test_it_publishes_trust_wherever_a_registration_selects(kind: Kind) -> None:
    key, value = objects.OPT_IN
    for entry in webhooks(render(), kind):
        expressions = entry["namespaceSelector"]["matchExpressions"]
        assert {"key": key, "operator": "In", "values": [value]} in expressions
        (excluded,) = [it["values"] for it in expressions if it["operator"] == "NotIn" and "name" in it["key"]]
        assert set(excluded) == {*objects.SYSTEM_NAMESPACES, NAMESPACE} == set(SYSTEM)


@pytest.mark.parametrize("name", ["envoy-sidecar-certs-registrations", "envoy-sidecar-certs-secrets"])
def test_each_policy_around_it_speaks_of_its_account_and_denies(name: str) -> None:
    policy = one(render(), "ValidatingAdmissionPolicy", name)["spec"]
    (condition,) = policy["matchConditions"]
    assert condition["expression"] == f"request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:{CERTS}'"
    assert policy["failurePolicy"] == "Fail"
    assert one(render(), "ValidatingAdmissionPolicyBinding", name)["spec"] == {
        "policyName": name,
        "validationActions": ["Deny"],
    }
