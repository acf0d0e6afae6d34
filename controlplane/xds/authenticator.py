"""Asks the API server who it is that shows a token, sparingly, and never for longer than a proxy waits.

A question is asked in a thread, once for each token at a time, and its answer kept for a short while. A good one is
used for longer if the API server takes its time: until the token expires, its pod is let in, and asked about when it
comes again. Who is new does not wait for those who are known. Who shows one bad token after another is not asked about
any more, for it is the API server who would have the work.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic

from controlplane.discovery import AUDIENCE
from controlplane.xds.allowance import Allowances
from controlplane.xds.identity import Identity, RefusedError, Review, Token, read_review, read_token

FRESH_SECONDS = 60.0  # an answer is used without asking again
REFUSED_SECONDS = 10.0  # the same of a refusal
KEPT = 20_000  # answers, the oldest of which go first
KEPT_REFUSALS = 2_000  # the same; apart, so that bad tokens do not push out good ones
NEW, KNOWN = 12, 4  # questions at a time: about tokens that are new, and about those that are known
QUESTION_SECONDS = 10.0  # for an answer about a new one; a proxy has 15 s to introduce itself
PATIENCE_SECONDS = 1.0  # the same about a known one, which is let in without
PAUSE_SECONDS = 5.0  # after that, known ones are let in at once, and not asked about
MAX_QUESTIONS = 8192  # that wait at a time: as many proxies as one process may meet after a restart
MAX_OF_ADDRESS = 1000  # the same of one address, which may be a NAT's
DOUBTS, DOUBTS_A_SECOND = 20.0, 0.5  # of one address, which is a pod's: new tokens that may be refused
ADDRESSES = 20_000  # that are remembered


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    found: Identity | RefusedError


class Authenticator:
    """Asks `review`, in threads of `executor`, which has NEW + KNOWN. `clock` is the time of day, in seconds."""

    def __init__(self, review: Review, executor: Executor, clock: Callable[[], float]) -> None:
        self._review, self._executor, self._clock = review, executor, clock
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._refusals: OrderedDict[bytes, _Answer] = OrderedDict()
        self._doubts = Allowances(DOUBTS_A_SECOND, DOUBTS, ADDRESSES)
        self._asking: dict[bytes, asyncio.Task[_Answer]] = {}
        self._waiting: Counter[str] = Counter()  # new ones, by address
        self._new, self._known = asyncio.Semaphore(NEW), asyncio.Semaphore(KNOWN)
        self._slow_until = 0.0  # monotonic

    async def identify(self, authorization: str | None, address: str = "") -> Identity:
        """The pod that a header `authorization` proves, which came from that address. Raises RefusedError."""
        token = read_token(authorization, self._clock())
        answer = self._answers.get(token.key) or self._refusals.get(token.key)
        if answer is None or not self._is_fresh(answer):
            known = answer if answer and isinstance(answer.found, Identity) else None
            answer = await (self._look_again(token, known) if known else self._ask(token, address))
        if isinstance(answer.found, RefusedError):
            raise RefusedError(answer.found.reason, str(answer.found))
        return answer.found

    def _is_fresh(self, answer: _Answer) -> bool:
        lasts = FRESH_SECONDS if isinstance(answer.found, Identity) else REFUSED_SECONDS
        return self._clock() < answer.at + lasts

    async def _look_again(self, token: Token, known: _Answer) -> _Answer:
        """What the API server says now, or else what it said."""
        if monotonic() < self._slow_until or self._is_full(token):
            return known
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(self._question(token, None))
        except (TimeoutError, RefusedError):
            self._slow_until = monotonic() + PAUSE_SECONDS
            return known

    async def _ask(self, token: Token, address: str) -> _Answer:
        if self._is_full(token):
            raise RefusedError("busy", "too many callers at once; the next attempt may be luckier")
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                return await asyncio.shield(self._question(token, address))
        except TimeoutError:
            raise _unavailable(f"no answer within {QUESTION_SECONDS:.0f} s") from None

    def _is_full(self, token: Token) -> bool:
        return len(self._asking) >= MAX_QUESTIONS and token.key not in self._asking

    def _question(self, token: Token, address: str | None) -> asyncio.Task[_Answer]:
        """What others wait for as well, even if this caller goes away."""
        task = self._asking.get(token.key)
        if task is None:
            asked = self._renew(token) if address is None else self._introduce(token, address)
            task = self._asking[token.key] = asyncio.create_task(asked)
            task.add_done_callback(lambda done: self._answered(token, done))
        return task

    def _answered(self, token: Token, task: asyncio.Task[_Answer]) -> None:
        del self._asking[token.key]
        if not task.cancelled():
            task.exception()  # is told to whoever still waits

    async def _renew(self, token: Token) -> _Answer:
        async with _turn(self._known):
            return await self._answer(token)

    async def _introduce(self, token: Token, address: str) -> _Answer:
        self._trust(address)
        with self._one_of(address):
            async with _turn(self._new):
                self._trust(address)  # others of this address may have been refused meanwhile
                answer = await self._answer(token)
        if isinstance(answer.found, RefusedError):
            self._doubts.of(address, self._clock()).take(1, self._clock())
        return answer

    def _trust(self, address: str) -> None:
        if self._doubts.of(address, self._clock()).take(0, self._clock()) < 1:
            raise RefusedError("busy", "too many tokens of one address that nobody vouched for")

    @contextmanager
    def _one_of(self, address: str) -> Iterator[None]:
        if self._waiting[address] >= MAX_OF_ADDRESS:
            raise RefusedError("busy", "too many callers of one address at once")
        self._waiting[address] += 1
        try:
            yield
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    async def _answer(self, token: Token) -> _Answer:
        loop = asyncio.get_running_loop()
        try:
            found = read_review(await loop.run_in_executor(self._executor, self._review, token.text, AUDIENCE))
        except Exception as error:  # whatever keeps us from asking, the caller may be who it says
            raise _unavailable(str(error)) from None
        answer = _Answer(self._clock(), found)
        if isinstance(answer.found, Identity):
            self._refusals.pop(token.key, None)
            _keep(self._answers, token.key, answer, KEPT)
        else:
            self._answers.pop(token.key, None)
            _keep(self._refusals, token.key, answer, KEPT_REFUSALS)
        return answer


@asynccontextmanager
async def _turn(queue: asyncio.Semaphore) -> AsyncIterator[None]:
    """Among those that are asked about at a time. Raises RefusedError when nobody waits for the answer any more."""
    try:
        async with asyncio.timeout(QUESTION_SECONDS if queue.locked() else None):
            await queue.acquire()
    except TimeoutError:
        raise _unavailable(f"others wait for longer than {QUESTION_SECONDS:.0f} s") from None
    try:
        yield
    finally:
        queue.release()


def _unavailable(why: str) -> RefusedError:
    return RefusedError("unavailable", f"the API server could not be asked: {why}"[:300])


def _keep(answers: OrderedDict[bytes, _Answer], key: bytes, answer: _Answer, most: int) -> None:
    answers[key] = answer
    answers.move_to_end(key)
    while len(answers) > most:
        answers.popitem(last=False)
