"""`manifests/components/cert-manager`: its certificates in the place of ours, and the rest as it is."""

from datetime import timedelta
from typing import Any

import pytest

from certs.objects import Installation
from certs.rotation import Lifetimes
from tests.contract.rendered import CERTS, NAMESPACE, WEBHOOK, Object, one, render

GROUP = "cert-manager.io"
CA, SERVING = "envoy-sidecar-ca", WEBHOOK
LEAVES = {target.name: names for target, names in Installation().leaves.items()}
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


def test_the_webhook_is_served_under_the_same_names_from_the_same_secret() -> None:
    serving = spec("Certificate", SERVING)
    assert tuple(serving["dnsNames"]) == LEAVES[serving["secretName"]]
    assert serving["secretName"] == f"{WEBHOOK}-tls"
    assert "server auth" in serving["usages"]


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
