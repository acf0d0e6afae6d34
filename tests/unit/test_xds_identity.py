"""Who is let in, and who is not. The API server is one that answers what a test says, and counts the questions."""

import asyncio
import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from time import monotonic
from typing import Any

import pytest
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from controlplane import kube
from controlplane.apiserver import KubeError
from controlplane.discovery import AUDIENCE
from controlplane.kube import Kube
from controlplane.xds import authenticator
from controlplane.xds.authenticator import FRESH_SECONDS, KNOWN, NEW, QUESTION_SECONDS, REFUSED_SECONDS, Authenticator
from controlplane.xds.identity import Identity, RefusedError, believe
from controlplane.xds.server import INTRODUCTION_SECONDS
from tests.tokens import reviewed, token

WEB = Identity("shop", "web-0", "default", "node-1")


class Api:
    """Answers each question with the next of `answers`, the last of them for ever."""

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self.answers = list(answers or [reviewed()])
        self.asked: list[tuple[str, str]] = []
        self.now = 1000.0
        self.spared = ""  # a token that is answered even if it is not `open`
        self.open = threading.Event()
        self.open.set()

    def review(self, shown: str, audience: str) -> Mapping[str, Any]:
        self.asked.append((shown, audience))
        if shown != self.spared:
            self.open.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def identify(
        self, *headers: str | None, waits: Sequence[float] = (), addresses: Sequence[str] = ()
    ) -> list[Identity | str]:
        """What becomes of callers with these headers, one after the other; of those refused, the reason."""

        async def story() -> list[Identity | str]:
            asking = Authenticator(self.review, executor, lambda: self.now)
            found = []
            for header, wait, address in zip_longest(headers, waits, addresses):
                self.now += wait or 0.0
                found.append(await outcome(asking, header, address or ""))
            return found

        with ThreadPoolExecutor(4) as executor:
            return asyncio.run(story())

    def together(
        self, headers: Sequence[str], known: Sequence[str] = (), *, opens: bool = False
    ) -> list[Identity | str]:
        """What becomes of callers that come at once, from one address, while it does not answer."""

        async def story() -> list[Identity | str]:
            asking = Authenticator(self.review, executor, lambda: self.now)
            for header in known:
                await outcome(asking, header)
            self.now += FRESH_SECONDS
            self.open.clear()
            coming = [asyncio.create_task(outcome(asking, header)) for header in headers]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if opens:
                self.open.set()
            return await asyncio.wait_for(asyncio.gather(*coming), 5)

        with ThreadPoolExecutor(NEW + KNOWN) as executor:
            try:
                return asyncio.run(story())
            finally:
                self.open.set()


async def outcome(asking: Authenticator, header: str | None, address: str = "") -> Identity | str:
    try:
        return await asking.identify(header, address)
    except RefusedError as refusal:
        return refusal.reason


def bearer(shown: str) -> str:
    return f"Bearer {shown}"


GOOD = bearer(token())


def test_without_an_api_server_a_token_is_believed() -> None:
    assert Api(believe(token(), AUDIENCE)).identify(GOOD) == [WEB]


@pytest.mark.parametrize("claims", [{"kubernetes.io": None}, {"sub": "cluster-admin"}])
def test_but_not_one_that_names_no_pod(claims: Any) -> None:
    assert Api(believe(token(**claims), AUDIENCE)).identify(GOOD) == ["no_pod"]


def test_a_pods_token_says_whose_proxy_it_is() -> None:
    api = Api()
    assert api.identify(GOOD) == [WEB]
    assert api.asked == [(token(), AUDIENCE)]


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", token()])
def test_without_a_token_nobody_is_let_in(header: str | None) -> None:
    assert Api().identify(header) == ["no_token"]


NO_EXPIRY: list[object] = ["soon", None, [], 10**400]
NO_AUDIENCE: list[object] = [None, 7, True]


@pytest.mark.parametrize(
    "shown",
    [
        *("x", "a.b", "a.b.c", "....", "a.e30.c", "é.è.ê", "a." + "W" * 7000 + ".c", "x" * 9000),
        *(token(expires=when) for when in NO_EXPIRY),
        *(token(aud=audience) for audience in NO_AUDIENCE),
    ],
    ids=lambda shown: shown[:20],
)
def test_what_is_no_token_is_not_asked_about(shown: str) -> None:
    api = Api()
    assert api.identify(bearer(shown)) == ["malformed"]
    assert api.asked == []


def test_an_expired_token_is_not_asked_about() -> None:
    api = Api()
    assert api.identify(bearer(token(expires=999))) == ["expired"]
    assert api.asked == []


