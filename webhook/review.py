"""AdmissionReview (admission.k8s.io/v1): bytes -> Review, and what became of it -> bytes.

Only the fields that are read are decoded; unknown ones are skipped, as the contract asks. Limits of the protocol
live here: the uid is echoed, a warning has 120 characters, a denial says why.
"""

import base64
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from webhook.errors import MalformedReview
from webhook.injection import Injected, Outcome, Rejected, Skipped, Unchanged

API_VERSION = "admission.k8s.io/v1"
MAX_UID = 253  # characters; the API server sends a UUID
WARNING_LENGTH = 120  # characters; longer ones may be cut by the API server
MAX_WARNINGS = 16  # the API server cuts the sum at 4096 bytes
MAX_PROBLEMS = 8
MAX_KEPT = 64 << 10  # bytes of a patch whose base64 is kept


class Kind(msgspec.Struct, frozen=True, gc=False):
    """A GroupVersionKind."""

    kind: str
    group: str = ""
    version: str = ""


class _Request(msgspec.Struct, frozen=True, rename="camel", gc=False):
    uid: str
    kind: Kind
    operation: str
    namespace: str = ""
    name: str = ""
    sub_resource: str = ""
    dry_run: bool | None = None
    object: msgspec.Raw = msgspec.Raw(b"null")


class _AdmissionReview(msgspec.Struct, frozen=True, rename="camel", gc=False):
    api_version: str
    kind: str
    request: _Request


@dataclass(frozen=True, slots=True)
class Review:
    """One admission request. `object` is the raw JSON, or None where there is none (DELETE)."""

    uid: str
    kind: Kind
    operation: str
    namespace: str
    name: str
    sub_resource: str
    dry_run: bool
    object: msgspec.Raw | None

    @property
    def creates_pod(self) -> bool:
        """Whether this is the one request that may be answered with a sidecar."""
        is_pod = (self.kind.group, self.kind.version, self.kind.kind) == ("", "v1", "Pod")
        return is_pod and self.operation == "CREATE" and not self.sub_resource


_DECODER = msgspec.json.Decoder(_AdmissionReview)
_ENCODER = msgspec.json.Encoder()


def parse(body: bytes) -> Review:
    """The request in an AdmissionReview.

    Raises MalformedReview if the bytes are none, with the path of the first field that is wrong.
    """
    try:
        review = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReview(f"the body is no AdmissionReview: {error}") from None
    if (review.api_version, review.kind) != (API_VERSION, "AdmissionReview"):
        raise MalformedReview(f"the body is no AdmissionReview of {API_VERSION}: check apiVersion and kind")
    request = review.request
    if not 1 <= len(request.uid) <= MAX_UID:
        raise MalformedReview(f"request.uid must have 1 to {MAX_UID} characters, and has {len(request.uid)}")
    return Review(
        uid=request.uid,
        kind=request.kind,
        operation=request.operation,
        namespace=request.namespace,
        name=request.name,
        sub_resource=request.sub_resource,
        dry_run=bool(request.dry_run),
        object=None if bytes(memoryview(request.object)[:4]) == b"null" else request.object,
    )


def respond(review: Review, outcome: Outcome, settings_hash: str) -> bytes:
    """The AdmissionReview that answers `review` with `outcome`."""
    response = _response(review, outcome, settings_hash, warn(outcome.warnings))
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
            response["patch"] = (_base64 if len(patch) <= MAX_KEPT else _base64.__wrapped__)(patch)
        case Unchanged() | Skipped():
            pass
    return _encode(response)


def respond_advice(review: Review, outcome: Outcome, settings_hash: str) -> bytes:
    """The answer to the warn-only registration: always allowed, with all that the workload's pods would be told."""
    refusals: list[str] = []
    if isinstance(outcome, Rejected):
        refusals = [f"its pods will be refused ({outcome.reason}): {problem}" for problem in outcome.problems]
    return _encode(_response(review, outcome, settings_hash, warn([*refusals, *outcome.warnings])))


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


def _response(review: Review, outcome: Outcome, settings_hash: str, warnings: list[str]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "uid": review.uid,
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


def _encode(response: dict[str, Any]) -> bytes:
    return _ENCODER.encode({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})


@lru_cache(maxsize=256)
def _base64(patch: bytes) -> str:
    """Base64, as the contract asks; kept, since the pods of one workload share their patch."""
    return base64.b64encode(patch).decode()
