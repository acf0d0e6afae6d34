"""Envoy's own rules for its messages, which stand in the options of their fields (protoc-gen-validate).

A rule of a kind that is not known here is an error, not a rule that is skipped.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from google.protobuf import any_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from validate import validate_pb2


class UnknownRule(Exception):
    """Envoy's messages came to have rules of a kind that is not known here."""


def broken(message: Message, path: str = "") -> Iterator[str]:
    """What Envoy would object to: the path of a field and a rule, as `virtual_hosts[0].domains: min_items 1`."""
    if isinstance(message, any_pb2.Any):
        yield from _of_any(message, path)
        return
    known = _rules(message.DESCRIPTOR)
    for name in known.oneofs:
        if message.WhichOneof(name) is None:
            yield f"{path or '.'}: one of {name} is required"
    there = message.ListFields()
    if known.expected:
        names = {field.name for field, _ in there}
        for name, complaint in known.expected.items():
            if name not in names:
                yield f"{path}.{name}: {complaint}" if path else f"{name}: {complaint}"
    for field, value in there:
        if field.name in known.fields:
            yield from _of_field(value, field, known.fields[field.name], f"{path}.{field.name}" if path else field.name)


def broken_of(message: Message, *names: str) -> Iterator[str]:
    """The same of these fields alone, set or not."""
    known, there = _rules(message.DESCRIPTOR), {field.name: (field, value) for field, value in message.ListFields()}
    for name in names:
        if name not in there:
            yield from (f"{name}: {complaint}" for complaint in [known.expected.get(name)] if complaint)
        elif name in known.fields:
            field, value = there[name]
            yield from _of_field(value, field, known.fields[name], name)


def _of_any(message: any_pb2.Any, path: str) -> Iterator[str]:
    try:
        inner = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(message.TypeName()))()
        inner.ParseFromString(message.value)
    except (KeyError, DecodeError):
        yield f"{path}: no message of type {message.type_url}"
        return
    yield from broken(inner, path)


@dataclass(frozen=True, slots=True)
class _Rules:
    """Of one type: the fields that have any, or messages in them; what to say of those that are not set; the oneofs."""

    fields: Mapping[str, Any]
    expected: Mapping[str, str]
    oneofs: Sequence[str]


@lru_cache(maxsize=1024)
def _rules(descriptor: Descriptor) -> _Rules:
    fields, expected = {}, {}
    for field in descriptor.fields:
        options = field.GetOptions()
        rules = options.Extensions[validate_pb2.rules] if options.HasExtension(validate_pb2.rules) else None
        if rules is not None or field.message_type is not None:
            fields[field.name] = rules
        if rules is not None and (complaint := _of_absent(field, rules)):
            expected[field.name] = complaint
    required = [one.name for one in descriptor.oneofs if one.GetOptions().Extensions[validate_pb2.required]]
    return _Rules(fields, expected, required)


def _of_absent(field: FieldDescriptor, rules: Any) -> str:
    """What is wrong if it is not set; a scalar without presence has its default then."""
    if field.is_repeated:
        return "is required" if rules.repeated.min_items or rules.map.min_pairs else ""
    if field.message_type is not None:
        # Of several that exclude each other, at most the one that is there is required.
        return "is required" if field.containing_oneof is None and _is_required(rules) else ""
    return "" if field.has_presence else next(_of_scalar(field.default_value, rules, ""), "").removeprefix(": ")


def _of_field(value: Any, field: FieldDescriptor, rules: Any, path: str) -> Iterator[str]:
    if field.is_repeated:
        yield from _of_many(value, field, rules, path)
    else:
        yield from _of_value(value, rules, path)


def _is_required(rules: Any) -> bool:
    return bool(rules.message.required or rules.duration.required or rules.any.required)


def _of_many(value: Any, field: FieldDescriptor, rules: Any, path: str) -> Iterator[str]:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    count, own = len(value), rules and (rules.map if is_map else rules.repeated)
    least, most = (
        (own.min_pairs, own.max_pairs) if is_map and own else (own.min_items, own.max_items) if own else (0, 0)
    )
    if count < least or (most and count > most):
        yield f"{path}: {count} entries, not from {least} to {most or 'any number'}"
    if is_map:
        for key, one in value.items():
            if own:
                yield from _of_scalar(key, own.keys, f"{path}[{key}]")
            if isinstance(one, Message):
                yield from broken(one, f"{path}[{key}]")
        return
    if own and own.unique and len(set(value)) < count:
        yield f"{path}: has an entry twice"
    inner = own.items if own and own.HasField("items") else None
    for number, one in enumerate(value):
        yield from _of_value(one, inner, f"{path}[{number}]")


_WRAPPERS = re.compile(r"google\.protobuf\.\w+Value")


def _of_value(value: Any, rules: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Message):
        if rules is not None:
            yield from _of_scalar(value, rules, path)
        return
    name = value.DESCRIPTOR.full_name
    if name == "google.protobuf.Duration":
        if rules is not None and rules.HasField("duration"):
            yield from _of_scalar(value.ToNanoseconds(), rules, path)
    elif _WRAPPERS.fullmatch(name) and name != "google.protobuf.Value":
        if rules is not None:
            yield from _of_scalar(value.value, rules, path)
    elif not (rules is not None and rules.message.skip):
        yield from broken(value, path)


def _of_scalar(value: Any, rules: Any, path: str) -> Iterator[str]:
    """The rules for a scalar that it breaks."""
    kind = rules.WhichOneof("type")
    own = getattr(rules, kind) if kind else None
    if own is None or (getattr(own, "ignore_empty", False) and not value):
        return
    for rule, limit in own.ListFields():
        bound = limit.ToNanoseconds() if kind == "duration" and isinstance(limit, Message) else limit
        if not _holds(rule.name, value, bound, own):
            yield f"{path}: {value!r:.80} breaks the rule {rule.name} {bound}"


def _holds(rule: str, value: Any, limit: Any, rules: Any) -> bool:
    match rule:
        case "required" | "strict" | "ignore_empty" | "defined_only":
            return True  # of other places, of well_known_regex, and what json_format has looked at
        case "const":
            return bool(value == limit)
        case "gt" | "gte":
            return bool(value > limit if rule == "gt" else value >= limit)
        case "lt" | "lte":
            return bool(value < limit if rule == "lt" else value <= limit)
        case "in" | "not_in":
            return (value in limit) is (rule == "in")
        case "min_len" | "max_len" | "min_bytes" | "max_bytes":
            size = len(value if isinstance(value, bytes) or rule.endswith("len") else value.encode())
            return bool(size >= limit if rule.startswith("min") else size <= limit)
        case "pattern":
            return re.search(limit, value) is not None
        case "prefix" | "suffix":
            return bool(value.startswith(limit) if rule == "prefix" else value.endswith(limit))
        case "well_known_regex":
            return _WELL_KNOWN[limit, rules.strict].fullmatch(value) is not None
        case _:
            raise UnknownRule(rule)


# Names and values of headers, as protoc-gen-validate has them; strict by default.
_WELL_KNOWN = {
    (1, True): re.compile(r":?[0-9a-zA-Z!#$%&'*+-.^_|~`]+"),
    (1, False): re.compile(r"[^\x00\n\r]+"),
    (2, True): re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*"),
    (2, False): re.compile(r"[^\x00\n\r]*"),
}
