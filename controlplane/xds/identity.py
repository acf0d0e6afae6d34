"""Whose proxy calls: what the API server says of the ServiceAccount token that it shows, and nothing of its own word.

RefusedError         it is not let in; `reason` is of a closed set

The token's own words are believed only where they speak against it: for another audience, or expired. That spares the
API server a question, and tells the reasons apart. A question is asked in a thread, once for each token at a time, and
its answer kept for a short while; a good one is used for longer if the API server cannot be asked. Who shows one bad
token after another is not asked about any more, for it is the API server who would have the work.
"""

import asyncio
import hashlib
import json
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Literal, get_args

from controlplane.discovery import AUDIENCE
from controlplane.xds.allowance import Allowance, Allowances

MAX_TOKEN = 8192  # characters; the API server's have about 1,200
FRESH_SECONDS = 60.0  # an answer is used without asking again
REFUSED_SECONDS = 10.0  # the same of a refusal
KEPT = 20_000  # answers, the oldest of which go first
KEPT_REFUSALS = 2_000  # the same; apart, so that bad tokens do not push out good ones
MAX_QUESTIONS = 8192  # that wait at a time: as many proxies as one process may meet after a restart
# Questions of one address that wait, or were answered by no; a pod has one address and one token.
DOUBTS, DOUBTS_A_SECOND = 20.0, 0.5
ADDRESSES = 20_000  # that are remembered

Reason = Literal[
    "no_token", "malformed", "expired", "audience", "invalid", "no_pod", "other_pod", "unavailable", "busy"
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
class _Answer:
    at: float
    expires: float
    found: Identity | RefusedError


class Authenticator:
    """Asks `review`, in threads of `executor`. `clock` is the time of day, in seconds."""

    def __init__(self, review: Review, executor: Executor, clock: Callable[[], float]) -> None:
        self._review, self._executor, self._clock = review, executor, clock
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._refusals: OrderedDict[bytes, _Answer] = OrderedDict()
        self._doubts = Allowances(DOUBTS_A_SECOND, DOUBTS, ADDRESSES)
        self._asking: dict[bytes, asyncio.Task[_Answer]] = {}

    async def identify(self, authorization: str | None, address: str = "") -> Identity:
        """The pod that a header `authorization` proves, which came from that address. Raises RefusedError."""
        token = _token(authorization)
        expires = _expiry(token, self._clock())
        key = hashlib.sha256(token.encode()).digest()
        answer = self._answers.get(key) or self._refusals.get(key)
        if answer is None or not self._is_fresh(answer):
            answer = await self._ask(key, token, expires, answer, address)
        if isinstance(answer.found, RefusedError):
            raise RefusedError(answer.found.reason, str(answer.found))
        return answer.found

    def _is_fresh(self, answer: _Answer) -> bool:
        lasts = FRESH_SECONDS if isinstance(answer.found, Identity) else REFUSED_SECONDS
        return self._clock() < min(answer.at + lasts, answer.expires)

    async def _ask(self, key: bytes, token: str, expires: float, former: _Answer | None, address: str) -> _Answer:
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= MAX_QUESTIONS:
                raise RefusedError("busy", "too many callers at once; the next attempt may be luckier")
            doubts = self._doubts.of(address, self._clock())
            if doubts.take(1, self._clock()) < 0:
                doubts.give_back(1)
                raise RefusedError("busy", "too many tokens of one address that nobody vouched for")
            task = self._asking[key] = asyncio.create_task(self._answer(key, token, expires, doubts))
            task.add_done_callback(lambda done: done.exception())  # is told to whoever still waits
        try:
            return await asyncio.shield(task)  # others may wait for it even if this caller goes away
        except RefusedError:
            if former is not None and isinstance(former.found, Identity) and self._clock() < former.expires:
                return former
            raise

    async def _answer(self, key: bytes, token: str, expires: float, doubts: Allowance) -> _Answer:
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(self._executor, self._review, token, AUDIENCE)
        except Exception as error:  # whatever keeps us from asking, the caller may be who it says
            doubts.give_back(1)
            raise RefusedError("unavailable", f"the API server could not be asked: {error}"[:300]) from None
        finally:
            del self._asking[key]
        answer = _Answer(self._clock(), expires, _identity(status))
        if isinstance(answer.found, Identity):
            doubts.give_back(1)
            self._refusals.pop(key, None)
            _keep(self._answers, key, answer, KEPT)
        else:
            self._answers.pop(key, None)
            _keep(self._refusals, key, answer, KEPT_REFUSALS)
        return answer


def _keep(answers: OrderedDict[bytes, _Answer], key: bytes, answer: _Answer, most: int) -> None:
    answers[key] = answer
    answers.move_to_end(key)
    while len(answers) > most:
        answers.popitem(last=False)


def believe(token: str, audience: str) -> Mapping[str, Any]:
    """A Review that takes a token's word for whose it is: where there is no API server, and nobody to protect."""
    claims = _claims(token)
    bound = claims.get("kubernetes.io") or {}
    extra = {
        f"authentication.kubernetes.io/{kind}-name": [bound[kind]["name"]] for kind in ("pod", "node") if kind in bound
    }
    return {"authenticated": True, "audiences": [audience], "user": {"username": claims["sub"], "extra": extra}}


def _token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if not token or scheme.lower() != "bearer":
        raise RefusedError("no_token", "no bearer token in the header authorization")
    if len(token) > MAX_TOKEN:
        raise RefusedError("malformed", f"a token of {len(token)} characters")
    return token


def _expiry(token: str, now: float) -> float:
    """When it expires, by its own words. Raises RefusedError if these are enough to refuse it."""
    try:
        claims = _claims(token)
        audience, expires = claims["aud"], float(claims["exp"])
        is_ours = AUDIENCE in ([audience] if isinstance(audience, str) else audience)
    except (ValueError, TypeError, KeyError, OverflowError, NotBase64, RecursionError):
        raise RefusedError("malformed", "no ServiceAccount token") from None
    if expires <= now:
        raise RefusedError("expired", f"the token expired {now - expires:.0f} s ago")
    if not is_ours:
        raise RefusedError("audience", f"the token is not for {AUDIENCE}")
    return expires


def _claims(token: str) -> Any:
    _, payload, _ = token.split(".")
    return json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def _identity(status: Mapping[str, Any]) -> Identity | RefusedError:
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
