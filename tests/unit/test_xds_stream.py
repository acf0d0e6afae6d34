"""The delta conversation, one rule at a time."""

import tracemalloc

import pytest

from controlplane.extensions import Json
from controlplane.xds.cache import Cache
from controlplane.xds.received import Accepted, Asked, ConversationError, Rejected, Stale
from controlplane.xds.snapshot import WILDCARD, Caller, Kind
from controlplane.xds.stream import PATIENCE_SECONDS, REMOVAL_SECONDS
from controlplane.xds.topic import MAX_BYTES, MAX_NAME, MAX_NAMES, MAX_RESOURCES
from controlplane.xds.translate import Choices
from controlplane.xds.translated import Translated
from controlplane.xds.wire import Request, Response
from tests import cluster as build
from tests.worlds import Proxy, World, proxy, short, world

CDS, EDS, LDS, RDS = Kind


def said(proxy: Proxy) -> list[str]:
    return [short(response) for response in proxy.told()]


def settled(proxy: Proxy) -> list[str]:
    return [short(response) for response in proxy.settle()]


def like_envoy(proxy: Proxy, clusters: tuple[str, ...] = (), routes: tuple[str, ...] = ()) -> None:
    """Subscribes as Envoy does, and takes everything."""
    proxy.ask(CDS)
    proxy.settle()
    proxy.ask(EDS, *clusters)
    proxy.ask(LDS)
    proxy.settle()
    proxy.ask(RDS, *routes)
    proxy.settle()


# What a proxy subscribes to


def test_a_first_request_without_names_is_a_wildcard() -> None:
    envoy = proxy(world(clusters="a=1 b=2"))
    assert envoy.ask(CDS) == Asked(CDS)
    assert said(envoy) == ["CLUSTER a=1 b=2"]


def test_a_star_is_a_wildcard() -> None:
    envoy = proxy(world(clusters="a=1 b=2"))
    envoy.ask(CDS, WILDCARD)
    assert said(envoy) == ["CLUSTER a=1 b=2"]


def test_a_wildcard_holds_no_more_than_is_meant_for_the_caller() -> None:
    envoy = proxy(world(clusters="a=1 b=2", hidden=["b"]))
    envoy.ask(CDS)
    assert said(envoy) == ["CLUSTER a=1"]


def test_a_name_can_be_asked_for_that_no_wildcard_holds() -> None:
    envoy = proxy(world(clusters="a=1 b=2", hidden=["b"]))
    envoy.ask(CDS, "b")
    assert said(envoy) == ["CLUSTER b=2"]


def test_an_empty_wildcard_is_answered_once() -> None:
    envoy = proxy(world())
    envoy.ask(CDS)
    assert settled(envoy) == ["CLUSTER"]
    envoy.ask(CDS, "b")
    assert settled(envoy) == ["CLUSTER -b"]


@pytest.mark.parametrize("kind", [EDS, RDS])
def test_endpoints_and_routes_have_no_wildcard(kind: Kind) -> None:
    envoy = proxy(world(endpoints="a=1", routes="a=1"))
    envoy.ask(kind)
    assert said(envoy) == []


def test_an_unknown_name_is_answered_at_once() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a", "b")
    assert said(envoy) == ["ENDPOINTS a=1 -b"]


def test_an_unknown_name_is_told_of_when_it_is_there() -> None:
    envoy = proxy(world())
    envoy.ask(EDS, "a")
    envoy.settle()
    envoy.cache.store(world(endpoints="a=1"))
    assert said(envoy) == ["ENDPOINTS a=1"]


def test_what_was_sent_is_not_sent_again() -> None:
    envoy = proxy(world(endpoints="a=1 b=1"))
    envoy.ask(EDS, "a")
    envoy.settle()
    envoy.ask(EDS, "b")
    assert said(envoy) == ["ENDPOINTS b=1"]


