"""The delta protocol's bytes: parses requests, and puts responses together from resources that are bytes already.

A resource is serialised once, where it is made; a response to any number of proxies copies it and adds a nonce
(envoy/service/discovery/v3/discovery.proto; protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from google.protobuf.message import DecodeError

from controlplane.xds.snapshot import Kind, Resource

_KINDS = {str(kind): kind for kind in Kind}
ANSWER = 96  # bytes: a type and a nonce
FRAMES, FRAME = 512, 16 << 10  # that are kept, and of bytes at most: 8 MB, while a resource may have 350 KB


class MalformedError(ValueError):
    """Bytes that are no DeltaDiscoveryRequest."""


class Request(NamedTuple):  # as Response: made in a third of a frozen dataclass's time, and once for each message
    """What a proxy says of one type. `kind` is None for a type that we do not serve.

    `versions` are what it has from an earlier stream. `nonce` names the response that it answers, and `error` is why
    it rejects that one: None if it accepts.
    """

    kind: Kind | None
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    versions: Mapping[str, str] = MappingProxyType({})
    nonce: str = ""
    error: str | None = None
    node: str = ""
    type_url: str = ""


class Response(NamedTuple):
    """What a proxy is told of one type: these are so, and those are gone, or never were."""

    kind: Kind
    nonce: str
    resources: Sequence[Resource] = ()
    removed: Sequence[str] = ()


def decode(data: bytes) -> Request:
    """What the bytes of a request say. Raises MalformedError."""
    return _answer(data) if len(data) <= ANSWER else _parse(data)


@lru_cache(maxsize=4096)  # the same bytes come from thousands of proxies that were told the same
def _answer(data: bytes) -> Request:
    return _parse(data)


def _parse(data: bytes) -> Request:
    try:
        message = DeltaDiscoveryRequest.FromString(data)
    except DecodeError:
        raise MalformedError("no DeltaDiscoveryRequest") from None
    return Request(
        kind=_KINDS.get(message.type_url),
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        versions=MappingProxyType(dict(message.initial_resource_versions)),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        node=message.node.id,
        type_url=message.type_url,
    )


def encode(response: Response) -> bytes:
    """A DeltaDiscoveryResponse."""
    parts = [_kept(resource) if len(resource.body) <= FRAME else _frame(resource) for resource in response.resources]
    parts.append(_told(response.kind, response.nonce))
    parts += [_field(6, name.encode()) for name in response.removed]
    return b"".join(parts)


@lru_cache(maxsize=FRAMES)  # thousands of proxies are told the same at the same moment
def _kept(resource: Resource) -> bytes:
    return _frame(resource)


@lru_cache(maxsize=4096)  # as those of which `_answer` knows the answers
def _told(kind: Kind, nonce: str) -> bytes:
    """The type and the nonce."""
    return _field(4, kind.encode()) + _field(5, nonce.encode())


def _frame(resource: Resource) -> bytes:
    """The field that holds a message `Resource` of the protocol."""
    fields = _field(1, resource.version.encode()), _field(2, resource.body), _field(3, resource.name.encode())
    return _field(2, b"".join(fields))


def size(resource: Resource) -> int:
    """About how many bytes it takes in a response."""
    return len(resource.body) + len(resource.name) + len(resource.version) + 16


def _field(number: int, content: bytes) -> bytes:
    return b"".join((bytes((number << 3 | 2,)), _varint(len(content)), content))


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
