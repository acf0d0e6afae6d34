"""What a client may send that is not what the API server sends: never a crash, never a hang."""

import base64
import json
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import jsonpatch
import pytest

from tests import build, needs
from tests.serving import JSON, Answer, Server, receive, run, serving
from webhook.app import ENDPOINTS, MAX_BODIES, MAX_BODY
from webhook.connection import MAX_HEAD
from webhook.settings import Settings

REVIEW = json.dumps(build.review())
PATHS = list(ENDPOINTS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as one:
        yield one
        assert not one.events("crash")
        assert one.process.poll() is None


def patched(document: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """`document` with the patch in `answer` applied, by other code than ours."""
    assert answer.status == 200, answer
    assert answer.response["allowed"], answer
    operations = json.loads(base64.b64decode(answer.response["patch"]))
    result: dict[str, Any] = jsonpatch.apply_patch(document, operations)
    return result


NO_REVIEWS = {
    "nothing": b"",
    "no JSON": b"hello",
    "a truncated review": REVIEW.encode()[:-20],
    "two reviews": (REVIEW + REVIEW).encode(),
    "JSON of another kind": b"[]",
    "null": b"null",
    "a number": b"17",
    "invalid UTF-8": REVIEW.encode().replace(b'"shop"', b'"sh\xff\xfe"', 1),
    "UTF-16": REVIEW.encode("utf-16"),
    "a lone surrogate": REVIEW.encode().replace(b'"shop"', b'"\\ud800"', 1),
    "a zip bomb's first bytes": b"\x1f\x8b\x08\x00" + b"\x00" * 100,
    "lists nested 10,000 times": b"[" * 10_000 + b"]" * 10_000,
    "objects nested 10,000 times": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "another apiVersion": json.dumps(build.review() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    "another kind": json.dumps(build.review() | {"kind": "ConversionReview"}).encode(),
    "no request": json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).encode(),
    "request: null": json.dumps(build.review() | {"request": None}).encode(),
    "request: a list": json.dumps(build.review() | {"request": []}).encode(),
    "an empty uid": json.dumps(build.review(uid="")).encode(),
    "a uid of another type": json.dumps(build.review(uid=17)).encode(),
    "a uid of 1 MB": json.dumps(build.review(uid="u" * 10**6)).encode(),
    "a namespace of another type": json.dumps(build.review(namespace={})).encode(),
}


@pytest.mark.parametrize("path", ["/inject", "/advise"])
@pytest.mark.parametrize("body", NO_REVIEWS.values(), ids=NO_REVIEWS.keys())
def test_what_is_no_review_is_answered_with_400_and_a_reason(server: Server, body: bytes, path: str) -> None:
    answer = server.post(body, path)
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/plain")
    assert 20 < len(answer.body) < 500
    assert b"AdmissionReview" in answer.body or b"request.uid" in answer.body


def test_a_missing_uid_is_answered_with_400(server: Server) -> None:
    review = build.review()
    del review["request"]["uid"]
    answer = server.post(json.dumps(review))
    assert (answer.status, b"uid" in answer.body) == (400, True)


NO_PODS: dict[str, Any] = {
    "null": None,
    "a string": "pod",
    "a list": [],
    "no spec": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}},
    "spec: null": build.pod() | {"spec": None},
    "metadata: a list": build.pod() | {"metadata": []},
    "labels: a list": build.pod() | {"metadata": {"labels": ["a"]}},
    "a label that is no string": build.pod() | {"metadata": {"labels": {"a": 1}}},
    "an annotation that is no string": build.pod() | {"metadata": {"annotations": {"envoy-sidecar.io/mode": 1}}},
    "spec: a list": build.pod() | {"spec": []},
    "containers: a map": build.pod(containers={}),
    "containers: strings": build.pod(containers=["app"]),
    "a container without a name": build.pod(containers=[{"image": "x"}]),
    "a port that is no number": build.pod(containers=[build.container(ports=[{"containerPort": "http"}])]),
    "volumes: a map": build.pod(volumes={}),
    "hostNetwork: a string": build.pod(hostNetwork="yes"),
}


@pytest.mark.parametrize("document", NO_PODS.values(), ids=NO_PODS.keys())
def test_the_creation_of_what_is_no_pod_is_answered_with_400(server: Server, document: object) -> None:
    answer = server.post(json.dumps(build.review() | {"request": build.review()["request"] | {"object": document}}))
    assert answer.status == 400
    assert answer.body