@pytest.mark.parametrize("audience", ["https://kubernetes.default.svc", "envoy-sidecar", ""])
def test_a_token_for_somebody_else_is_not_asked_about(audience: str) -> None:
    api = Api()
    assert api.identify(bearer(token(audience=audience))) == ["audience"]
    assert api.asked == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "invalid"),
        ({"authenticated": False, "error": "token has been invalidated"}, "invalid"),
        (reviewed(audiences=["https://kubernetes.default.svc"]), "invalid"),
        (reviewed(audiences=None), "invalid"),
        (reviewed(authenticated="true"), "invalid"),
        (reviewed(user={"username": "system:serviceaccount:shop:default"}), "no_pod"),
        (reviewed(user={**reviewed()["user"], "username": "system:node:node-1"}), "no_pod"),
        (reviewed(user={**reviewed()["user"], "username": "cluster-admin"}), "no_pod"),
        (reviewed(user=None), "no_pod"),
    ],
)
def test_only_what_the_api_server_vouches_for_is_let_in(status: Mapping[str, Any], reason: str) -> None:
    assert Api(status).identify(GOOD) == [reason]


def test_an_answer_is_used_for_a_while_and_then_asked_for_again() -> None:
    api = Api()
    assert api.identify(GOOD, GOOD, GOOD, waits=[0, FRESH_SECONDS - 1, 1]) == [WEB] * 3
    assert len(api.asked) == 2


def test_a_refusal_is_used_for_a_shorter_while() -> None:
    api = Api({}, reviewed())
    assert api.identify(GOOD, GOOD, GOOD, waits=[0, REFUSED_SECONDS - 1, 1]) == ["invalid", "invalid", WEB]


def test_an_answer_ends_with_its_token() -> None:
    short = bearer(token(expires=1010))
    assert Api().identify(short, short, waits=[0, 10]) == [WEB, "expired"]


def test_a_pod_that_is_gone_is_refused_when_it_is_asked_about_again() -> None:
    assert Api(reviewed(), {}).identify(GOOD, GOOD, waits=[0, FRESH_SECONDS]) == [WEB, "invalid"]


def test_an_api_server_that_is_gone_keeps_nobody_out_whom_it_has_vouched_for() -> None:
    api = Api(reviewed(), OSError("connection refused"))
    other = bearer(token("shop/web-1"))
    assert api.identify(GOOD, GOOD, other, waits=[0, FRESH_SECONDS, 0]) == [WEB, WEB, "unavailable"]


def test_an_api_server_that_comes_back_is_asked_again() -> None:
    assert Api(OSError("connection refused"), reviewed()).identify(GOOD, GOOD) == ["unavailable", WEB]


def test_many_streams_with_one_token_ask_once() -> None:
    api = Api()
    api.open.clear()

    async def story() -> list[Identity | str]:
        asking = Authenticator(api.review, executor, lambda: api.now)
        waiting = [asyncio.create_task(outcome(asking, GOOD)) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # the one whose question it is goes away
        api.open.set()
        return await asyncio.gather(*waiting[1:])

    with ThreadPoolExecutor(4) as executor:
        assert asyncio.run(story()) == [WEB] * 19
    assert len(api.asked) == 1


def test_more_questions_than_can_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "MAX_QUESTIONS", 2)
    api = Api()
    api.open.clear()

    async def story() -> list[Identity | str]:
        asking = Authenticator(api.review, executor, lambda: api.now)
        waiting = [asyncio.create_task(outcome(asking, bearer(token(f"shop/p{n}")))) for n in range(3)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        api.open.set()
        return await asyncio.gather(*waiting)

    with ThreadPoolExecutor(4) as executor:
        assert asyncio.run(story()) == [WEB, WEB, "busy"]


def test_answers_are_kept_of_so_many_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "KEPT", 2)
    api = Api()
    one, two, three = (bearer(token(f"shop/p{n}")) for n in range(3))
    api.identify(one, two, three, three, two, one)
    assert len(api.asked) == 4


def bad(count: int) -> list[str]:
    return [bearer(token(f"shop/bad-{number}")) for number in range(count)]


def test_thousands_of_bad_tokens_of_one_address_are_asked_about_a_few_times() -> None:
    api = Api({"authenticated": False})
    assert api.identify(*bad(1000)) == ["invalid"] * 20 + ["busy"] * 980
    assert len(api.asked) == 20


def test_who_showed_bad_tokens_is_asked_about_again_after_a_while() -> None:
    api = Api({"authenticated": False})
    assert api.identify(*bad(23), waits=[0.0] * 21 + [2.0])[20:] == ["busy", "invalid", "busy"]


def test_bad_tokens_of_one_address_keep_nobody_out_at_another() -> None:
    api = Api(*[{"authenticated": False}] * 20, reviewed())
    assert api.identify(*bad(21), GOOD, addresses=["ipv4:10.0.0.6"] * 21 + ["ipv4:10.0.0.1"])[20:] == ["busy", WEB]