def test_a_name_that_is_asked_for_again_is_sent_again() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a")
    envoy.settle()
    envoy.ask(EDS, "a")
    assert said(envoy) == ["ENDPOINTS a=1"]


def test_a_wildcard_that_is_asked_for_again_is_sent_again() -> None:
    envoy = proxy(world(clusters="a=1"))
    envoy.ask(CDS)
    envoy.settle()
    envoy.ask(CDS, WILDCARD)
    assert said(envoy) == ["CLUSTER a=1"]


def test_a_name_that_is_given_up_is_not_heard_of_again() -> None:
    envoy = proxy(world(endpoints="a=1 b=1"))
    envoy.ask(EDS, "a", "b")
    envoy.settle()
    envoy.ask(EDS, without=["a"])
    envoy.cache.store(world(endpoints="a=2 b=2"))
    assert said(envoy) == ["ENDPOINTS b=2"]


def test_a_name_that_is_given_up_and_asked_for_again_is_sent_again() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a")
    envoy.settle()
    envoy.ask(EDS, without=["a"])
    envoy.ask(EDS, "a")
    assert said(envoy) == ["ENDPOINTS a=1"]


def test_a_name_that_is_given_up_while_the_wildcard_holds_it_is_sent_again() -> None:
    envoy = proxy(world(clusters="a=1"))
    envoy.ask(CDS, WILDCARD, "a")
    envoy.settle()
    envoy.ask(CDS, without=["a"])
    assert said(envoy) == ["CLUSTER a=1"]


def test_a_name_that_is_given_up_and_not_held_by_the_wildcard_is_told_to_be_gone() -> None:
    envoy = proxy(world(clusters="a=1 b=1", hidden=["b"]))
    envoy.ask(CDS, WILDCARD, "b")
    envoy.settle()
    envoy.ask(CDS, without=["b"])
    assert said(envoy) == ["CLUSTER -b"]


def test_a_wildcard_that_is_given_up_and_asked_for_again_takes_back_what_was_under_way() -> None:
    envoy = proxy(world(clusters="a=1"))
    envoy.ask(CDS)
    (response,) = envoy.told()
    envoy.ask(CDS, without=[WILDCARD])
    envoy.ask(CDS, WILDCARD)
    envoy.cache.store(world())
    envoy.accept(response)
    assert said(envoy) == ["CLUSTER -a"]


@pytest.mark.parametrize("kind", Kind)
def test_who_asked_for_names_is_told_no_others_by_becoming_another(kind: Kind) -> None:
    envoy = proxy(World({kind: {"a": "1", "b": "1"}}))
    envoy.ask(kind, "a")
    envoy.settle()
    envoy.become(Caller("accounts", "web-0"))
    envoy.ask(kind, without=["a"])
    assert settled(envoy) == []


def test_a_wildcard_that_is_given_up_leaves_the_names_that_were_asked_for() -> None:
    envoy = proxy(world(clusters="a=1 b=1"))
    envoy.ask(CDS, WILDCARD, "a")
    envoy.settle()
    envoy.ask(CDS, without=[WILDCARD])
    envoy.cache.store(world(clusters="a=2 b=2 c=1"))
    assert said(envoy) == ["CLUSTER a=2"]


def test_a_type_that_is_not_served_is_not_answered() -> None:
    envoy = proxy(world())
    assert envoy.conversation.receive(Request(None, ["a"]), 0) == Asked(None)
    assert said(envoy) == []


# What it has from before


def test_after_a_reconnect_only_what_differs_is_sent() -> None:
    envoy = proxy(world(clusters="a=1 b=2 c=3"))
    envoy.ask(CDS, has={"a": "1", "b": "1"})
    assert said(envoy) == ["CLUSTER b=2 c=3"]


def test_after_a_reconnect_names_that_it_asks_for_and_has_are_not_sent() -> None:
    envoy = proxy(world(endpoints="a=1 b=2"))
    envoy.ask(EDS, "a", "b", has={"a": "1", "b": "1"})
    assert said(envoy) == ["ENDPOINTS b=2"]


