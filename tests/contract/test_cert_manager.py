"""`manifests/components/cert-manager`, and `trust-manager`: certificates of theirs, and the rest as it is."""

from datetime import timedelta
from typing import Any

import pytest

from certs import objects
from certs.objects import Installation
from certs.rotation import Lifetimes
from tests.contract.rendered import CERTS, CONTROLPLANE, NAMESPACE, WEBHOOK, Object, one, render

GROUP = "cert-manager.io"
CA, SERVING = "envoy-sidecar-ca", WEBHOOK
LEAVES = {target.name: names for target, names in Installation().leaves.items()}
SERVERS = pytest.mark.parametrize("server", [WEBHOOK, CONTROLPLANE])
RENEWED_BY_ALERTS = timedelta(days=7)  # EnvoySidecarCertificateNotRenewed


def spec(kind: str, name: str) -> Object:
    found: Object = one(render("cert-manager"), kind, name)["spec"]
    return found


def lasting(text: str) -> timedelta:
    """A duration as Go writes it, in hours."""
    assert text.endswith("h")
    return timedelta(hours=int(text.removesuffix("h")))


def others(objects: tuple[Object, ...]) -> list[Object]:
    """Without what is of one of the two."""
    return [
        it
        for it in objects
        if not it["apiVersion"].startswith(f"{GROUP}/") and not it["metadata"]["name"].startswith(CERTS)
    ]


def test_nothing_of_certs_is_left() -> None:
    left = [it["metadata"]["name"] for it in render("monitoring", "cert-manager")]
    assert [name for name in left if name.startswith(CERTS)] == []


def test_it_changes_an_annotation_of_the_registrations_and_nothing_else() -> None:
    annotated: dict[str, Any] = {f"{GROUP}/inject-ca-from": f"{NAMESPACE}/{SERVING}"}
    expected = [
        it | {"metadata": it["metadata"] | {"annotations": annotated}} if "webhooks" in it else it
        for it in others(render())
    ]
    assert others(render("cert-manager")) == expected


@SERVERS
def test_a_server_is_served_under_the_same_names_from_the_same_secret(server: str) -> None:
    serving = spec("Certificate", server)
    assert tuple(serving["dnsNames"]) == LEAVES[serving["secretName"]]
    assert serving["secretName"] == f"{server}-tls"
    assert "server auth" in serving["usages"]


@SERVERS
def test_all_that_differs_between_servers_are_their_names(server: str) -> None:
    own = {name: spec("Certificate", server)[name] for name in ("secretName", "dnsNames")}
    assert spec("Certificate", server) == spec("Certificate", SERVING) | own


def test_every_server_of_ours_has_one() -> None:
    kind = [it for it in render("cert-manager") if it["kind"] == "Certificate"]
    assert {it["spec"]["secretName"] for it in kind} == LEAVES.keys() | {spec("Certificate", CA)["secretName"]}


def test_the_ca_signs_the_serving_certificate_and_itself() -> None:
    assert spec("Certificate", SERVING)["issuerRef"]["name"] == CA
    assert spec("Issuer", CA)["ca"]["secretName"] == spec("Certificate", CA)["secretName"]
    assert spec("Issuer", spec("Certificate", CA)["issuerRef"]["name"]) == {"selfSigned": {}}
    assert spec("Certificate", CA)["isCA"] is True


def test_the_secret_of_our_own_ca_is_left_alone() -> None:
    assert spec("Certificate", CA)["secretName"] != Installation().authority.name


def test_the_ca_keeps_its_key_for_without_an_overlap_a_new_one_would_leave_a_gap() -> None:
    assert spec("Certificate", CA)["privateKey"]["rotationPolicy"] == "Never"
    assert spec("Certificate", SERVING)["privateKey"]["rotationPolicy"] == "Always"


def test_no_certificate_outlives_its_ca() -> None:
    assert lasting(spec("Certificate", CA)["renewBefore"]) > lasting(spec("Certificate", SERVING)["duration"])


@pytest.mark.parametrize(("name", "lifetime"), [(CA, Lifetimes().ca), (SERVING, Lifetimes().leaf)])
def test_lifetimes_are_those_of_certs(name: str, lifetime: timedelta) -> None:
    certificate = spec("Certificate", name)
    assert lasting(certificate["duration"]) == lifetime
    assert round(lifetime / lasting(certificate["renewBefore"]), 1) == 3  # renewed when a third is left


def test_it_is_renewed_before_an_alert_asks_why_not() -> None:
    assert lasting(spec("Certificate", SERVING)["renewBefore"]) > RENEWED_BY_ALERTS


# trust-manager


def test_sidecars_find_the_ca_where_certs_would_have_published_it() -> None:
    bundle = one(render("trust-manager"), "Bundle")
    assert bundle["metadata"]["name"] == objects.CONFIG_MAP
    assert bundle["spec"]["target"] == {
        "configMap": {"key": objects.CONFIG_MAP_KEY},
        "namespaceSelector": {"matchLabels": dict([objects.OPT_IN])},
    }


def test_it_is_the_ca_that_cert_manager_made() -> None:
    (source,) = one(render("trust-manager"), "Bundle")["spec"]["sources"]
    assert source == {"secret": {"name": spec("Certificate", CA)["secretName"], "key": "tls.crt"}}


def test_trust_manager_may_write_what_our_policy_keeps_from_others() -> None:
    binding = one(render("trust-manager"), "ClusterRoleBinding", "envoy-sidecar-trust-manager")
    role = one(render(), "ClusterRole", binding["roleRef"]["name"])
    asked = one(render(), "ValidatingAdmissionPolicy", "envoy-sidecar-config-maps")["spec"]["validations"]
    (rule,) = role["rules"]
    check = f"authorizer.group('{rule['apiGroups'][0]}').resource('{rule['resources'][0]}').check('{rule['verbs'][0]}')"
    assert check in asked[0]["expression"]
