"""The protocol's bytes: what a proxy says is read as it was said, whether or not thousands say the same."""

import gc
import tracemalloc

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from google.protobuf.any_pb2 import Any
from hypothesis import given
from hypothesis import strategies as st

from controlplane.xds import wire
from controlplane.xds.snapshot import Kind, Resource
from controlplane.xds.wire import MalformedError, Response

NAMES = st.lists(st.text(max_size=40), max_size=4)
RESOURCES = st.lists(st.tuples(st.text(), st.text(), st.binary(max_size=300)))  # name, version, body


@given(st.sampled_from([*Kind, ""]), NAMES, NAMES, st.dictionaries(st.text(max_size=9), st.text(max_size=9)), st.text())
def test_a_request_is_read_as_it_was_said(
    kind: str, subscribe: list[str], unsubscribe: list[str], versions: dict[str, str], nonce: str
) -> None:
    said = DeltaDiscoveryRequest(
        type_url=kind,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=versions,
        response_nonce=nonce,
    ).SerializeToString()
    for _ in range(2):
        read = wire.decode(said)
        assert read.kind == (kind or None)
        assert (read.subscribe, read.unsubscribe) == (tuple(subscribe), tuple(unsubscribe))
        assert (read.versions, read.nonce, read.error) == (versions, nonce, None)


def test_a_refusal_keeps_its_words() -> None:
    said = DeltaDiscoveryRequest(response_nonce="1")
    said.error_detail.message = "no"
    assert wire.decode(said.SerializeToString()).error == "no"


@pytest.mark.parametrize("data", [b"\xff", b"\xff" * 1000])
def test_what_is_no_request_is_malformed_each_time(data: bytes) -> None:
    for _ in range(2):
        with pytest.raises(MalformedError):
            wire.decode(data)


def test_the_answer_to_what_many_are_told_is_looked_through_once() -> None:
    said = DeltaDiscoveryRequest(type_url=Kind.ENDPOINTS, response_nonce="12345678").SerializeToString()
    assert wire.decode(said) is wire.decode(bytes(bytearray(said)))


@given(
    st.sampled_from(list(Kind)), st.text(), st.lists(st.tuples(st.text(), st.text(), st.binary(max_size=300))), NAMES
)
def test_a_response_is_what_protobuf_reads(
    kind: Kind, nonce: str, resources: list[tuple[str, str, bytes]], removed: list[str]
) -> None:
    bodies = [Any(type_url=kind, value=value).SerializeToString() for _, _, value in resources]
    told = [Resource(name, version, body) for (name, version, _), body in zip(resources, bodies, strict=True)]
    read = DeltaDiscoveryResponse.FromString(wire.encode(Response(kind, nonce, told, removed)))
    assert (read.type_url, read.nonce, list(read.removed_resources)) == (kind, nonce, removed)
    assert [(one.name, one.version, one.resource.value) for one in read.resources] == resources


def test_of_large_resources_nothing_is_kept() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(wire.FRAMES):
            wire.encode(Response(Kind.LISTENER, "1", [Resource("out_80", str(number), bytes(100_000))]))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000


@given(st.integers(wire.FRAME - 2, wire.FRAME + 2))
def test_a_resource_is_put_the_same_however_large_it_is(size: int) -> None:
    made = Any(type_url=Kind.LISTENER, value=bytes(size)).SerializeToString()
    for _ in range(2):
        data = wire.encode(Response(Kind.LISTENER, "1", [Resource("out_80", "v", made)]))
        (found,) = DeltaDiscoveryResponse.FromString(data).resources
        assert (found.name, found.version, found.resource.value) == ("out_80", "v", bytes(size))