def test_after_a_reconnect_a_listener_that_went_meanwhile_is_told_to_be_gone() -> None:
    envoy = proxy(world(listeners="a=1"))
    envoy.ask(LDS, has={"a": "1", "b": "1"})
    assert said(envoy) == ["LISTENER -b"]


def with_remains(made: World) -> World:
    return World(made.contents, remnants={"a": "rest"})


def test_what_remains_of_a_resource_is_told_to_who_has_it_when_it_goes_and_gives_way_when_it_is_back() -> None:
    envoy = proxy(world(listeners="a=1 b=1"))
    envoy.ask(LDS)
    envoy.settle()
    for now, told in (("b=1", "a=rest"), ("b=2", "b=2"), ("a=1 b=2", "a=1")):
        envoy.cache.store(with_remains(world(listeners=now)))
        assert settled(envoy) == [f"LISTENER {told}"]


@pytest.mark.parametrize(("has", "told"), [("1", ["LISTENER a=rest b=1"]), ("rest", ["LISTENER b=1"])])
def test_after_a_reconnect_it_is_told_to_who_has_what_went_meanwhile(has: str, told: list[str]) -> None:
    envoy = proxy(with_remains(world(listeners="b=1")))
    envoy.ask(LDS, has={"a": has})
    assert settled(envoy) == told


def test_who_never_had_it_is_not_told_what_remains() -> None:
    envoy = proxy(with_remains(world(listeners="b=1")))
    envoy.ask(LDS, "a", "b")
    assert settled(envoy) == ["LISTENER b=1 -a"]


def test_who_took_no_version_of_it_is_not_told_what_remains() -> None:
    envoy = proxy(world(listeners="a=1"))
    envoy.ask(LDS)
    (response,) = envoy.told()
    envoy.reject(response)
    envoy.cache.store(with_remains(world()))
    assert settled(envoy) == ["LISTENER -a"]


def test_who_has_it_but_does_not_ask_for_it_is_not_told_what_remains() -> None:
    envoy = proxy(with_remains(world(listeners="b=1")))
    envoy.ask(LDS, "b", has={"a": "1"})
    assert settled(envoy) == ["LISTENER b=1 -a"]


def test_whoever_asks_for_routes_is_told_what_remains_for_the_listener_may_have() -> None:
    envoy = proxy(with_remains(world(routes="b=1")))
    envoy.ask(RDS, "a", "b")
    assert settled(envoy) == ["ROUTES a=rest b=1"]


def test_what_remains_and_is_rejected_is_not_sent_again_and_gives_way_when_the_resource_is_back() -> None:
    envoy = proxy(world(listeners="a=1"))
    envoy.ask(LDS)
    envoy.settle()
    envoy.cache.store(with_remains(world()))
    (response,) = envoy.told()
    envoy.reject(response)
    assert said(envoy) == []
    envoy.cache.store(world(listeners="a=2"))
    assert said(envoy) == ["LISTENER a=2"]


def test_after_a_reconnect_nothing_that_it_has_is_noticed_less() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a", has={"a": "1"})
    envoy.cache.store(world(endpoints="a=2"))
    assert said(envoy) == ["ENDPOINTS a=2"]


# Answers


def test_an_answer_says_how_long_it_took() -> None:
    envoy = proxy(world(clusters="a=1"))
    envoy.ask(CDS)
    (response,) = envoy.told()
    envoy.now = 0.25
    assert envoy.accept(response) == Accepted(CDS, 0.25)


def test_changes_wait_for_the_answer_and_what_lies_between_is_skipped() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a")
    (response,) = envoy.told()
    for version in range(2, 9):
        envoy.cache.store(world(endpoints=f"a={version}"))
        assert said(envoy) == []
    envoy.accept(response)
    assert said(envoy) == ["ENDPOINTS a=8"]


