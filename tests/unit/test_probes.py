"""Which probes are rewritten, what becomes of them, and how they come back."""

import copy
import json
from typing import Any

import pytest

from tests import build
from tests.build import Document
from webhook.injection import Injected, Unchanged
from webhook.pod import PROBES_ANNOTATION
from webhook.policy import RejectReason
from webhook.probes import MAX_PORTS

PORTS: list[Document] = [
    {"name": "mysql", "containerPort": 3306},
    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
]
TCP: Document = {"tcpSocket": {"port": 3306}}
NAMED: Document = {"tcpSocket": {"port": "mysql"}}
ASKED: Document = {"httpGet": {"path": "/tcp/3306", "port": 15020, "scheme": "HTTP"}}
NONE = build.operator("sidecar: {mode: none}")
EXCLUDED = build.operator("redirect: {excludeInboundPorts: [3306]}")
CLASSIC = build.operator("sidecar: {form: classic}")
LATER = {"periodSeconds": 17}


def pod(probe: Document, kind: str = "readinessProbe", **fields: Any) -> Document:
    return build.pod(containers=[{**build.container(ports=PORTS, **fields), kind: probe}])


def app(document: Document) -> Document:
    return build.named(document["spec"]["containers"], "app")


def probe(document: Document, kind: str = "readinessProbe") -> Document:
    found: Document = app(document)[kind]
    return found


def kept(document: Document) -> Any:
    return json.loads(document["metadata"]["annotations"].get(PROBES_ANNOTATION, "null"))


# What is rewritten


@pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
@pytest.mark.parametrize("written", [TCP, NAMED, {"tcpSocket": {"port": 3306, "host": ""}}])
def test_a_tcp_probe_of_a_redirected_port_is_asked_of_the_sidecar(kind: str, written: Document) -> None:
    assert probe(build.injected(pod(written, kind)), kind) == ASKED


def test_all_else_in_a_rewritten_probe_stays_as_it_was() -> None:
    rest = {"periodSeconds": 3, "timeoutSeconds": 2, "failureThreshold": 7, "terminationGracePeriodSeconds": 1, "x": []}
    assert probe(build.injected(pod({**TCP, **rest}))) == {**ASKED, **rest}


def test_the_original_is_kept_in_an_annotation() -> None:
    assert kept(build.injected(pod(NAMED, "livenessProbe"))) == {"app": {"livenessProbe": {"port": "mysql"}}}


@pytest.mark.parametrize(
    "written",
    [
        {"httpGet": {"port": "mysql", "path": "/", "scheme": "HTTP"}},
        {"httpGet": {"port": 3306, "scheme": "HTTPS"}},
        {"grpc": {"port": 3306}},
        {"exec": {"command": ["true"]}},
        {"tcpSocket": {"port": 3306, "host": "db.example"}},
        {"tcpSocket": {"port": "unknown"}},
        {"tcpSocket": {"port": 15021}},
    ],
    ids=str,
)
def test_any_other_probe_stays_as_it_is(written: Document) -> None:
    stored = build.injected(pod(written))
    assert probe(stored) == written
    assert kept(stored) is None


@pytest.mark.parametrize("by", [NONE, EXCLUDED])
def test_a_tcp_probe_of_a_port_that_is_not_redirected_stays_as_it_is(by: Any) -> None:
    assert probe(build.injected(pod(TCP), by=by)) == TCP


@pytest.mark.parametrize("hook", ["postStart", "preStop"])
def test_hooks_stay_as_they_are(hook: str) -> None:
    lifecycle = {hook: {"tcpSocket": {"port": 3306}}}
    assert app(build.injected(pod(TCP, lifecycle=lifecycle)))["lifecycle"] == lifecycle


def test_the_probes_of_the_authors_native_sidecars_are_asked_of_ours() -> None:
    cache = build.container("cache", restartPolicy="Always", startupProbe=TCP, livenessProbe=TCP)
    stored = build.named(build.injected(build.pod(initContainers=[cache]))["spec"]["initContainers"], "cache")
    assert (stored["startupProbe"], stored["livenessProbe"]) == (ASKED, ASKED)


