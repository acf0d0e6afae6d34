"""HTTP <-> review. The FastAPI application, whose admission routes are plain ASGI: bytes in, bytes out.

`handle` is the whole answer and does no I/O; around it stand the limits of HTTP, one log line and the counting.
400, 413 and 415 are the client's fault, 500 is ours, and none of them carries an AdmissionReview: what follows is
for `failurePolicy` to say (kubernetes.io, "Dynamic Admission Control").
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, NamedTuple

from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from webhook import logs, metrics, review, workload
from webhook import pod as pods
from webhook.errors import MalformedReview
from webhook.injection import Outcome, Skipped, inject, inject_decoded
from webhook.metrics import Metrics
from webhook.pod import Pod
from webhook.policy import Level, SkipReason
from webhook.review import Review
from webhook.settings import Settings

MAX_BODY = 8 << 20  # bytes: object and oldObject of 3 MiB each, and options
MAX_BODIES = 4 * MAX_BODY  # of all requests at one time; ten thousand usual ones
NO_CERTIFICATE = (
    "this webhook admits clients with a certificate of server.clientCaFile only (and a name of server.clientNames, if"
    " there are any); the API server presents one that its --admission-control-config-file names"
)
JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"
_LOG = logging.getLogger("webhook")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path asks for, and the PodSecurity level that the registration says there."""

    name: Literal["inject", "advise"]
    level: Level


ENDPOINTS: Mapping[str, Endpoint] = {
    "/inject": Endpoint("inject", "privileged"),
    "/inject/baseline": Endpoint("inject", "baseline"),
    "/inject/restricted": Endpoint("inject", "restricted"),
    "/advise": Endpoint("advise", "privileged"),
    "/advise/baseline": Endpoint("advise", "baseline"),
    "/advise/restricted": Endpoint("advise", "restricted"),
}


class Facts(NamedTuple):
    """What the log line and the metrics say of one request. Decision and reason are from closed sets."""

    decision: str
    reason: str
    namespace: str = ""
    owner: str = ""
    uid: str = ""


def handle(path: str, body: bytes, settings: Settings) -> tuple[bytes, Facts]:
    """The AdmissionReview that answers `body`, sent to `path` (one of ENDPOINTS).

    Raises MalformedReview.
    """
    endpoint = ENDPOINTS[path]
    if endpoint.name == "inject":
        asked = review.parse_pod(body)
        outcome, owner = _inject(asked, endpoint.level, settings)
        return review.respond(asked, outcome, settings.hash), _facts(asked, outcome, owner)
    asked = review.parse(body)
    outcome = _advise(asked, endpoint.level, settings)
    return review.respond_advice(asked, outcome, settings.hash), _facts(
        asked, outcome, f"{asked.kind.kind}/{asked.name}"
    )


def _inject(asked: Review, level: Level, settings: Settings) -> tuple[Outcome, str]:
    if not asked.creates_pod:
        return Skipped(SkipReason.NOT_POD_CREATION), ""
    pod = asked.pod
    if pod is None:
        if asked.object is None:
            raise MalformedReview("request.object: null; the creation of a pod has one")
        pod = pods.decode(asked.object)
    return inject_decoded(pod, asked.object, level, settings), _owner(pod)


def _owner(pod: Pod) -> str:
    """Whose pod it is: its controller's, as kind/name; without one, its own."""
    owner = pod.owner
    if owner:
        return f"{owner.kind}/{owner.name}"
    return f"Pod/{pod.metadata.name or pod.metadata.generate_name or ''}"


def _advise(asked: Review, level: Level, settings: Settings) -> Outcome:
    pod = None if asked.object is None else workload.pod(asked.object)
    return Skipped(SkipReason.NO_PODS) if pod is None else inject(pod, level, settings)


def _facts(asked: Review, outcome: Outcome, owner: str) -> Facts:
    return Facts(outcome.decision, outcome.reason, asked.namespace, owner, asked.uid)


@dataclass(slots=True)
class State:
    """Whether this replica wants more requests. Settings and certificate are loaded before it exists."""

    stopping: bool = False
    unpublished: str = ""  # the bootstrap that pods would wait for

    @property
    def problem(self) -> str:
        """Why it wants none; empty if it does."""
        if self.stopping:
            return "stopping"
        if self.unpublished:
            return f"bootstrap {self.unpublished} is not in every namespace yet; see `controlplane serve`"
        return ""


class _Answer(NamedTuple):
    status: int
    content_type: bytes
    body: bytes
    facts: Facts