def test_types_do_not_wait_for_each_others_answers() -> None:
    envoy = proxy(world(endpoints="a=1", routes="b=1"))
    envoy.ask(EDS, "a")
    envoy.ask(RDS, "b")
    assert said(envoy) == ["ENDPOINTS a=1", "ROUTES b=1"]


def test_a_request_may_answer_and_subscribe_at_once() -> None:
    envoy = proxy(world(endpoints="a=1 b=1"))
    envoy.ask(EDS, "a")
    (response,) = envoy.told()
    assert envoy.ask(EDS, "b", nonce=response.nonce) == Accepted(EDS, 0)
    assert said(envoy) == ["ENDPOINTS b=1"]


def test_a_subscription_is_no_answer() -> None:
    envoy = proxy(world(endpoints="a=1 b=1"))
    envoy.ask(EDS, "a")
    envoy.told()
    assert envoy.ask(EDS, "b") == Asked(EDS)
    assert said(envoy) == []


def test_a_stale_answer_is_none_but_its_subscriptions_count() -> None:
    envoy = proxy(world(endpoints="a=1 b=1"))
    envoy.ask(EDS, "a")
    (response,) = envoy.told()
    assert envoy.ask(EDS, "b", nonce="another") == Stale(EDS)
    assert said(envoy) == []
    envoy.accept(response)
    assert said(envoy) == ["ENDPOINTS b=1"]


def test_the_same_answer_twice_is_stale() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a")
    (response,) = envoy.told()
    envoy.accept(response)
    assert envoy.accept(response) == Stale(EDS)


def test_an_answer_that_never_comes_is_waited_for_only_so_long() -> None:
    envoy = proxy(world(endpoints="a=1"))
    envoy.ask(EDS, "a")
    envoy.told()
    envoy.cache.store(world(endpoints="a=2"))
    assert said(envoy) == []
    assert envoy.conversation.alarm == PATIENCE_SECONDS
    envoy.now = PATIENCE_SECONDS
    assert said(envoy) == ["ENDPOINTS a=2"]


# Rejections


def test_what_is_rejected_alone_is_not_sent_again() -> None:
    envoy = proxy(world(clusters="a=1"))
    envoy.ask(CDS)
    (response,) = envoy.told()
    assert envoy.reject(response, "no") == Rejected(CDS, ("a",), "no")
    assert said(envoy) == []
    assert envoy.conversation.topics[CDS].rejected == {"a": "1"}


def test_what_is_rejected_is_sent_again_when_it_has_changed() -> None:
    envoy = proxy(world(clusters="a=1"))
    envoy.ask(CDS)
    (response,) = envoy.told()
    envoy.reject(response)
    envoy.cache.store(world(clusters="a=2"))
    assert settled(envoy) == ["CLUSTER a=2"]
    assert not envoy.conversation.topics[CDS].rejected


@pytest.mark.parametrize("size", [2, 3, 7, 64])
@pytest.mark.parametrize("bad", [["n0"], ["n1", "n0"]])
def test_one_bad_resource_takes_no_sibling_with_it(size: int, bad: list[str]) -> None:
    names = {f"n{number}": "1" for number in range(size)}
    envoy = proxy(World({CDS: names}))
    envoy.ask(CDS)
    rounds = 0
    while responses := envoy.told():
        rounds += 1
        for response in responses:
            spoilt = any(resource.name in bad for resource in response.resources)
            envoy.reject(response) if spoilt else envoy.accept(response)
    assert envoy.holds[CDS].keys() == names.keys() - set(bad)
    assert envoy.conversation.topics[CDS].rejected == dict.fromkeys(bad, "1")
    assert rounds <= 1 + len(bad) * 2 * size.bit_length()


def test_nor_if_what_is_bad_is_no_longer_asked_for_when_it_is_rejected() -> None:
    envoy = proxy(World({EDS: {"a": "1", "b": "1"}}))
    envoy.ask(EDS, "a", "b")
    (response,) = envoy.told()
    envoy.ask(EDS, without=["a"])
    envoy.reject(response)
    envoy.settle()
    assert envoy.holds[EDS] == {"b": "1"}