def test_good_tokens_of_one_address_are_as_many_as_may_be() -> None:
    assert Api().identify(*bad(1000)) == [WEB] * 1000


def test_an_api_server_that_is_gone_speaks_against_nobody() -> None:
    api = Api(*[OSError("gone")] * 50, reviewed())
    assert api.identify(*bad(50), GOOD)[49:] == ["unavailable", WEB]


def test_bad_tokens_do_not_push_out_what_is_known_of_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "KEPT", 2)
    monkeypatch.setattr(authenticator, "KEPT_REFUSALS", 2)
    api = Api(reviewed(), {"authenticated": False})
    assert api.identify(GOOD, *bad(10), GOOD)[-1] == WEB
    assert len(api.asked) == 11


def test_a_token_that_is_refused_after_all_is_known_as_refused() -> None:
    api = Api(reviewed(), {"authenticated": False})
    assert api.identify(GOOD, GOOD, GOOD, waits=[0.0, FRESH_SECONDS, 0.0]) == [WEB, "invalid", "invalid"]


def pods(count: int) -> list[str]:
    return [bearer(token(f"shop/web-{number}")) for number in range(count)]


def test_an_api_server_that_swallows_packets_keeps_nobody_out_whom_it_has_vouched_for() -> None:
    api = Api()
    assert api.together(pods(100), known=pods(100)) == [WEB] * 100


def test_and_is_not_asked_again_and_again() -> None:
    api = Api()
    api.together(pods(100) * 10, known=pods(100))
    assert len(api.asked) <= 100 + KNOWN


def test_nor_does_anybody_wait_whom_it_does_not_know_for_an_answer_about_those_whom_it_knows() -> None:
    api = Api()
    api.spared = token("shop/new")
    assert api.together([*pods(100), bearer(api.spared)], known=pods(100))[-1] == WEB


def test_who_is_new_hears_that_there_was_no_answer_before_it_is_taken_for_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authenticator, "QUESTION_SECONDS", 0.1)
    api = Api()
    assert api.together(pods(100)) == ["unavailable"] * 100
    assert len(api.asked) <= NEW  # about the others nobody wants to know any more


def test_a_question_holds_a_thread_no_longer_than_a_proxy_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, read = kube.REVIEW_TIMEOUT
    assert 2 * connect + read < QUESTION_SECONDS < INTRODUCTION_SECONDS  # it tries twice to connect
    monkeypatch.setattr(kube, "REVIEW_TIMEOUT", (0.1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        configuration = Configuration()
        configuration.host, configuration.retries = f"http://127.0.0.1:{silent.getsockname()[1]}", 1
        start = monotonic()
        with pytest.raises(KubeError):
            Kube(ApiClient(configuration)).review(token(), AUDIENCE)
    assert monotonic() - start < connect + read


def test_many_new_pods_may_share_an_address() -> None:
    assert Api().together(pods(200), opens=True) == [WEB] * 200


def test_so_many_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "MAX_OF_ADDRESS", 30)
    found = Api().together(pods(200), opens=True)
    assert (found.count(WEB), found.count("busy")) == (30, 170)


def test_bad_tokens_that_come_at_once_are_asked_about_a_few_times() -> None:
    api = Api({"authenticated": False})
    assert set(api.together(bad(900), opens=True)) == {"invalid", "busy"}
    assert len(api.asked) <= 20 + NEW


def test_a_pod_that_is_gone_does_not_stay_known_by_showing_bad_tokens() -> None:
    api = Api(reviewed(), {"authenticated": False})
    assert api.identify(GOOD, *bad(30), GOOD, waits=[0.0, FRESH_SECONDS])[-2:] == ["busy", "invalid"]


def test_a_process_that_ends_while_it_asks_has_nothing_to_say_of_it(caplog: pytest.LogCaptureFixture) -> None:
    api = Api()

    async def story() -> None:
        asking = asyncio.create_task(outcome(Authenticator(api.review, executor, lambda: api.now), GOOD))
        await asyncio.wait([asking], timeout=0.01)
        api.open.set()

    api.open.clear()
    with ThreadPoolExecutor(1) as executor:
        asyncio.run(story())
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.mark.parametrize("node", ["web-0.shop", "web.with.dots.shop"])
def test_a_proxy_may_call_itself_what_it_is(node: str) -> None:
    pod, _, namespace = node.rpartition(".")
    Identity(namespace, pod).check(node)


@pytest.mark.parametrize(
    "node", ["", "web-0", "web-0.", ".shop", "web-1.shop", "web-0.other", "shop.web-0", "web-0.shop.x"]
)
def test_a_proxy_may_not_call_itself_another(node: str) -> None:
    with pytest.raises(RefusedError) as raised:
        WEB.check(node)
    assert raised.value.reason == "other_pod"
