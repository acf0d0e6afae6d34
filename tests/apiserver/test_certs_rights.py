"""What `certs` may do in a cluster, tried with the real token of its account: what it needs, and nothing beyond."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from certs import objects
from certs.kube import WATCHED, Kube, connect
from certs.objects import CONFIGURATIONS, Installation, Target
from tests.apiserver.account import APPLY, JSON, JSON_PATCH, MERGE_PATCH, SYSTEM, Account, Answer, sign_in
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.installation import Installation as Installed
from tests.apiserver.processes import eventually

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
PATHS = {
    "MutatingWebhookConfiguration": f"{ADMISSION}/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": f"{ADMISSION}/validatingwebhookconfigurations",
}
REGISTRATION = pytest.mark.parametrize("registration", CONFIGURATIONS, ids=lambda target: target.kind)
POLICY = "ValidatingAdmissionPolicy 'envoy-sidecar-certs-registrations'"
SECRETS_POLICY = "ValidatingAdmissionPolicy 'envoy-sidecar-certs-secrets'"
SECRETS = f"/api/v1/namespaces/{SYSTEM}/secrets"
FORBIDDEN = 403
ANY_CA = base64.b64encode(b"any").decode()


def path(registration: Target) -> str:
    return f"{PATHS[registration.kind]}/{registration.name}"


@pytest.fixture(scope="module")
def certs(installation: Installed) -> Account:
    """The account, once the API server acts on its policy."""
    account = sign_in(installation.cluster, "envoy-sidecar-certs")
    body = {"metadata": {"labels": {"any": "label"}}}

    def refused() -> bool:
        return POLICY in account.ask("PATCH", path(CONFIGURATIONS[0]), body, MERGE_PATCH).message

    eventually(refused, "the policy around certs is in effect")
    return account


@pytest.fixture(scope="module")
def kube(certs: Account) -> Kube:
    """The code of `certs`, as that account."""
    return Kube(connect(str(certs.kubeconfig)), Installation())


@pytest.fixture
def no_secrets(kubernetes: Cluster, certs: Account) -> Iterator[None]:
    """None of the Secrets, as before a first installation; and none is left behind."""
    names = [target.name for target in (Installation().authority, *Installation().leaves)]
    delete = ("delete", "secret", "-n", SYSTEM, "--ignore-not-found", *names)
    kubernetes.kubectl(*delete)
    yield
    kubernetes.kubectl(*delete)


def refused_for_lack_of_rights(answer: Answer) -> bool:
    return answer.status == FORBIDDEN and "system:serviceaccount:envoy-sidecar-system:envoy-sidecar-certs" in (
        answer.message
    )


def empty(kind: str, name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}} | more


# What it has to do


def test_it_reads_everything_that_it_needs(kube: Kube, shop: str) -> None:
    reading = kube.read()
    assert set(CONFIGURATIONS) <= set(reading.found)
    assert shop in reading.namespaces


@pytest.mark.parametrize("target", [Installation().authority, *Installation().leaves], ids=lambda target: target.name)
def test_it_makes_and_fills_its_secrets(kube: Kube, no_secrets: None, target: Target) -> None:
    kube.create(target)
    kube.fill(target, kube.read().found[target], {"any": b"thing"})
    assert kube.read().found[target]["data"] == {"any": base64.b64encode(b"thing").decode()}


def test_it_publishes_trust_in_a_namespace_that_opted_in(kube: Kube, shop: str) -> None:
    target = Installation().config_map(shop)
    kube.create(target)
    kube.publish(target, kube.read().found[target], b"any CA")
    assert kube.read().found[target]["data"] == {objects.CONFIG_MAP_KEY: "any CA"}


@REGISTRATION
def test_it_publishes_trust_in_a_registration(kube: Kube, registration: Target) -> None:
    found = kube.read().found[registration]
    bundles = {webhook["clientConfig"]["caBundle"] for webhook in found["webhooks"]}
    (present,) = bundles
    kube.publish(registration, found, base64.b64decode(present))


@REGISTRATION
def test_a_ca_bundle_may_come_and_go(certs: Account, registration: Target) -> None:
    changes: tuple[Object, ...] = ({"op": "replace", "value": ANY_CA}, {"op": "remove"})
    for change in changes:
        body = [change | {"path": "/webhooks/1/clientConfig/caBundle"}]
        answer = certs.ask("PATCH", path(registration), body, JSON_PATCH)
        assert POLICY not in answer.message  # what is no certificate, the API server itself refuses
        assert answer.status != FORBIDDEN


@pytest.mark.parametrize("watched", WATCHED, ids=lambda watched: watched[0])
def test_it_watches_what_it_needs(kube: Kube, shop: str, watched: tuple[str, Any]) -> None:
    kube.create(Installation().config_map(shop))
    changes = kube.watch(*watched)
    next(changes)
    changes.close()  # type: ignore[attr-defined]


# Registrations: the caBundle, and nothing else

ENTRY = "/webhooks/0"
EVERYTHING = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"], "scope": "*"}
CHANGES: dict[str, list[Object]] = {
    "the url": [{"op": "add", "path": f"{ENTRY}/clientConfig/url", "value": "https://attacker.example/"}],
    "a service instead of the url": [
        {"op": "remove", "path": f"{ENTRY}/clientConfig/url"},
        {"op": "add", "path": f"{ENTRY}/clientConfig/service", "value": {"namespace": "attacker", "name": "attacker"}},
    ],
    "the rules": [{"op": "replace", "path": f"{ENTRY}/rules", "value": [EVERYTHING]}],
    "the namespaceSelector": [{"op": "replace", "path": f"{ENTRY}/namespaceSelector", "value": {}}],
    "the objectSelector": [
        {"op": "add", "path": f"{ENTRY}/objectSelector", "value": {"matchLabels": {"any": "label"}}}
    ],
    "the matchPolicy": [{"op": "replace", "path": f"{ENTRY}/matchPolicy", "value": "Exact"}],
    "the matchConditions": [{"op": "remove", "path": f"{ENTRY}/matchConditions"}],
    "the sideEffects": [{"op": "replace", "path": f"{ENTRY}/sideEffects", "value": "NoneOnDryRun"}],
    "the timeout": [{"op": "replace", "path": f"{ENTRY}/timeoutSeconds", "value": 30}],
    "the versions of reviews": [{"op": "add", "path": f"{ENTRY}/admissionReviewVersions/-", "value": "v1beta1"}],
    "a name": [{"op": "replace", "path": f"{ENTRY}/name", "value": "attacker.envoy-sidecar.io"}],
    "an entry less": [{"op": "remove", "path": ENTRY}],
    "no entry": [{"op": "remove", "path": "/webhooks"}],
    "the order": [{"op": "move", "from": ENTRY, "path": "/webhooks/1"}],
    "an entry more": [
        {"op": "copy", "from": ENTRY, "path": "/webhooks/-"},
        {"op": "replace", "path": "/webhooks/3/name", "value": "attacker.envoy-sidecar.io"},
    ],
    "a label": [{"op": "add", "path": "/metadata/labels/any", "value": "label"}],
    "a label less": [{"op": "remove", "path": "/metadata/labels"}],
    "an annotation": [{"op": "add", "path": "/metadata/annotations/any", "value": "thing"}],
    "an owner": [
        {
            "op": "add",
            "path": "/metadata/ownerReferences",
            "value": [{"apiVersion": "v1", "kind": "Namespace", "name": "shop", "uid": "0"}],
        }
    ],
    "a finalizer": [{"op": "add", "path": "/metadata/finalizers", "value": ["attacker.example/never"]}],
    "another thing beside the caBundle": [
        {"op": "remove", "path": f"{ENTRY}/clientConfig/caBundle"},
        {"op": "replace", "path": f"{ENTRY}/timeoutSeconds", "value": 1},
    ],
}
INJECTOR_CHANGES = {"failurePolicy": "Ignore", "reinvocationPolicy": "Never"}  # of what is otherwise in the advisor


@REGISTRATION
@pytest.mark.parametrize("change", CHANGES)
def test_it_may_change_nothing_else_of_a_registration(certs: Account, registration: Target, change: str) -> None:
    answer = certs.ask("PATCH", path(registration), CHANGES[change], JSON_PATCH)
    assert answer.status == FORBIDDEN
    assert POLICY in answer.message


@pytest.mark.parametrize("name", INJECTOR_CHANGES)
def test_it_may_not_say_how_the_injector_is_called(certs: Account, name: str) -> None:
    body = [{"op": "replace", "path": f"{ENTRY}/{name}", "value": INJECTOR_CHANGES[name]}]
    assert POLICY in certs.ask("PATCH", path(CONFIGURATIONS[0]), body, JSON_PATCH).message


@REGISTRATION
def test_no_form_of_patch_gets_around_that(certs: Account, registration: Target) -> None:
    patch = {"webhooks": [{"name": "attacker.envoy-sidecar.io", "sideEffects": "None"}]}
    metadata = {"name": registration.name, "labels": {"any": "label"}}
    applied = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": registration.kind, "metadata": metadata}
    assert certs.ask("PATCH", path(registration), patch, MERGE_PATCH).status != 200
    assert POLICY in certs.ask("PATCH", path(registration), applied, APPLY).message
    assert refused_for_lack_of_rights(certs.ask("PUT", path(registration), applied, JSON))


@REGISTRATION
def test_it_may_touch_no_other_registration(certs: Account, kubernetes: Cluster, registration: Target) -> None:
    name = "somebody-elses"
    other = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": registration.kind, "metadata": {"name": name}}
    body = [{"op": "add", "path": "/metadata/labels", "value": {"any": "label"}}]
    kubernetes.kubectl("apply", "-f", "-", stdin=other)
    try:
        assert refused_for_lack_of_rights(certs.ask("PATCH", f"{PATHS[registration.kind]}/{name}", body, JSON_PATCH))
        assert refused_for_lack_of_rights(certs.ask("GET", f"{PATHS[registration.kind]}/{name}"))
    finally:
        kubernetes.kubectl("delete", registration.kind, name)
    assert refused_for_lack_of_rights(certs.ask("PATCH", f"{PATHS[registration.kind]}/{name}", other, APPLY))
    assert refused_for_lack_of_rights(certs.ask("POST", PATHS[registration.kind], other))


@REGISTRATION
def test_it_may_delete_no_registration(certs: Account, registration: Target) -> None:
    assert refused_for_lack_of_rights(certs.ask("DELETE", path(registration)))
    assert refused_for_lack_of_rights(certs.ask("DELETE", PATHS[registration.kind]))


# Secrets and ConfigMaps


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_it_may_not_list_watch_or_empty_the_secrets(certs: Account, method: str) -> None:
    assert refused_for_lack_of_rights(certs.ask(method, SECRETS))
    assert refused_for_lack_of_rights(certs.ask("GET", f"{SECRETS}?watch=true"))
    assert refused_for_lack_of_rights(certs.ask("GET", "/api/v1/secrets"))


@pytest.mark.parametrize(
    "place",
    [f"{SECRETS}/somebody-elses", "/api/v1/namespaces/default/secrets/envoy-sidecar-ca-key"],
    ids=["of another name", "in another namespace"],
)
def test_it_may_not_touch_a_secret(certs: Account, place: str) -> None:
    secret = empty("Secret", place.rpartition("/")[2])
    assert refused_for_lack_of_rights(certs.ask("GET", place))
    assert refused_for_lack_of_rights(certs.ask("PATCH", place, secret, APPLY))
    assert refused_for_lack_of_rights(certs.ask("PUT", place, secret))
    assert refused_for_lack_of_rights(certs.ask("POST", place.rpartition("/")[0], secret))
    assert refused_for_lack_of_rights(certs.ask("DELETE", place))


def test_it_may_not_delete_its_own_secrets(certs: Account) -> None:
    assert refused_for_lack_of_rights(certs.ask("DELETE", f"{SECRETS}/envoy-sidecar-ca-key"))


def test_no_secret_of_it_can_ask_for_the_token_of_another_account(certs: Account, no_secrets: None) -> None:
    secret = empty("Secret", "envoy-sidecar-ca-key", type="kubernetes.io/service-account-token")
    secret["metadata"]["annotations"] = {"kubernetes.io/service-account.name": "envoy-sidecar-webhook"}
    answer = certs.ask("PATCH", f"{SECRETS}/envoy-sidecar-ca-key", secret, APPLY)
    assert answer.status == FORBIDDEN
    assert SECRETS_POLICY in answer.message


@pytest.mark.parametrize("name", ["settings", "envoy-sidecar-bootstrap-0123456789", "envoy-sidecar-ca-2"])
def test_it_may_touch_no_config_map_of_another_name(certs: Account, shop: str, name: str) -> None:
    config_maps = f"/api/v1/namespaces/{shop}/configmaps"
    body = empty("ConfigMap", name)
    assert refused_for_lack_of_rights(certs.ask("GET", f"{config_maps}/{name}"))
    assert refused_for_lack_of_rights(certs.ask("PATCH", f"{config_maps}/{name}", body, APPLY))
    assert refused_for_lack_of_rights(certs.ask("PUT", f"{config_maps}/{name}", body))
    assert refused_for_lack_of_rights(certs.ask("POST", config_maps, body))
    assert refused_for_lack_of_rights(certs.ask("DELETE", f"{config_maps}/{name}"))


def test_it_sees_no_config_map_but_those_that_it_asks_for_by_name(certs: Account) -> None:
    assert refused_for_lack_of_rights(certs.ask("GET", "/api/v1/configmaps"))
    assert refused_for_lack_of_rights(certs.ask("GET", "/api/v1/configmaps?fieldSelector=metadata.name%3Dsettings"))


# Whatever would give it more

NEW_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "more"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    "subjects": [{"kind": "ServiceAccount", "name": "envoy-sidecar-certs", "namespace": SYSTEM}],
}
RBAC = "/apis/rbac.authorization.k8s.io/v1"
OURS = f"/api/v1/namespaces/{SYSTEM}"
LABEL = [{"op": "add", "path": "/metadata/labels/any", "value": "label"}]
ESCALATIONS: dict[str, tuple[str, str, object, str]] = {
    "bind a role": ("POST", f"{RBAC}/clusterrolebindings", NEW_BINDING, JSON),
    "widen its role": ("PATCH", f"{RBAC}/clusterroles/envoy-sidecar-certs", LABEL, JSON_PATCH),
    "widen its role here": ("PATCH", f"{RBAC}/namespaces/{SYSTEM}/roles/envoy-sidecar-certs", LABEL, JSON_PATCH),
    "loosen its policy": (
        "PATCH",
        f"{ADMISSION}/validatingadmissionpolicies/envoy-sidecar-certs-registrations",
        LABEL,
        JSON_PATCH,
    ),
    "unbind its policy": (
        "DELETE",
        f"{ADMISSION}/validatingadmissionpolicybindings/envoy-sidecar-certs-registrations",
        None,
        JSON,
    ),
    "get a token": ("POST", f"{OURS}/serviceaccounts/envoy-sidecar-webhook/token", {}, JSON),
    "run a pod": ("POST", f"{OURS}/pods", empty("Pod", "any"), JSON),
    "change a Deployment": (
        "PATCH",
        f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/envoy-sidecar-webhook",
        LABEL,
        JSON_PATCH,
    ),
    "opt a namespace in": ("PATCH", "/api/v1/namespaces/default", LABEL, JSON_PATCH),
    "read a namespace's pods": ("GET", "/api/v1/namespaces/default/pods", None, JSON),
}


@pytest.mark.parametrize("what", ESCALATIONS)
def test_it_may_not(certs: Account, what: str) -> None:
    method, where, body, content_type = ESCALATIONS[what]
    assert refused_for_lack_of_rights(certs.ask(method, where, body, content_type))


# The policies stand in nobody else's way


@REGISTRATION
def test_whoever_installs_may_change_a_registration(kubernetes: Cluster, certs: Account, registration: Target) -> None:
    kubernetes.kubectl("label", registration.kind, registration.name, "any=label", "--dry-run=server")