@pytest.mark.parametrize("spec", [{}, {"containers": None}, {"containers": []}], ids=str)
def test_a_pod_without_containers_is_left_to_the_api_server_to_refuse(server: Server, spec: dict[str, Any]) -> None:
    answer = server.post(json.dumps(build.review(build.pod() | {"spec": spec})))
    assert answer.status == 200
    assert answer.response["auditAnnotations"]["reason"] == "no_containers"
    assert "patch" not in answer.response


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE", "CONNECT", "SOMETHING"])
def test_another_operation_than_create_is_let_through_unchanged(server: Server, operation: str) -> None:
    answer = server.post(json.dumps(build.review(operation=operation)))
    assert answer.response["allowed"]
    assert answer.response["auditAnnotations"]["reason"] == "not_pod_creation"
    assert "patch" not in answer.response


def test_the_deletion_of_a_pod_is_let_through(server: Server) -> None:
    answer = server.post(json.dumps(build.review(operation="DELETE", object=None, oldObject=build.pod())))
    assert answer.response["allowed"]


@pytest.mark.parametrize(
    "kind",
    [
        {"group": "apps", "version": "v1", "kind": "Deployment"},
        {"group": "", "version": "v2", "kind": "Pod"},
        {"group": "other.example", "version": "v1", "kind": "Pod"},
    ],
    ids=str,
)
def test_an_object_of_another_kind_is_let_through_unchanged(server: Server, kind: dict[str, str]) -> None:
    answer = server.post(json.dumps(build.review(kind=kind)))
    assert answer.response["allowed"]
    assert "patch" not in answer.response


@pytest.mark.parametrize("sub_resource", ["ephemeralcontainers", "resize", "status", "binding"])
def test_a_subresource_is_let_through_unchanged(server: Server, sub_resource: str) -> None:
    answer = server.post(json.dumps(build.review(subResource=sub_resource)))
    assert "patch" not in answer.response


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_advice_without_an_object_is_empty(server: Server, operation: str) -> None:
    answer = server.post(json.dumps(build.review(operation=operation, object=None)), "/advise")
    assert answer.response["allowed"]
    assert "warnings" not in answer.response


def test_annotations_of_200_kb_are_carried_through(server: Server) -> None:
    pod = build.pod({"other.example/large": "x" * 200_000})
    result = patched(pod, server.post(json.dumps(build.review(pod))))
    assert result["metadata"]["annotations"]["other.example/large"] == "x" * 200_000


def test_an_annotation_of_ours_of_200_kb_is_refused_in_a_few_words(server: Server) -> None:
    answer = server.post(json.dumps(build.review(build.pod({"mode": "x" * 200_000}))))
    assert not answer.response["allowed"]
    assert len(answer.body) < 2000


LARGE = {
    "unknown keys of ours": build.pod({f"k{number}": "v" for number in range(100_000)}),
    "containers": build.pod(containers=[{"name": "a"}] * 200_000),
    "containers under our name": build.pod(containers=[{"name": "envoy-sidecar"}] * 150_000),
    "conflicting ports": build.pod(containers=[build.container(ports=[{"containerPort": 15001}] * 150_000)]),
    "containers of a marked pod": build.pod({"version": "0"}, containers=[{"name": "a"}] * 200_000),
}


@pytest.mark.parametrize("pod", LARGE.values(), ids=LARGE.keys())
def test_three_megabytes_of_one_thing_keep_nobody_waiting(server: Server, pod: dict[str, Any]) -> None:
    before = server.cpu_seconds()
    answer = server.post(json.dumps(build.review(pod)))
    assert answer.status == 200
    assert server.cpu_seconds() - before < 2  # a core of one replica; 0.1 to 0.5 s, seen


def test_quotes_and_control_characters_in_an_annotation_leave_the_answer_valid(server: Server) -> None:
    answer = server.post(json.dumps(build.review(build.pod({"mode": '"}]\n\x00{"\\\u2028'}))))
    assert not answer.response["allowed"]