def replaceable(clusters: str, **substitutes: str) -> World:
    made = world(clusters)
    made.substitutes.update(substitutes)
    return made


def test_what_is_rejected_and_has_no_good_one_before_is_told_otherwise() -> None:
    envoy = proxy(replaceable("a=1 b=1", a="instead", b="instead"))
    envoy.ask(CDS)
    (both,) = envoy.told()
    envoy.reject(both)
    (one,) = envoy.told()
    envoy.accept(one) if names_of(one) == ["b"] else envoy.reject(one)
    (other,) = envoy.told()
    envoy.accept(other) if names_of(other) == ["b"] else envoy.reject(other)
    assert [short(response) for response in envoy.settle()] == ["CLUSTER a=instead"]
    assert envoy.holds[CDS] == {"a": "instead", "b": "1"}
    assert envoy.conversation.topics[CDS].rejected == {"a": "1"}
    envoy.conversation.notice(CDS, "a")
    assert envoy.settle() == []


def test_where_there_was_a_good_one_that_stays() -> None:
    envoy = proxy(replaceable("a=1", a="instead"))
    envoy.ask(CDS)
    envoy.settle()
    envoy.cache.store(replaceable("a=2", a="instead"))
    (bad,) = envoy.told()
    envoy.reject(bad)
    assert envoy.told() == []
    assert envoy.holds[CDS] == {"a": "1"}


def test_what_is_told_instead_gives_way_to_the_next_version() -> None:
    envoy = proxy(replaceable("a=1", a="instead"))
    envoy.ask(CDS)
    (bad,) = envoy.told()
    envoy.reject(bad)
    envoy.settle()
    envoy.cache.store(replaceable("a=2", a="instead"))
    assert [short(response) for response in envoy.settle()] == ["CLUSTER a=2"]
    assert envoy.conversation.topics[CDS].rejected == {}


def test_what_is_told_instead_may_be_rejected_as_well_and_is_not_sent_again() -> None:
    envoy = proxy(replaceable("a=1", a="instead"))
    envoy.ask(CDS)
    for _ in range(2):
        (bad,) = envoy.told()
        envoy.reject(bad)
    assert envoy.told() == []


def names_of(response: Response) -> list[str]:
    return [resource.name for resource in response.resources]


def test_a_proxy_that_rejects_everything_hears_each_thing_alone_once() -> None:
    envoy = proxy(World({CDS: {f"n{number}": "1" for number in range(16)}}))
    envoy.ask(CDS)
    responses: list[Response] = []
    while said := envoy.told():
        responses += said
        for response in said:
            envoy.reject(response)
    assert len(responses) == 31


def test_a_rejected_removal_is_not_repeated() -> None:
    envoy = proxy(world(listeners="a=1"))
    envoy.ask(LDS)
    envoy.settle()
    envoy.cache.store(world())
    (response,) = envoy.told()
    envoy.reject(response)
    assert said(envoy) == []


def test_removals_that_are_rejected_are_tried_apart_and_no_more() -> None:
    envoy = proxy(world("a=1 b=1"))
    envoy.ask(CDS)
    envoy.settle()
    envoy.cache.store(world())
    heard: list[Response] = []
    for _ in range(10):
        envoy.now += REMOVAL_SECONDS
        while said := envoy.told():
            heard += said
            for response in said:
                envoy.reject(response)
    assert [len(response.removed) for response in heard] == [2, 1, 1]


def test_after_a_rejection_the_newest_is_tried() -> None:
    envoy = proxy(world(clusters="a=1 b=1"))
    envoy.ask(CDS)
    (response,) = envoy.told()
    envoy.cache.store(world(clusters="a=2 b=2"))
    envoy.reject(response)
    assert sorted(settled(envoy)) == ["CLUSTER a=2", "CLUSTER b=2"]


