"""Properties of the patch, over generated pods, and what happens to a pod that already carries our parts."""

import copy
import json
from typing import Any

import jsonpatch
import jsonpointer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import build
from tests.build import Document
from webhook import pod
from webhook.injection import Injected, Rejected, Unchanged, _inject
from webhook.pod import INJECTED_LABEL, MARKERS, PROBES_ANNOTATION
from webhook.policy import RejectReason

OURS = ("envoy-sidecar", "envoy-sidecar-init")
CLASSIC = build.operator("sidecar: {form: classic}")
NONE = build.operator("sidecar: {mode: none}")
TPROXY = build.operator("sidecar: {mode: tproxy}")

words = st.text("abcxyz~/-._0é", min_size=1, max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


KINDS = ("startupProbe", "readinessProbe", "livenessProbe")
PORTS = [{"name": "db", "containerPort": 3306}, {"name": "excluded", "containerPort": 8081}]
ODD_PORTS: list[Any] = ["unknown", "", "excluded", 8081, 15021, 0, 65536, -1]
ODD_ACTIONS: list[Any] = [None, {}]
PROBES: list[Document] = [
    {"tcpSocket": {"port": 3306}, "periodSeconds": 3, "x-unknown": [None]},
    {"tcpSocket": {"port": "db"}, "timeoutSeconds": 7},
    {"tcpSocket": {"port": "db", "host": "", "x~unknown/": {}}, "httpGet": None},
    *({"tcpSocket": {"port": port}} for port in ODD_PORTS),
    {"tcpSocket": {"port": 3306, "host": "db.example"}},
    *({"tcpSocket": action} for action in ODD_ACTIONS),
    {"httpGet": {"port": "http", "path": "/"}},
    {"grpc": {"port": 9000}, "tcpSocket": {"port": 3306}},
    {"exec": {"command": ["true"]}, "timeoutSeconds": -1},
    {},
]


@st.composite
def containers(draw: st.DrawFn, name: str, least: int, most: int) -> list[Document]:
    probes = st.dictionaries(st.sampled_from(KINDS), st.sampled_from(PROBES))
    count = draw(st.integers(least, most))
    return [
        {
            "name": f"{name}{index}",
            "image": draw(words),
            "x-unknown": draw(json_values),
            **draw(st.sampled_from([{}, {"restartPolicy": "Always"}, {"ports": [{"containerPort": 80}]}])),
            **draw(st.sampled_from([{}, {"ports": PORTS}])),
            **draw(probes),
        }
        for index in range(count)
    ]


@st.composite
def pods(draw: st.DrawFn) -> Document:
    def maybe(strategy: st.SearchStrategy[Any]) -> Any:
        return draw(st.sampled_from([None, "absent"]) | strategy)

    metadata = {
        "name": "p",
        "labels": maybe(st.dictionaries(words, words, max_size=4)),
        "annotations": maybe(st.dictionaries(words, words, max_size=4)),
        "x~unknown/": draw(json_values),
    }
    spec = {
        "containers": draw(containers("c", 1, 20)),
        "initContainers": maybe(containers("i", 0, 5)),
        "volumes": maybe(st.just([]) | st.just([{"name": "data", "emptyDir": {}}])),
        "x-unknown": draw(json_values),
    }
    return {
        "metadata": {key: value for key, value in metadata.items() if value != "absent"},
        "spec": {key: value for key, value in spec.items() if value != "absent"},
        "status": draw(json_values),
    }


UNLIMITED = build.operator("sidecar: {resources: {cpuLimit: null, memoryLimit: null}}")
EXCLUDING = build.operator("redirect: {excludeInboundPorts: [8081]}")
operators = st.sampled_from([build.DEFAULTS, CLASSIC, NONE, TPROXY, UNLIMITED, EXCLUDING])


def operations(document: Document, by: Any = build.DEFAULTS) -> list[Document]:
    result = build.outcome(document, by=by)
    assert isinstance(result, Injected), result
    found: list[Document] = json.loads(result.patch)
    return found


def authors_part(document: Document) -> Document:
    """The pod less what is ours, with absent, null and empty taken for the same."""
    rest = copy.deepcopy(document)
    metadata, spec = rest["metadata"], rest["spec"]
    ours = (INJECTED_LABEL, *MARKERS)
    for key in ("labels", "annotations"):
        kept = {name: value for name, value in (metadata.pop(key, None) or {}).items() if name not in ours}
        kept.pop("kubectl.kubernetes.io/default-container", None)
        metadata[key] = kept
    for key in ("containers", "initContainers", "volumes"):
        spec[key] = [item for item in spec.pop(key, None) or [] if not item["name"].startswith("envoy-sidecar")]
    kept = json.loads((document["metadata"].get("annotations") or {}).get(PROBES_ANNOTATION, "{}"))
    for container in (*spec["containers"], *spec["initContainers"]):
        for kind, original in kept.get(container["name"], {}).items():
            asked = container[kind].pop("httpGet")
            assert (asked["port"], asked["scheme"]) == (15020, "HTTP")
            container[kind]["tcpSocket"] = original
        for kind in KINDS:
            container[kind] = {key: value for key, value in container.get(kind, {}).items() if value is not None}
    return rest


@given(pods(), operators)
def test_nothing_the_author_wrote_is_changed_removed_or_reordered(document: Document, by: Any) -> None:
    assert authors_part(build.injected(document, by=by)) == authors_part(document)


@given(pods(), operators)
def test_a_second_pass_finds_nothing_to_do(document: Document, by: Any) -> None:
    assert isinstance(build.outcome(build.injected(document, by=by), by=by), Unchanged)


@given(pods(), operators)
def test_a_pod_of_which_little_is_read_gets_what_it_gets_if_all_is_read(document: Document, by: Any) -> None:
    raw = json.dumps(document).encode()
    assert build.outcome(document, by=by) == _inject(pod.decode(raw), pod.decode_whole(raw), "privileged", by)


@given(pods(), operators)
def test_the_containers_stand_where_their_form_needs_them(document: Document, by: Any) -> None:
    spec = build.injected(document, by=by)["spec"]
    inits = [container["name"] for container in spec.get("initContainers") or []]
    names = [container["name"] for container in spec["containers"]]
    if by is CLASSIC:
        assert names[0] == "envoy-sidecar"
        assert inits[-1] == "envoy-sidecar-init"
    elif by is NONE:
        assert inits[0] == "envoy-sidecar"
        assert "envoy-sidecar-init" not in inits
    else:
        assert inits[:2] == ["envoy-sidecar-init", "envoy-sidecar"]
    assert [name for name in [*inits, *names] if name in OURS].count("envoy-sidecar") == 1


@given(pods(), operators)
def test_an_authors_list_is_never_indexed_except_to_insert_at_0_and_for_tcp_probes(document: Document, by: Any) -> None:
    made = operations(document, by)
    while made[0]["op"] == "test":
        tested, replaced, *made = made
        assert tested["value"] == jsonpointer.resolve_pointer(document, tested["path"])
        assert "tcpSocket" in tested["value"]
        assert (replaced["op"], replaced["path"]) == ("replace", tested["path"])
    for operation in made:
        assert operation["op"] == "add"
        path = operation["path"].split("/")
        if path[1] == "spec" and len(path) > 3:
            assert path[3] in ("0", "-")
            assert len(path) == 4


@pytest.mark.parametrize("by", [build.DEFAULTS, CLASSIC, NONE, TPROXY])
def test_the_number_of_operations_does_not_grow_with_the_pod(by: Any) -> None:
    small = build.pod({}, {}, initContainers=[build.container("init")], volumes=[])
    env = [{"name": f"V{index}", "value": "x"} for index in range(2000)]
    large = build.pod(
        {"example.com/a": "x" * 5000},
        {str(index): "x" for index in range(50)},
        containers=[build.container(f"c{index}", env=env) for index in range(50)],
        initContainers=[build.container(f"i{index}", env=env) for index in range(20)],
        volumes=[{"name": f"v{index}", "emptyDir": {}} for index in range(50)],
    )
    assert len(operations(large, by)) == len(operations(small, by)) <= 10


# A pod that carries our parts already


def stored(by: Any = build.DEFAULTS, annotations: dict[str, str] | None = None, **spec: Any) -> Document:
    return build.injected(build.pod(annotations, **spec), by=by)


def our(document: Document, name: str = "envoy-sidecar") -> Document:
    return build.named([*document["spec"].get("initContainers", []), *document["spec"]["containers"]], name)


def test_always_pull_images_is_left_standing() -> None:
    document = stored()
    for container in document["spec"]["initContainers"]:
        container["imagePullPolicy"] = "Always"
    assert isinstance(build.outcome(document), Unchanged)


def test_what_limit_ranger_filled_in_is_left_standing() -> None:
    document = stored(by=(by := build.operator("sidecar: {resources: {cpuLimit: null}}")))
    our(document)["resources"]["limits"]["cpu"] = "700m"
    our(document)["resources"]["requests"]["ephemeral-storage"] = "1Gi"
    assert isinstance(build.outcome(document, by=by), Unchanged)


def test_a_repair_keeps_what_the_plugins_did_since_they_do_not_come_again() -> None:
    document = stored()
    for container in document["spec"]["initContainers"]:
        container["imagePullPolicy"] = "Always"
        container["resources"]["limits"]["ephemeral-storage"] = "1Gi"
    settled = copy.deepcopy(document)
    our(document)["image"] = "evil.example/envoy:1"
    assert build.injected(document) == settled
    settled["spec"]["initContainers"].insert(0, build.container("other"))
    assert our(build.injected(settled))["imagePullPolicy"] == "Always"


def without_empty(node: Any) -> Any:
    """As Go writes it: empty maps and lists are left out."""
    if isinstance(node, dict):
        kept = {key: without_empty(value) for key, value in node.items()}
        return {key: value for key, value in kept.items() if value not in ({}, [])}
    return [without_empty(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("by", [build.DEFAULTS, CLASSIC, NONE, TPROXY, UNLIMITED])
def test_nothing_we_render_is_empty_for_the_api_server_leaves_that_out(by: Any) -> None:
    document = stored(by=by)
    assert without_empty(our(document)) == our(document)


def test_resources_that_were_made_under_other_settings_are_not_kept() -> None:
    document = stored(by=build.operator("sidecar: {resources: {cpuLimit: 700m}}"))
    assert our(build.injected(document, by=UNLIMITED)) == our(stored(by=UNLIMITED))


def test_no_device_is_kept_that_a_forged_container_asks_for() -> None:
    document = stored()
    our(document)["resources"]["limits"]["nvidia.com/gpu"] = "8"
    assert "nvidia.com/gpu" not in our(build.injected(document))["resources"]["limits"]


@pytest.mark.parametrize(
    ("labels", "owner", "service"),
    [
        ({"app": "web"}, ("ReplicaSet", "x-1"), "web"),
        ({"pod-template-hash": "6d4cf56db6"}, ("ReplicaSet", "web-6d4cf56db6"), "web"),
        ({}, ("Job", "report-29401220"), "report"),
        ({"app": "$(POD_IP) --x"}, ("ReplicaSet", "web"), "web"),
        ({"app": "x" * 1_000_000}, ("ReplicaSet", "$(POD_IP)"), "web-1"),
    ],
)
def test_the_sidecars_service_is_one_name_for_a_workload(labels: Any, owner: Any, service: str) -> None:
    document = build.owned_by(owner[0], build.pod(labels=labels))
    document["metadata"]["ownerReferences"][0]["name"] = owner[1]
    arguments = our(build.injected(document))["args"]
    assert arguments[arguments.index("--service-cluster") + 1] == service


EDITS: dict[str, Any] = {
    "image": "evil.example/envoy:1",
    "command": ["/bin/sh"],
    "args": [],
    "env": [{"name": "LD_PRELOAD", "value": "/x"}],
    "envFrom": [{"secretRef": {"name": "x"}}],
    "lifecycle": None,
    "securityContext": {"privileged": True},
    "volumeMounts": [],
    "resources": {"requests": {"cpu": "50m"}},
    "livenessProbe": {"exec": {"command": ["/bin/sh"]}},
    "imagePullPolicy": "Never",
    "stdin": True,
}


@pytest.mark.parametrize("field", EDITS)
def test_whatever_was_changed_in_our_container_is_repaired_in_place(field: str) -> None:
    plain = stored()
    edited = copy.deepcopy(plain)
    our(edited)[field] = EDITS[field]
    assert [op["path"] for op in operations(edited)] == ["/spec/initContainers/1"]
    assert build.injected(edited) == plain


def test_a_forged_marker_over_a_container_of_the_authors_ends_as_the_pod_we_would_render() -> None:
    forged = build.pod(
        {"version": "0.1.0", "settings-hash": build.DEFAULTS.hash},
        initContainers=[build.container("envoy-sidecar", restartPolicy="Always")],
    )
    assert our(build.injected(forged))["image"] == build.DEFAULTS.sidecar.image


def test_a_forged_marker_in_the_wrong_list_moves_out_of_it() -> None:
    forged = build.pod({"version": "x"}, containers=[build.container("envoy-sidecar"), build.container()])
    document = build.injected(forged)
    assert [container["name"] for container in document["spec"]["containers"]] == ["app"]
    assert our(document)["image"] == build.DEFAULTS.sidecar.image


def test_a_pod_made_of_nothing_but_our_names_has_no_containers() -> None:
    forged = build.pod({"version": "x"}, containers=[build.container("envoy-sidecar")])
    assert isinstance(result := build.outcome(forged), Rejected)
    assert result.reason == RejectReason.FOREIGN_PARTS


@pytest.mark.parametrize("former", [CLASSIC, NONE, TPROXY, build.operator("sidecar: {image: envoy:old}")])
def test_a_pod_injected_offline_by_another_version_ends_as_the_pod_we_would_render(former: Any) -> None:
    document = stored(by=former)
    document["metadata"]["annotations"]["envoy-sidecar.io/version"] = "0.0.1"
    assert build.injected(document) == stored()


def test_our_container_without_our_marker_is_rejected() -> None:
    document = stored()
    del document["metadata"]["annotations"]["envoy-sidecar.io/version"]
    rejected = build.rejection(document)
    assert rejected.reason == RejectReason.FOREIGN_PARTS
    assert "kubectl debug --keep-annotations" in rejected.problems[0]


def test_a_container_that_another_webhook_put_before_ours_moves_behind() -> None:
    document = stored()
    document["spec"]["initContainers"].insert(0, build.container("other"))
    repaired = build.injected(document)
    assert [c["name"] for c in repaired["spec"]["initContainers"]] == [*reversed(OURS), "other"]


def test_a_container_that_another_webhook_put_behind_ours_stays() -> None:
    document = stored()
    document["spec"]["initContainers"].append(build.container("other"))
    document["spec"]["containers"].append(build.container("other2"))
    assert isinstance(build.outcome(document), Unchanged)


def test_an_init_container_behind_a_classic_redirection_moves_before_it() -> None:
    document = stored(by=CLASSIC)
    document["spec"]["initContainers"].append(build.container("other"))
    repaired = build.injected(document, by=CLASSIC)
    assert [c["name"] for c in repaired["spec"]["initContainers"]] == ["other", "envoy-sidecar-init"]


def test_a_volume_of_ours_that_was_changed_is_repaired() -> None:
    plain = stored()
    edited = copy.deepcopy(plain)
    build.named(edited["spec"]["volumes"], "envoy-sidecar-bootstrap")["configMap"]["name"] = "evil"
    assert build.injected(edited) == plain


def test_an_application_that_mounts_our_volume_is_rejected_even_with_a_marker() -> None:
    document = stored()
    mount = {"name": "envoy-sidecar-run", "mountPath": "/x"}
    build.named(document["spec"]["containers"], "app")["volumeMounts"] = [mount]
    assert build.rejection(document).reason == RejectReason.FOREIGN_PARTS


@pytest.mark.parametrize("spec", [{"hostNetwork": True}, {"os": {"name": "windows"}}])
def test_a_pod_that_gets_no_sidecar_may_not_carry_one_under_our_name(spec: Document) -> None:
    document = stored()
    document["spec"].update(spec)
    assert build.rejection(document).reason == RejectReason.FOREIGN_PARTS


def test_an_authors_default_container_is_kept() -> None:
    key = "kubectl.kubernetes.io/default-container"
    assert build.injected(build.pod({key: "other"}))["metadata"]["annotations"][key] == "other"
    assert build.injected(build.pod())["metadata"]["annotations"][key] == "app"


@settings(max_examples=200)
@given(pods(), operators, st.data())
def test_whatever_befalls_our_parts_one_more_pass_restores_them(document: Document, by: Any, data: Any) -> None:
    plain = build.injected(document, by=by)
    damaged = copy.deepcopy(plain)
    for key in ("initContainers", "containers", "volumes"):
        items = damaged["spec"].get(key) or []
        for item in [item for item in items if item["name"].startswith("envoy-sidecar")]:
            match data.draw(st.sampled_from(["keep", "remove", "edit", "move", "double"])):
                case "remove":
                    items.remove(item)
                case "edit":
                    item[data.draw(words)] = data.draw(json_values)
                case "move":
                    items.remove(item)
                    items.insert(data.draw(st.integers(0, len(items))), item)
                case "double":
                    items.append(copy.deepcopy(item))
                case _:  # keep
                    pass
    result = build.outcome(damaged, by=by)
    if isinstance(result, Injected):
        patched = jsonpatch.apply_patch(damaged, json.loads(result.patch))
        assert {v["name"]: v for v in patched["spec"].pop("volumes")} == {
            v["name"]: v for v in plain["spec"]["volumes"]
        }
        plain["spec"].pop("volumes")
        assert patched == plain
    else:
        assert isinstance(result, Unchanged)