def test_duplicate_keys_are_read_as_the_api_server_reads_them(server: Server) -> None:
    """Go's decoder, and ours, take the last."""
    body = REVIEW.replace('"operation": "CREATE"', '"operation": "DELETE", "operation": "CREATE"')
    assert "patch" in server.post(body).response


def test_an_unread_field_may_be_nested_deeply(server: Server) -> None:
    """The API server stores what is nested up to 10,000 levels; a pod may carry it where we never look."""
    deep = "[" * 500 + "]" * 500
    body = REVIEW.replace('"userInfo"', f'"unknown": {deep}, "userInfo"')
    assert server.post(body).status == 200


@pytest.mark.parametrize("where", ["object", "userInfo"])
def test_10_000_levels_inside_a_review_are_answered(server: Server, where: str) -> None:
    deep = '{"a":' * 10_000 + "1" + "}" * 10_000
    body = REVIEW.replace(f'"{where}": {{', f'"{where}": {{"deep": {deep}, ', 1)
    assert server.post(body).status in (200, 400)


def test_a_body_at_the_limit_is_read(server: Server) -> None:
    assert server.post(REVIEW + " " * (MAX_BODY - len(REVIEW))).status == 200


def test_a_body_of_9_mib_is_answered_with_413(server: Server) -> None:
    answer = server.post(b" " * (9 << 20))
    assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_a_body_of_9_mib_in_chunks_is_answered_with_413(server: Server) -> None:
    chunks = iter([b" " * (1 << 20)] * 9)
    assert server.request("POST", "/inject", chunks, JSON).status == 413


def test_a_body_without_end_is_cut_off(server: Server) -> None:
    with server.connect() as connection, pytest.raises(OSError):  # noqa: PT011, PT012  reset, broken pipe or closed
        connection.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def test_a_declared_length_of_many_gigabytes_costs_nothing(server: Server) -> None:
    before = server.resident()
    with server.connect() as connection:
        connection.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 99999999999\r\n\r\n{")
        assert server.post(REVIEW).status == 200
        assert server.resident() - before < 4 << 20


def test_a_declared_length_below_the_real_one_ends_in_400(server: Server) -> None:
    head = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head % (len(REVIEW) - 20) + REVIEW.encode())
        assert receive(connection).status == 400
        assert ends(connection)


def test_many_large_bodies_at_once_cannot_fill_the_memory(server: Server) -> None:
    before = server.resident()
    head = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(server.connect())
            with suppress(OSError):  # those that are refused while they send
                connection.sendall(head % MAX_BODY + b" " * (MAX_BODY - 1))
        assert server.metric("envoy_sidecar_webhook_admissions_total", reason="busy") > 0
        assert server.resident() - before < 3 * MAX_BODIES
    wait_for(lambda: server.metric("envoy_sidecar_webhook_admissions_in_flight") == 0)
    assert server.post(REVIEW).status == 200


def test_a_client_that_leaves_in_the_middle_is_counted_and_forgotten(server: Server) -> None:
    before = server.metric("envoy_sidecar_webhook_admissions_total", reason="disconnected")
    with server.connect() as connection:
        connection.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 100\r\n\r\n{")
    wait_for(lambda: server.metric("envoy_sidecar_webhook_admissions_total", reason="disconnected") == before + 1)
    assert server.metric("envoy_sidecar_webhook_admissions_in_flight") == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/yaml", "application/json-patch+json", "", "application/jsonx"]
)
def test_another_content_type_is_answered_with_415(server: Server, content_type: str) -> None:
    assert server.post(REVIEW, headers={"Content-Type": content_type}).status == 415


def test_no_content_type_is_answered_with_415(server: Server) -> None:
    assert server.post(REVIEW, headers={}).status == 415


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;a=b"]
)
def test_the_content_type_is_compared_as_http_says(server: Server, content_type: str) -> None:
    assert server.post(REVIEW, headers={"Content-Type": content_type}).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_another_method_than_post_is_answered_with_405(server: Server, method: str, path: str) -> None:
    answer = server.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/inject/", "/inject/other", "/inject/../inject", "/metrics", "/docs", "/%00"])
def test_another_path_is_answered_with_404(server: Server, path: str) -> None:
    assert server.post(REVIEW, path).status in (404, 405)


