"""Whose proxy calls: what the API server says of the ServiceAccount token that it shows, and nothing of its own word.

RefusedError         it is not let in; `reason` is of a closed set

The token's own words are believed only where they speak against it: for another audience, or expired. That spares the
API server a question, and tells the reasons apart.
"""

import hashlib
import json
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from controlplane.discovery import AUDIENCE

MAX_TOKEN = 8192  # characters; the API server's have about 1,200

Reason = Literal[
    "no_token", "malformed", "expired", "audience", "invalid", "no_pod", "other_pod", "unavailable", "busy", "full"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
Review = Callable[[str, str], Mapping[str, Any]]  # token, audience -> a TokenReview's status; raises whatever it likes


class RefusedError(Exception):
    """The caller is not let in."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True, slots=True)
class Identity:
    """The pod that a token was made for, by the API server's word."""

    namespace: str
    pod: str
    service_account: str = ""
    node: str = ""

    def check(self, node_id: str) -> None:
        """Raises RefusedError unless Envoy's `node.id` says the same: `POD.NAMESPACE`, where POD may have dots."""
        pod, _, namespace = node_id.rpartition(".")
        if (pod, namespace) != (self.pod, self.namespace):
            raise RefusedError("other_pod", f"node.id {node_id[:300]!r}, but a token of {self.namespace}/{self.pod}")


@dataclass(frozen=True, slots=True)
class Token:
    """One that was shown. `key` is its hash, by which it is remembered."""

    text: str = field(repr=False)
    key: bytes


def believe(token: str, audience: str) -> Mapping[str, Any]:
    """A Review that takes a token's word for whose it is: where there is no API server, and nobody to protect."""
    claims = _claims(token)
    bound = claims.get("kubernetes.io") or {}
    extra = {
        f"authentication.kubernetes.io/{kind}-name": [bound[kind]["name"]] for kind in ("pod", "node") if kind in bound
    }
    return {"authenticated": True, "audiences": [audience], "user": {"username": claims["sub"], "extra": extra}}


def read_token(authorization: str | None, now: float) -> Token:
    """That of a header `authorization`. Raises RefusedError if its own words are enough to refuse it."""
    scheme, _, text = (authorization or "").partition(" ")
    if not text or scheme.lower() != "bearer":
        raise RefusedError("no_token", "no bearer token in the header authorization")
    if len(text) > MAX_TOKEN:
        raise RefusedError("malformed", f"a token of {len(text)} characters")
    try:
        claims = _claims(text)
        audience, expires = claims["aud"], float(claims["exp"])
        is_ours = AUDIENCE in ([audience] if isinstance(audience, str) else audience)
    except (ValueError, TypeError, KeyError, OverflowError, NotBase64, RecursionError):
        raise RefusedError("malformed", "no ServiceAccount token") from None
    if expires <= now:
        raise RefusedError("expired", f"the token expired {now - expires:.0f} s ago")
    if not is_ours:
        raise RefusedError("audience", f"the token is not for {AUDIENCE}")
    return Token(text, hashlib.sha256(text.encode()).digest())


def _claims(token: str) -> Any:
    _, payload, _ = token.split(".")
    return json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def read_review(status: Mapping[str, Any]) -> Identity | RefusedError:
    """What a TokenReview says."""
    if status.get("authenticated") is not True or AUDIENCE not in (status.get("audiences") or ()):
        return RefusedError("invalid", f"the API server refuses the token: {status.get('error', '')}"[:300])
    user = status.get("user") or {}
    prefix, _, name = str(user.get("username", "")).rpartition(":")
    system, _, namespace = prefix.rpartition(":")
    extra = user.get("extra") or {}
    pod = _first(extra, "pod-name")
    if system != "system:serviceaccount" or not pod:
        return RefusedError("no_pod", "the token is not bound to a pod")
    return Identity(namespace, pod, name, _first(extra, "node-name"))


def _first(extra: Mapping[str, Any], name: str) -> str:
    values = extra.get(f"authentication.kubernetes.io/{name}") or [""]
    return str(values[0])