# The order in which nothing breaks


def test_listeners_and_routes_wait_until_the_clusters_are_warm() -> None:
    envoy = proxy(world())
    like_envoy(envoy, clusters=("a",), routes=("http",))
    envoy.cache.store(world("a=1", "a=1", "out=1", "http=1"))
    clusters, endpoints = envoy.told()
    assert [short(clusters), short(endpoints)] == ["CLUSTER a=1", "ENDPOINTS a=1"]
    envoy.accept(endpoints)
    assert said(envoy) == []
    envoy.accept(clusters)
    assert said(envoy) == ["LISTENER out=1", "ROUTES http=1"]


def test_clusters_that_never_get_warm_hold_listeners_up_only_so_long() -> None:
    envoy = proxy(world(clusters="a=1", listeners="out=1"))
    envoy.ask(CDS)
    envoy.ask(LDS)
    assert said(envoy) == ["CLUSTER a=1"]
    envoy.now = PATIENCE_SECONDS
    assert said(envoy) == ["LISTENER out=1"]


def test_clusters_go_when_no_route_that_names_them_is_unanswered_and_not_at_once() -> None:
    envoy = proxy(world("a=1", "a=1", "out=1", "http=1"))
    like_envoy(envoy, clusters=("a",), routes=("http",))
    envoy.cache.store(world(routes="http=2"))
    listeners, routes = envoy.told()
    assert [short(listeners), short(routes)] == ["LISTENER -out", "ROUTES http=2"]
    envoy.accept(listeners)
    assert said(envoy) == []
    assert envoy.conversation.alarm == PATIENCE_SECONDS
    envoy.now = 1
    envoy.accept(routes)
    assert said(envoy) == []
    assert envoy.conversation.alarm == 1 + REMOVAL_SECONDS
    envoy.now = 1 + REMOVAL_SECONDS
    assert said(envoy) == ["ENDPOINTS -a", "CLUSTER -a"]


def test_what_comes_back_in_time_was_never_gone() -> None:
    envoy = proxy(world("a=1", "a=1"))
    like_envoy(envoy, clusters=("a",))
    envoy.cache.store(world())
    assert said(envoy) == []
    envoy.cache.store(world("a=1", "a=1"))
    envoy.now = REMOVAL_SECONDS
    assert said(envoy) == []


def test_what_leaves_later_stays_as_long() -> None:
    envoy = proxy(world("a=1 b=1"))
    like_envoy(envoy)
    envoy.cache.store(world("b=1"))
    assert said(envoy) == []
    envoy.now = REMOVAL_SECONDS - 0.5
    envoy.cache.store(world())
    assert said(envoy) == []
    envoy.now = REMOVAL_SECONDS
    assert settled(envoy) == ["CLUSTER -a"]
    assert envoy.conversation.alarm == 2 * REMOVAL_SECONDS - 0.5
    envoy.now = 2 * REMOVAL_SECONDS - 0.5
    assert said(envoy) == ["CLUSTER -b"]


def test_where_routes_change_again_and_again_what_is_gone_goes_all_the_same() -> None:
    envoy = proxy(world("a=1", routes="http=1"))
    like_envoy(envoy, routes=("http",))
    for number in range(2, 6):
        envoy.cache.store(world(routes=f"http={number}"))
        assert settled(envoy) == [f"ROUTES http={number}"]
        envoy.now += REMOVAL_SECONDS / 4
    assert said(envoy) == ["CLUSTER -a"]


def test_a_changed_cluster_is_followed_by_its_endpoints() -> None:
    envoy = proxy(world("a=1 b=1", "a=1 b=1"))
    like_envoy(envoy, clusters=("a", "b"))
    envoy.cache.store(world("a=2 b=1", "a=1 b=1"))
    assert said(envoy) == ["CLUSTER a=2", "ENDPOINTS a=1"]


