"""Rule 24: what RBAC lets whom do, all of it. Whatever is added to a manifest is added here, or it fails."""

from collections.abc import Iterator
from itertools import product

import pytest

from tests.contract.rendered import CERTS, COMPONENTS, CONTROLPLANE, NAMESPACE, Object, render

Right = tuple[str, str, str, str, str]  # whose (namespace/account), where, resource (of a group), its name, verb
ANYWHERE = ANY = "*"


KINDS = ("Role", "ClusterRole")


def rights(objects: tuple[Object, ...]) -> Iterator[Right]:
    """Of every account: one for each verb."""
    roles = {(it["kind"], _place(it), it["metadata"]["name"]): it for it in objects if it["kind"] in KINDS}
    for binding in (it for it in objects if it["kind"] in ("RoleBinding", "ClusterRoleBinding")):
        kind, name = binding["roleRef"]["kind"], binding["roleRef"]["name"]
        role = roles[kind, ANYWHERE if kind == "ClusterRole" else _place(binding), name]
        for subject, rule in product(binding["subjects"], role["rules"]):
            assert subject["kind"] == "ServiceAccount"
            whose = f"{subject['namespace']}/{subject['name']}"
            things = product(rule["apiGroups"], rule["resources"], rule.get("resourceNames", [ANY]), rule["verbs"])
            for group, resource, named, verb in things:
                yield whose, _place(binding), f"{resource}.{group}".rstrip("."), named, verb


def _place(of: Object) -> str:
    return str(of["metadata"].get("namespace", ANYWHERE))


def allowed(whose: str, where: str, resource: str, verbs: str, *names: str) -> set[Right]:
    return set(product([whose], [where], [resource], names or [ANY], verbs.split()))


certs, controlplane = f"{NAMESPACE}/{CERTS}", f"{NAMESPACE}/{CONTROLPLANE}"
SECRETS = ("envoy-sidecar-ca-key", "envoy-sidecar-webhook-tls", "envoy-sidecar-controlplane-tls")
REGISTRATIONS = "webhookconfigurations.admissionregistration.k8s.io"
OF_CERTS = {
    *allowed(certs, NAMESPACE, "secrets", "get create patch update", *SECRETS),
    *allowed(certs, ANYWHERE, "namespaces", "list watch"),
    *allowed(certs, ANYWHERE, "configmaps", "list watch create patch update", "envoy-sidecar-ca"),
    *allowed(certs, ANYWHERE, f"mutating{REGISTRATIONS}", "get watch patch", "envoy-sidecar-webhook"),
    *allowed(certs, ANYWHERE, f"validating{REGISTRATIONS}", "get watch patch", "envoy-sidecar-advisor"),
}
OF_THE_CONTROL_PLANE = {
    *allowed(controlplane, NAMESPACE, "configmaps", "get list update"),
    *allowed(controlplane, ANYWHERE, "configmaps", "create patch delete"),
    *(
        right
        for watched in ("namespaces", "services", "endpointslices.discovery.k8s.io", "pods", "nodes")
        for right in allowed(controlplane, ANYWHERE, watched, "list watch")
    ),
    *allowed(controlplane, ANYWHERE, "events", "create"),
    *allowed(controlplane, ANYWHERE, "tokenreviews.authentication.k8s.io", "create"),
}
OTHERWISE = {  # by component; what is not here changes nothing
    "cert-manager": OF_THE_CONTROL_PLANE,
    "trust-manager": {
        *OF_CERTS,
        *OF_THE_CONTROL_PLANE,
        *allowed("cert-manager/trust-manager", ANYWHERE, "bootstraps.envoy-sidecar.io", "write"),
    },
}


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_nobody_may_do_more_or_less_than_this(component: str | None) -> None:
    expected = OTHERWISE.get(component or "", OF_CERTS | OF_THE_CONTROL_PLANE)
    assert set(rights(render(*([component] if component else [])))) == expected


@pytest.mark.parametrize("component", [None, *COMPONENTS])
def test_a_right_that_is_bound_to_nobody_is_the_one_for_whoever_installs(component: str | None) -> None:
    objects = render(*([component] if component else []))
    bound = {it["roleRef"]["name"] for it in objects if it["kind"].endswith("Binding") and "roleRef" in it}
    loose = {it["metadata"]["name"] for it in objects if it["kind"] in KINDS} - bound
    assert loose == {"envoy-sidecar-bootstrap-writer"} - bound