def test_beside_a_classic_sidecar_a_native_ones_probes_must_not_wait_for_envoy() -> None:
    """It starts before: asked of Envoy, its startup probe would keep the pod from ever starting it."""
    cache = build.container("cache", restartPolicy="Always", startupProbe=TCP, livenessProbe=TCP, readinessProbe=TCP)
    stored = build.injected(build.pod(initContainers=[cache]), by=CLASSIC)
    found = build.named(stored["spec"]["initContainers"], "cache")
    assert [found[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe")] == [TCP, TCP, ASKED]


# What the sidecar gets


def overlay(document: Document) -> Document:
    arguments = build.sidecar_of(document)["args"]
    found: Document = json.loads(arguments[arguments.index("--config-yaml") + 1])
    return found


def test_a_pod_without_tcp_probes_gets_no_listener_for_them() -> None:
    assert "static_resources" not in overlay(build.injected(build.pod()))


def test_ports_are_asked_for_once_and_in_order() -> None:
    many = [build.container(f"c{port}", livenessProbe={"tcpSocket": {"port": port}}) for port in (9000, 80, 9000, 443)]
    for number, container in enumerate(many):
        container["name"] = f"c{number}"
    clusters = overlay(build.injected(build.pod(containers=many)))["static_resources"]["clusters"]
    assert [cluster["name"] for cluster in clusters] == ["/tcp/80", "/tcp/443", "/tcp/9000"]


def test_the_sidecar_waits_as_long_as_the_most_patient_probe() -> None:
    document = pod({**TCP, "timeoutSeconds": 5}, livenessProbe={**TCP, "timeoutSeconds": 30})
    (cluster,) = overlay(build.injected(document))["static_resources"]["clusters"]
    assert cluster["connect_timeout"] == "30s"


@pytest.mark.parametrize(("written", "waits"), [(0, "1s"), (3601, "3600s")])
def test_it_waits_between_a_second_and_an_hour(written: int, waits: str) -> None:
    (cluster,) = overlay(build.injected(pod({**TCP, "timeoutSeconds": written})))["static_resources"]["clusters"]
    assert cluster["connect_timeout"] == waits


# A pod that comes back


def stored(written: Document = TCP, **fields: Any) -> Document:
    return build.injected(pod(written, **fields))


def again(document: Document, by: Any = build.DEFAULTS) -> Document:
    """After one more pass."""
    result = build.outcome(document, by=by)
    return build.injected(document, by=by) if isinstance(result, Injected) else document


@pytest.mark.parametrize("by", [NONE, EXCLUDED])
@pytest.mark.parametrize("written", [TCP, NAMED, {**NAMED, "x": 1}])
def test_a_probe_that_needs_no_rewriting_any_more_is_what_its_author_wrote(written: Document, by: Any) -> None:
    back = again(stored(written), by)
    assert probe(back) == written
    assert kept(back) is None


def test_what_another_webhook_changes_beside_the_question_stays() -> None:
    document = stored()
    probe(document).update(LATER)
    assert isinstance(build.outcome(document), Unchanged)
    assert probe(again(document, EXCLUDED)) == {**TCP, **LATER}


def test_another_tcp_probe_in_its_place_is_rewritten() -> None:
    document = stored()
    app(document)["readinessProbe"] = {"tcpSocket": {"port": 5432}}
    changed = again(document)
    assert probe(changed)["httpGet"]["path"] == "/tcp/5432"
    assert kept(changed) == {"app": {"readinessProbe": {"port": 5432}}}


@pytest.mark.parametrize("instead", [{"httpGet": {"path": "/", "port": 8080}}, {"exec": {"command": ["true"]}}])
def test_another_probe_in_its_place_stays_and_nothing_is_kept(instead: Document) -> None:
    document = stored()
    app(document)["readinessProbe"] = instead
    changed = again(document)
    assert probe(changed) == instead
    assert kept(changed) is None


def test_a_probe_that_was_removed_is_not_kept() -> None:
    document = stored()
    del app(document)["readinessProbe"]
    changed = again(document)
    assert "readinessProbe" not in app(changed)
    assert kept(changed) is None


def test_a_named_port_that_another_webhook_renumbers_is_followed() -> None:
    document = stored(NAMED)
    app(document)["ports"] = [{"name": "mysql", "containerPort": 3307}]
    assert probe(again(document))["httpGet"]["path"] == "/tcp/3307"


def test_a_container_before_it_does_not_confuse_a_rewritten_probe() -> None:
    document = stored()
    document["spec"]["containers"].insert(0, build.container("first", livenessProbe={"tcpSocket": {"port": 80}}))
    changed = again(document)
    assert kept(changed) == {"first": {"livenessProbe": {"port": 80}}, "app": {"readinessProbe": {"port": 3306}}}
    assert isinstance(build.outcome(changed), Unchanged)


FORGED = [
    "",
    "null",
    "[]",
    "not JSON",
    "[" * 100_000,
    '{"app": null}',
    '{"app": {"readinessProbe": null}}',
    '{"app": {"readinessProbe": {}}}',
    '{"app": {"readinessProbe": {"port": 22}}}',
    '{"app": {"readinessProbe": {"port": true}}}',
    '{"app": {"readinessProbe": {"port": 3306, "host": "10.0.0.1"}}}',
    '{"app": {"readinessProbe": {"port": 3306, "host": 1}}}',
    '{"app": {"livenessProbe": {"port": 3306}}}',
    '{"other": {"readinessProbe": {"port": 3306}}}',
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda text: text[:50])
def test_a_forged_annotation_brings_no_probe_about(forged: str) -> None:
    document = stored()
    document["metadata"]["annotations"][PROBES_ANNOTATION] = forged
    rejected = build.rejection(document)
    assert rejected.reason == RejectReason.CONFLICT
    assert 'container "app": readinessProbe asks for port 15020' in rejected.problems[0]


@pytest.mark.parametrize(
    "changed",
    [{"path": "/tcp/22"}, {"path": "/"}, {"host": "x"}, {"scheme": "HTTPS"}, {"httpHeaders": []}, {"port": 8080}],
    ids=str,
)
def test_an_original_is_not_restored_over_what_we_did_not_write(changed: Document) -> None:
    document = stored()
    probe(document)["httpGet"].update(changed)
    after = copy.deepcopy(document)
    result = build.outcome(document)
    if isinstance(result, Injected):  # nobody asks the sidecar any more
        after = again(document)
        assert kept(after) is None
    assert probe(after) == probe(document)


def test_the_annotation_of_a_pod_without_a_sidecar_is_not_believed() -> None:
    document = pod(ASKED)
    document["metadata"]["annotations"] = {PROBES_ANNOTATION: '{"app": {"readinessProbe": {"port": 3306}}}'}
    assert build.rejection(document).reason == RejectReason.CONFLICT


def test_a_stale_annotation_is_removed() -> None:
    document = build.pod({"original-probes": '{"app": {"readinessProbe": {"port": 3306}}}'})
    assert PROBES_ANNOTATION not in build.injected(document)["metadata"]["annotations"]


# What is refused, and told


def with_ports(count: int) -> Document:
    return build.pod(
        containers=[
            build.container(f"c{port}", livenessProbe={"tcpSocket": {"port": port}}) for port in range(1, count + 1)
        ]
    )


def test_more_tcp_probes_than_fit_into_an_argument_are_refused() -> None:
    rejected = build.rejection(with_ports(MAX_PORTS + 1))
    assert rejected.reason == RejectReason.TOO_MANY_PROBES
    assert "exclude-inbound-ports" in rejected.problems[0]


def test_as_many_as_are_allowed_fit_into_an_argument() -> None:
    assert max(len(word) for word in build.sidecar_of(build.injected(with_ports(MAX_PORTS)))["args"]) < 64 << 10


def test_a_probe_that_asks_for_an_unknown_port_is_warned_about() -> None:
    outcome = build.outcome(pod({"tcpSocket": {"port": "mysqll"}}))
    assert 'container "app": readinessProbe: the container declares no such port' in outcome.warnings


def test_a_liveness_probe_that_a_classic_sidecar_answers_is_warned_about() -> None:
    cache = build.container("cache", restartPolicy="Always", startupProbe=TCP, livenessProbe=TCP)
    (warning,) = [
        line for line in build.outcome(build.pod(initContainers=[cache]), by=CLASSIC).warnings if "cache" in line
    ]
    assert "Envoy accepts this connection for the application" in warning