def test_a_cluster_that_changed_while_disconnected_is_followed_by_its_endpoints() -> None:
    envoy = proxy(world("a=2 b=1", "a=1 b=1"))
    envoy.ask(CDS, has={"a": "1", "b": "1"})
    assert said(envoy) == ["CLUSTER a=2"]
    envoy.ask(EDS, "a", "b", has={"a": "1", "b": "1"})
    assert said(envoy) == ["ENDPOINTS a=1"]


def test_the_endpoints_of_a_cluster_that_changed_twice_are_sent_twice() -> None:
    envoy = proxy(world("a=1", "a=1"))
    like_envoy(envoy, clusters=("a",))
    envoy.cache.store(world("a=2", "a=1"))
    clusters, endpoints = envoy.told()
    envoy.accept(clusters)
    envoy.cache.store(world("a=3", "a=1"))
    assert said(envoy) == ["CLUSTER a=3"]
    envoy.accept(endpoints)
    assert said(envoy) == ["ENDPOINTS a=1"]


def test_endpoints_that_a_changed_cluster_waits_for_are_sent_though_others_of_their_response_are_refused() -> None:
    envoy = proxy(world("a=1", "a=1 b=1"))
    like_envoy(envoy, clusters=("a", "b"))
    envoy.cache.store(world("a=1", "a=2 b=2"))
    (refused,) = envoy.told()
    envoy.cache.store(world("a=2", "a=1 b=2"))
    assert said(envoy) == ["CLUSTER a=2"]
    envoy.reject(refused)
    assert "ENDPOINTS a=1" in settled(envoy)


# Bounds


def test_more_names_than_any_proxy_needs_end_the_stream() -> None:
    envoy = proxy(world())
    envoy.ask(EDS, *(str(number) for number in range(MAX_NAMES)))
    with pytest.raises(ConversationError) as raised:
        envoy.ask(EDS, "one more")
    assert raised.value.reason == "too_many_names"


def test_what_was_let_in_once_is_let_in_again() -> None:
    names = [f"s{number}" for number in range(MAX_NAMES)]
    envoy = proxy(world())
    envoy.ask(EDS, *names)
    envoy.ask(EDS, *names)
    again = Proxy(envoy.cache)
    again.ask(EDS, *names, has=dict.fromkeys(names, "1"))
    assert len(again.conversation.topics[EDS].names) == MAX_NAMES


@pytest.mark.parametrize("request_", [Request(EDS, ["n" * (MAX_NAME + 1)]), Request(EDS, versions={"n" * 2000: "1"})])
def test_a_name_longer_than_any_resource_has_ends_the_stream(request_: Request) -> None:
    with pytest.raises(ConversationError) as raised:
        proxy(world()).conversation.receive(request_, 0)
    assert raised.value.reason == "name_too_long"