class _RefusedError(Exception):
    """The request gets no AdmissionReview; the reason is a word for metrics, the message is for the client."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.answer = _Answer(status, TEXT, message.encode(errors="backslashreplace"), Facts("failed", reason))
        super().__init__(message)


class _Bodies:
    """Reads bodies, and bounds what all of them together take: who could fill our memory could stop every admission."""

    def __init__(self) -> None:
        self._held = 0  # bytes

    async def read(self, receive: Receive) -> bytes:
        """The whole body. One that is too large is read on for a while: who is still sending would miss the answer."""
        chunks: list[bytes] = []
        size = held = 0
        try:
            while size <= 4 * MAX_BODY:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _RefusedError(400, "disconnected", "the client has gone before the end of its request")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size <= MAX_BODY:
                    chunks.append(chunk)
                    held += len(chunk)
                    self._hold(len(chunk))
                if not message.get("more_body", False):
                    break
        finally:
            self._held -= held
        if size > MAX_BODY:
            raise _RefusedError(413, "too_large", f"the body is larger than {MAX_BODY} bytes")
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MAX_BODIES:
            raise _RefusedError(503, "busy", "too many large requests at once; try again")


class Admission:
    """The ASGI application of one path."""

    def __init__(self, path: str, settings: Settings, counted: Metrics, bodies: _Bodies) -> None:
        self._path, self._settings, self._metrics, self._bodies = path, settings, counted, bodies
        self._endpoint = ENDPOINTS[path].name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        self._metrics.in_flight.inc()
        try:
            answer = await self._answer(scope, receive)
            await _send(answer, send)
        finally:
            self._metrics.in_flight.dec()
        self._tell(answer.facts, perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive) -> _Answer:
        try:
            _check_type(scope)
            body, facts = handle(self._path, await self._bodies.read(receive), self._settings)
        except _RefusedError as refused:
            return refused.answer
        except MalformedReview as error:
            return _RefusedError(400, "malformed", str(error)).answer
        except Exception as error:
            _LOG.error("crash", exc_info=error)
            return _RefusedError(500, "crash", "the webhook failed; its log says where").answer
        return _Answer(200, JSON, body, facts)

    def _tell(self, facts: Facts, seconds: float) -> None:
        self._metrics.observe(self._endpoint, facts.decision, facts.reason, seconds)
        if _LOG.isEnabledFor(logging.INFO):
            line: dict[str, str | float] = {
                "endpoint": self._endpoint,
                "decision": facts.decision,
                "reason": facts.reason,
                "namespace": facts.namespace,
                "owner": facts.owner,
                "uid": facts.uid,
                "milliseconds": round(seconds * 1000, 3),
            }
            logs.tell("admission", line)


class Stranger(Admission):
    """The same for a client that has not shown the certificate that the settings ask for: it gets nothing."""

    async def _answer(self, _scope: Scope, _receive: Receive) -> _Answer:
        return _RefusedError(403, "no_client_certificate", NO_CERTIFICATE).answer


def _check_type(scope: Scope) -> None:
    for name, value in scope["headers"]:
        if name == b"content-type" and value.partition(b";")[0].strip().lower() == JSON:
            return
    raise _RefusedError(415, "unsupported_media_type", "the content type must be application/json")


async def _send(answer: _Answer, send: Send) -> None:
    headers = [(b"content-type", answer.content_type), (b"content-length", b"%d" % len(answer.body))]
    if answer.status in (403, 413, 503):
        headers.append((b"connection", b"close"))  # the rest of the body is not worth reading
    start: Message = {"type": "http.response.start", "status": answer.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})


class Application(FastAPI):
    """FastAPI, with a short way for what comes by the thousand: its middleware would cost more than the answer."""

    def __init__(self, admissions: Mapping[str, Admission]) -> None:
        routes: list[BaseRoute] = [Route(path, answer, methods=["POST"]) for path, answer in admissions.items()]
        super().__init__(title="envoy-sidecar-injector", openapi_url=None, redirect_slashes=False, routes=routes)
        self._admissions = admissions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        admission = self._admissions.get(scope.get("path", ""))
        if admission is not None and scope["method"] == "POST":
            await admission(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create(settings: Settings, counted: Metrics, state: State, admission: type[Admission] = Admission) -> FastAPI:
    """The application of the HTTPS port; `admission` is what answers reviews."""
    bodies = _Bodies()
    app = Application({path: admission(path, settings, counted, bodies) for path in ENDPOINTS})
    for path, answer in _health(state).items():
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
    return app


def create_metrics(counted: Metrics, state: State) -> Starlette:
    """The application of the metrics port."""

    async def page(_request: Request) -> Response:
        return Response(counted.page(), media_type=metrics.CONTENT_TYPE)

    routes = [Route(path, answer, methods=["GET"]) for path, answer in _health(state).items()]
    return Starlette(routes=[Route("/metrics", page, methods=["GET"]), *routes])


def _health(state: State) -> Mapping[str, Callable[[Request], Awaitable[Response]]]:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_request: Request) -> Response:
        return PlainTextResponse(state.problem, 503) if state.problem else PlainTextResponse("ok")

    return {"/healthz": healthz, "/readyz": readyz}
