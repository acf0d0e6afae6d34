"""Every manifest is what Kubernetes takes, from the floor to the newest release known here."""

import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions
from packaging.version import Version

from tests.contract.rendered import COMPONENTS, MANIFESTS, Object, kustomize, render

FLOOR = Version("1.30")
RELEASES = sorted({f"{it.major}.{it.minor}" for it in map(Version, all_versions()) if it >= FLOOR}, key=Version)
FOREIGN = {
    "cert-manager.io",
    "monitoring.coreos.com",
    "trust.cert-manager.io",
}  # API groups of others: their schemas are not Kubernetes' own
RENDERINGS = {
    "everything": lambda: render(*(it for it in COMPONENTS if it not in ("cert-manager", "trust-manager"))),
    "cert-manager, without what it replaces": lambda: render("trust-manager", "cert-manager"),
    "the example": lambda: kustomize(MANIFESTS / "overlays" / "example"),
}


def problems(manifest: Object, release: str) -> list[str]:
    try:
        kubernetes_validate.validate(manifest, release, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{manifest['kind']}: {error.message}"]
    return []


def is_foreign(manifest: Object) -> bool:
    return manifest["apiVersion"].partition("/")[0] in FOREIGN


def test_the_floor_is_among_the_releases() -> None:
    assert RELEASES[0] == str(FLOOR)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_works_by_itself(component: str) -> None:
    assert render(component) != render()


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("rendering", RENDERINGS)
def test_every_manifest_passes_strict_validation(rendering: str, release: str) -> None:
    ours = [manifest for manifest in RENDERINGS[rendering]() if not is_foreign(manifest)]
    assert [problem for manifest in ours for problem in problems(manifest, release)] == []


def test_a_wrong_field_does_not_pass() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}
    assert problems(service, RELEASES[0])