RAW = {
    "no HTTP": b"\x16\x03\x01hello\r\n\r\n",
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two lengths": b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "length and chunks": b"POST /inject HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    "a negative length": b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a bad chunk": b"POST /inject HTTP/1.1\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("sent", RAW.values(), ids=RAW.keys())
def test_bytes_that_are_no_http_end_the_connection(server: Server, sent: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        assert receive(connection).status == 400
        assert ends(connection)


def test_a_server_name_that_is_no_text_gets_the_certificate_like_any_other(server: Server) -> None:
    openssl = needs.binary("openssl", "install openssl")
    command = [str(openssl), "s_client", "-connect", f"localhost:{server.port}", "-servername", "h\xff"]
    assert b"BEGIN CERTIFICATE" in subprocess.run(command, input=b"", capture_output=True, check=True).stdout
    assert all(line.startswith("{") for line in server.log.read_text().splitlines())


def test_headers_without_end_are_cut_off(server: Server) -> None:
    before = server.metric("envoy_sidecar_webhook_connections_cut_total")
    with server.connect() as connection, pytest.raises(OSError):  # noqa: PT011, PT012
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        for number in range(10 * MAX_HEAD):
            connection.sendall(b"X-%d: %s\r\n" % (number, b"y" * 1000))
    assert server.metric("envoy_sidecar_webhook_connections_cut_total") == before + 1


@pytest.mark.parametrize("content_type", [b"application/json", b"text/plain"], ids=["", "answered early"])
def test_trailers_without_end_are_cut_off(server: Server, content_type: bytes) -> None:
    before = server.resident()
    with server.connect() as connection, pytest.raises(OSError):  # noqa: PT011, PT012
        connection.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n" % content_type)
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
        for _ in range(10 * MAX_HEAD):
            connection.sendall(b"x: y\r\n" * 100)
    assert server.resident() - before < 8 << 20


def test_an_early_answer_gives_nobody_more_time_for_the_rest(server: Server) -> None:
    began = time.monotonic()
    with server.connect() as connection:
        connection.sendall(
            b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\n"
        )
        assert receive(connection).status == 415
        assert ends(connection)
    assert time.monotonic() - began < 3 * Settings().server.request_seconds


def test_a_client_that_sends_one_byte_a_second_is_cut_off(server: Server) -> None:
    began = time.monotonic()
    with server.connect() as connection:
        for byte in b"POST /inject HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n":
            connection.sendall(bytes([byte]))
            if select.select([connection], [], [], 1)[0]:
                break
        assert ends(connection)
    assert time.monotonic() - began < 3 * Settings().server.request_seconds


def test_200_idle_connections_and_200_unfinished_handshakes_do_not_hurt(server: Server) -> None:
    before = server.resident()
    idle: list[socket.socket] = [server.connect() for _ in range(200)]
    idle += [socket.create_connection(("localhost", server.port)) for _ in range(200)]
    try:
        began = time.monotonic()
        assert server.post(REVIEW).status == 200
        assert time.monotonic() - began < 5
        assert server.resident() - before < 40 << 20
    finally:
        for connection in idle:
            connection.close()


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    head = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    bodies = [json.dumps(build.review(uid=str(number))).encode() for number in range(20)]
    with server.connect() as connection:
        connection.sendall(b"".join(head % len(body) + body for body in bodies))
        assert [receive(connection).response["uid"] for _ in bodies] == [str(number) for number in range(20)]


NO_SETTINGS = {
    "empty": b"",
    "binary": b"\0\xff" * 100,
    "10 MB": b"a: b\n" * (2 << 20),
    "a list": b"[]",
    "a section that is none": b"sidecar: 1",
    "an alias of itself": b"a: &a [*a]",
}


@pytest.mark.parametrize("content", NO_SETTINGS.values(), ids=NO_SETTINGS.keys())
def test_a_settings_file_that_is_none_ends_with_code_2_before_listening(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.yaml").write_bytes(content)
    ended = run("--settings", str(tmp_path / "settings.yaml"), "--tls-dir", str(tmp_path), "--port", "0")
    assert ended.returncode == 2, ended
    assert "settings.yaml" in ended.stderr
    assert len(ended.stderr) < 2000
    assert not ended.stdout


def ends(connection: ssl.SSLSocket) -> bool:
    """Whether the other side ends the connection without another byte, in whatever way."""
    try:
        return connection.recv(1) == b""
    except OSError:
        return True


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
