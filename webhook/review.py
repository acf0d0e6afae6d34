"""AdmissionReview (admission.k8s.io/v1): bytes -> Review, and what became of it -> bytes.

Only the fields that are read are decoded; unknown ones are skipped, as the contract asks. Limits of the protocol
live here: the uid is echoed, a warning has 120 characters, a denial says why.
"""

import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from webhook.errors import MalformedReview
from webhook.injection import Injected, Outcome, Rejected, Skipped, Unchanged
from webhook.pod import Pod, needs_whole

API_VERSION = "admission.k8s.io/v1"
MAX_UID = 253  # characters; the API server sends a UUID
WARNING_LENGTH = 120  # characters; longer ones may be cut by the API server
MAX_WARNINGS = 16  # the API server cuts the sum at 4096 bytes
MAX_PROBLEMS = 8
MAX_KEPT = 64 << 10  # bytes of a patch whose answer is kept


class Kind(msgspec.Struct, frozen=True, gc=False):
    """A GroupVersionKind."""

    kind: str
    group: str = ""
    version: str = ""


class _Request(msgspec.Struct, frozen=True, rename="camel", gc=False, kw_only=True):
    uid: str
    kind: Kind
    operation: str
    namespace: str = ""
    name: str = ""
    sub_resource: str = ""
    dry_run: bool | None = None


class _RequestForAnything(_Request, frozen=True, gc=False, kw_only=True):
    object: msgspec.Raw = msgspec.Raw(b"null")


class _RequestForPod(_Request, frozen=True, gc=False, kw_only=True):
    object: Pod


_R = TypeVar("_R", bound=_Request)


class _AdmissionReview(msgspec.Struct, Generic[_R], frozen=True, rename="camel", gc=False):
    api_version: str
    kind: str
    request: _R


class Review(msgspec.Struct, frozen=True, gc=False):
    """One admission request.

    `object` is the raw JSON, or None where there is none (DELETE); or `pod` is a pod of which no more is needed.
    """

    uid: str
    kind: Kind
    operation: str
    namespace: str
    name: str
    sub_resource: str
    dry_run: bool
    object: msgspec.Raw | None = None
    pod: Pod | None = None

    @property
    def creates_pod(self) -> bool:
        """Whether this is the one request that may be answered with a sidecar."""
        is_pod = (self.kind.group, self.kind.version, self.kind.kind) == ("", "v1", "Pod")
        return is_pod and self.operation == "CREATE" and not self.sub_resource


_ANYTHING = msgspec.json.Decoder(_AdmissionReview[_RequestForAnything])
_POD = msgspec.json.Decoder(_AdmissionReview[_RequestForPod])
_ENCODER = msgspec.json.Encoder()
_HEAD = b'{"apiVersion":"%s","kind":"AdmissionReview","response":{"uid":' % API_VERSION.encode()


def parse(body: bytes) -> Review:
    """The request in an AdmissionReview.

    Raises MalformedReview if the bytes are none, with the path of the first field that is wrong.
    """
    try:
        review = _ANYTHING.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReview(f"the body is no AdmissionReview: {error}") from None
    given = review.request.object
    return _review(review, given=None if bytes(memoryview(given)[:4]) == b"null" else given)


def parse_pod(body: bytes) -> Review:
    """The same, with the pod in it, in one pass over the bytes: of nearly all that comes no more is needed.

    Anything else is as `parse` has it. Raises MalformedReview.
    """
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        review = _POD.decode(body)
        if not needs_whole(review.request.object):
            return _review(review, pod=review.request.object)
    return parse(body)


def _review(review: _AdmissionReview[_R], given: msgspec.Raw | None = None, pod: Pod | None = None) -> Review:
    if (review.api_version, review.kind) != (API_VERSION, "AdmissionReview"):
        raise MalformedReview(f"the body is no AdmissionReview of {API_VERSION}: check apiVersion and kind")
    request = review.request
    if not 1 <= len(request.uid) <= MAX_UID:
        raise MalformedReview(f"request.uid must have 1 to {MAX_UID} characters, and has {len(request.uid)}")
    return Review(
        request.uid,
        request.kind,
        request.operation,
        request.namespace,
        request.name,
        request.sub_resource,
        bool(request.dry_run),
        given,
        pod,
    )


def respond(review: Review, outcome: Outcome, settings_hash: str) -> bytes:
    """The AdmissionReview that answers `review` with `outcome`."""
    is_kept = isinstance(outcome, Injected) and len(outcome.patch) <= MAX_KEPT
    return _answer(review, (_kept_verdict if is_kept else _verdict)(outcome, settings_hash))


def respond_advice(review: Review, outcome: Outcome, settings_hash: str) -> bytes:
    """The answer to the warn-only registration: always allowed, with all that the workload's pods would be told."""
    refusals: list[str] = []
    if isinstance(outcome, Rejected):
        refusals = [f"its pods will be refused ({outcome.reason}): {problem}" for problem in outcome.problems]
    return _answer(review, _ENCODER.encode(_allowed(outcome, settings_hash, warn([*refusals, *outcome.warnings]))))


def describe(problems: Sequence[str]) -> str:
    """The problems as one text for `status.message`."""
    shown = "; ".join(problems[:MAX_PROBLEMS])
    return f"{shown}; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else shown


def warn(messages: Iterable[str]) -> list[str]:
    """The messages as warnings: each marked as ours, long ones over several, without duplicates."""
    lines = [line for message in dict.fromkeys(messages) for line in _lines(message)]
    if len(lines) > MAX_WARNINGS:
        left = len(lines) - MAX_WARNINGS + 1
        lines = [
            *lines[: MAX_WARNINGS - 1],
            f"envoy-sidecar: and {left} more lines; see `python -m webhook explain`",
        ]
    return lines


def _lines(message: str) -> list[str]:
    return textwrap.wrap(f"envoy-sidecar: {message}", WARNING_LENGTH, subsequent_indent="  ", break_on_hyphens=False)


def _verdict(outcome: Outcome, settings_hash: str) -> bytes:
    """The response, less the uid, which alone differs between two requests with the same outcome."""
    response = _allowed(outcome, settings_hash, warn(outcome.warnings))
    match outcome:
        case Rejected(reason, problems):
            response["allowed"] = False
            response["status"] = {
                "status": "Failure",
                "reason": "Forbidden",
                "code": 403,
                "message": f"({reason}) {describe(problems)}",
            }
        case Injected(_, patch):
            response["patchType"] = "JSONPatch"
            response["patch"] = patch  # bytes become base64, as the contract asks
        case Unchanged() | Skipped():
            pass
    return _ENCODER.encode(response)


_kept_verdict = lru_cache(maxsize=256)(_verdict)  # the pods of one workload share their outcome


def _allowed(outcome: Outcome, settings_hash: str, warnings: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "allowed": True,
        "auditAnnotations": {
            "decision": outcome.decision,
            "reason": outcome.reason,
            "settings-hash": settings_hash,
        },
    }
    if warnings:
        response["warnings"] = warnings
    return response


def _answer(review: Review, verdict: bytes) -> bytes:
    return b"%s%s,%s}" % (_HEAD, _ENCODER.encode(review.uid), verdict[1:])