def test_a_response_is_no_larger_than_it_has_to_be() -> None:
    large = "v" * (MAX_BYTES // 3)
    envoy = proxy(World({EDS: {"a": large, "b": large, "c": large, "d": large}}))
    envoy.ask(EDS, "a", "b", "c", "d")
    assert [len(response.resources) for response in envoy.settle()] == [1, 1, 1, 1]  # name and version are in the body


def test_many_resources_come_in_several_responses_and_all_before_what_names_them() -> None:
    names = [f"c{number}" for number in range(2 * MAX_RESOURCES + 1)]
    envoy = proxy(World({CDS: dict.fromkeys(names, "1"), LDS: {"out": "1"}}))
    envoy.ask(CDS)
    envoy.ask(LDS)
    told = [(response.kind, len(response.resources)) for response in envoy.settle()]
    assert told == [(CDS, MAX_RESOURCES), (CDS, MAX_RESOURCES), (CDS, 1), (LDS, 1)]
    assert envoy.holds[CDS].keys() == set(names)


def test_nothing_is_left_in_the_cache_when_a_stream_ends() -> None:
    envoy = proxy(world("a=1", "a=1", "out=1", "http=1"))
    like_envoy(envoy, clusters=("a", "unknown"), routes=("http",))
    envoy.conversation.end()
    assert envoy.cache.subscriptions() == dict.fromkeys(Kind, 0)


# The cache


def test_only_those_are_woken_whom_a_change_concerns() -> None:
    cache = Cache()
    cache.store(world(endpoints="a=1 b=1"))
    one, other = Proxy(cache), Proxy(cache)
    one.ask(EDS, "a")
    other.ask(EDS, "b")
    cache.store(world(endpoints="a=2 b=1"))
    assert (one.woken, other.woken) == (1, 0)


SHOP, ACCOUNTS = Caller("shop", "web-0", node="n1"), Caller("accounts", "web-0")


@pytest.mark.parametrize(
    ("changed", "woken"),
    [
        (build.service("users", "accounts", annotations={"timeout": "3s"}), [ACCOUNTS]),
        (build.service("carts"), [SHOP]),
        (build.service("carts", internalTrafficPolicy="Local"), [SHOP]),
        (build.service("carts", "elsewhere"), []),
    ],
    ids=["an annotation", "one more", "one that makes a difference between nodes", "of a namespace without proxies"],
)
def test_a_change_of_a_service_wakes_those_only_who_see_it(changed: Json, woken: list[Caller]) -> None:
    there = build.world(build.service("orders"), build.service("users", "accounts"))
    snapshot, cache = Translated(there.mesh(), Choices()), Cache()
    cache.store(snapshot)
    proxies = [Proxy(cache, caller=caller) for caller in (SHOP, ACCOUNTS)]
    for envoy in proxies:
        for kind, names in ((CDS, ()), (LDS, ()), (RDS, ("http_80",))):
            envoy.ask(kind, *names)
        envoy.settle()
        envoy.woken = 0
    there.put("Service", changed)
    cache.store(snapshot.next(there.mesh()))
    assert [envoy.caller for envoy in proxies if envoy.woken] == woken


def test_nobody_is_woken_before_all_changes_are_known() -> None:
    cache = Cache()
    cache.store(world("a=1", "a=1", "out=1", "http=1"))
    envoy = Proxy(cache)
    like_envoy(envoy, clusters=("a",), routes=("http",))
    heard: list[str] = []
    envoy.conversation._wake = lambda: heard.extend(said(envoy))  # at once, as a server may
    cache.store(world("b=1", "b=1", "out=1", "http=2"))
    assert heard == ["CLUSTER b=1"]


def test_an_equal_snapshot_wakes_nobody() -> None:
    envoy = proxy(world("a=1", "a=1"))
    like_envoy(envoy, clusters=("a",))
    assert envoy.cache.store(world("a=1", "a=1")) == 0
    assert envoy.woken == 0


def test_a_stream_that_is_quiet_holds_little() -> None:
    """Of 20 Services; the rest of a sidecar's 120 KiB is gRPC's."""
    names = " ".join(f"s{number}=1" for number in range(20))
    cache = Cache()
    cache.store(world(names, names, "out=1", "http=1"))

    def told() -> Proxy:
        envoy = Proxy(cache)
        envoy.ask(CDS)
        clusters = tuple(resource.name for response in envoy.settle() for resource in response.resources)
        like_envoy(envoy, clusters=clusters, routes=("http",))
        envoy.holds = {}  # the proxy's part
        return envoy

    crowd = [told()]
    tracemalloc.start()
    try:
        crowd += [told() for _ in range(200)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / 200 < 14_000


def test_proxies_of_one_scope_share_one_set_of_names() -> None:
    cache = Cache()
    cache.store(world("a=1 b=1"))
    one, other = Proxy(cache), Proxy(cache)
    for envoy in (one, other):
        like_envoy(envoy)
    assert one.conversation.topics[CDS]._wild is other.conversation.topics[CDS]._wild
