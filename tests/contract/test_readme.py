"""What manifests/README.md tells people to write does what it says."""

import re

import yaml

from tests.contract.rendered import MANIFESTS, NAMESPACE, kustomize, one, pod_spec, render
from tests.contract.test_schemas import RELEASES, problems

README = (MANIFESTS / "README.md").read_text()


def block(beginning: str) -> str:
    """The YAML block that begins so."""
    blocks: list[str] = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = [it for it in blocks if it.startswith(beginning)]
    return found


def test_the_guard_refuses_with_the_patch_shown() -> None:
    patched = render("guard", more=block("patches:"))
    binding = one(patched, "ValidatingAdmissionPolicyBinding", "envoy-sidecar-guard")
    assert binding["spec"]["validationActions"] == ["Deny", "Audit"]


def test_the_quota_shown_admits_our_pods() -> None:
    quota = yaml.safe_load(block("apiVersion: v1\nkind: ResourceQuota"))
    (expression,) = quota["spec"]["scopeSelector"]["matchExpressions"]
    assert quota["metadata"]["namespace"] == NAMESPACE
    assert expression["values"] == [pod_spec(render())["priorityClassName"]]
    assert [problem for release in RELEASES for problem in problems(quota, release)] == []


def test_every_folder_is_explained() -> None:
    folders = {str(it.parent.relative_to(MANIFESTS)) + "/" for it in MANIFESTS.rglob("kustomization.yaml")}
    assert folders - {"overlays/example/settings/"} == set(re.findall(r"^\| `(.+/)` \|", README, re.MULTILINE))


def test_the_example_changes_nothing_but_images_settings_and_components() -> None:
    example = kustomize(MANIFESTS / "overlays" / "example")
    base = render("guard")
    changed = {it["kind"] for it in example if it not in base}
    assert changed == {"ConfigMap", "Deployment"}
