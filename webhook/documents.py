"""A YAML stream as documents: what is not changed keeps every byte, what is changed is written for people.

Reads scalars as `kubectl apply` does (sigs.k8s.io/yaml: `yes` and `y` are booleans, `0644` is octal, a date is a
string), so that what is shown here is what the API server would get. Refuses duplicate keys, values that JSON
does not have, and aliases that multiply without end.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from webhook.errors import MalformedDocument

MAX_VALUES = 250_000  # of one document, with its aliases expanded; an object of 1.5 MB, etcd's limit, has fewer
MAX_DEPTH = 200

_TAG = "tag:yaml.org,2002:"
_BOOL = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_NULL = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0o[0-7_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_ODD_BREAK = re.compile("[\r\x85\u2028\u2029]")  # a line break to YAML, which a reader would make a space of

_LEADING = re.compile(r"(?:(?:---)?[ \t]*(?:#.*)?|%.*)[\r\n]*")  # a line before a document's content
_TRAILING = re.compile(r"(?:(?:\.\.\.)?[ \t]*|#.*)[\r\n]*")  # a line after it


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a stream: its `number` and first `line`, both from 1, and all of its `text`."""

    number: int
    line: int
    text: str

    @property
    def content_line(self) -> int:
        """The first line that is more than a comment or a separator."""
        lines = self.text.splitlines(keepends=True)
        return self.line + min(_count(lines, _LEADING), max(len(lines) - 1, 0))


def split(stream: str) -> Iterator[Document]:
    """The documents of `stream`; their texts, joined, are the stream.

    Raises MalformedDocument at the first that is no YAML, after those before it.
    """
    starts, problem = _starts(stream)
    for number, (start, line) in enumerate(starts, start=1):
        if problem is not None and number == len(starts):
            break
        end = starts[number][0] if number < len(starts) else len(stream)
        yield Document(number, line + 1, stream[start:end])
    if problem is not None:
        line, message = problem
        raise MalformedDocument(max(len(starts), 1), line, message)


def _starts(stream: str) -> tuple[list[tuple[int, int]], tuple[int, str] | None]:
    """Offset and line (from 0) of each document, and what stopped the reader, if anything did."""
    starts: list[tuple[int, int]] = []
    try:
        for event in yaml.parse(stream, Loader=_Loader):
            if isinstance(event, yaml.DocumentStartEvent):
                assert event.start_mark is not None
                starts.append((event.start_mark.index, event.start_mark.line) if starts else (0, 0))
    except (yaml.YAMLError, RecursionError) as error:
        return starts, _describe(error)
    return starts or [(0, 0)], None


def load(document: Document) -> Any:
    """The document as JSON would have it: dict (in order), list, str, int, float, bool, None.

    Raises MalformedDocument with the line, counted in the whole stream, and the key.
    """
    try:
        node = yaml.compose(document.text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        line, message = _describe(error)
        raise MalformedDocument(document.number, document.line + line - 1, message) from None
    return None if node is None else _Builder(document).build(node, 0)


def dump(data: Any, document: Document) -> str:
    """`data` as YAML in the place of `document`: the comments above and below its content stay."""
    lines = document.text.splitlines(keepends=True)
    head = _count(lines, _LEADING)
    tail = _count(lines[head:][::-1], _TRAILING)
    above, below = "".join(lines[:head]), "".join(lines[len(lines) - tail :])
    if head < len(lines) and lines[head].startswith("---"):  # `--- {a: b}`, `--- !!map`
        above += "---\n"
    return above + to_yaml(data) + below


def _count(lines: list[str], pattern: re.Pattern[str]) -> int:
    """How many lines from the first on match."""
    return next((index for index, line in enumerate(lines) if not pattern.fullmatch(line)), len(lines))


def to_yaml(data: Any) -> str:
    """Plain data as YAML: keys in order, text of several lines as a block, whatever a reader may misread quoted."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    return text


def _describe(error: yaml.YAMLError | RecursionError) -> tuple[int, str]:
    """Line (from 1) and message."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        return (mark.line + 1 if mark else 1), f"is no YAML: {message}"
    if isinstance(error, RecursionError):
        return 1, f"is nested deeper than {MAX_DEPTH} levels"
    return 1, f"is no YAML: {' '.join(str(error).split())}"


def _type(text: str) -> str:
    """What `kubectl` takes a plain scalar for (goyaml.v2, resolve.go): the last part of a YAML tag."""
    if text in _BOOL:
        return "bool"
    if text in _NULL:
        return "null"
    if text == "<<":
        return "merge"
    if _INT.fullmatch(text):
        return "int"
    return "float" if _FLOAT.fullmatch(text) or _NO_NUMBER.fullmatch(text) else "str"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C: 10 times as fast
    def resolve(self, kind: type[Node], value: str, implicit: tuple[bool, bool]) -> str:
        """The tag of a node that has none of its own."""
        if kind is ScalarNode:
            return _TAG + (_type(value) if implicit[0] else "str")
        return _TAG + ("map" if kind is MappingNode else "seq")


class _Dumper(yaml.SafeDumper):
    def resolve(self, kind: type[Node], value: str, implicit: tuple[bool, bool]) -> str:
        """The tag that some reader would give a plain scalar; where it is not that of a string, one is quoted."""
        if kind is ScalarNode and implicit[0] and _type(value) != "str":
            return _TAG + _type(value)
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # YAML 1.1, in full
        return tag

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  PyYAML's signature
        return True

    def represent_text(self, text: str) -> ScalarNode:
        if _ODD_BREAK.search(text):
            return self.represent_scalar(_TAG + "str", text, style='"')
        return self.represent_scalar(_TAG + "str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)


class _Builder:
    """Nodes to plain data; counts what it builds."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._left = MAX_VALUES

    def build(self, node: Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error(node, f"has more than {MAX_VALUES} values, with its aliases expanded")
        if depth > MAX_DEPTH:
            raise self._error(node, f"is nested deeper than {MAX_DEPTH} levels, or holds itself")
        match node:
            case ScalarNode():
                return self._scalar(node)
            case SequenceNode(tag="tag:yaml.org,2002:seq"):
                return [self.build(item, depth + 1) for item in node.value]
            case MappingNode(tag="tag:yaml.org,2002:map"):
                return self._mapping(node, depth)
            case _:
                raise self._error(node, f"has the tag {node.tag}; a manifest holds what JSON can")

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = self._merge(value_node, depth) | merged
                continue
            key = self._key(key_node)
            if key in own:
                raise self._error(key_node, f'has the key "{key}" twice in one mapping')
            own[key] = self.build(value_node, depth + 1)
        return {**{key: value for key, value in merged.items() if key not in own}, **own} if merged else own

    def _merge(self, node: Node, depth: int) -> dict[str, Any]:
        """What `<<` brings in: of several mappings, the first that has a key wins."""
        merged: dict[str, Any] = {}
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(source, MappingNode):
                raise self._error(source, "merges (<<) something that is no mapping")
            merged = self.build(source, depth + 1) | merged
        return merged

    def _key(self, node: Node) -> str:
        """A key as JSON has it: text."""
        key = self._scalar(node) if isinstance(node, ScalarNode) else None
        if key is None:
            raise self._error(node, "has a key that is no text")
        return str(key).lower() if isinstance(key, bool) else str(key)

    def _scalar(self, node: ScalarNode) -> Any:
        read = _READERS.get(node.tag.removeprefix(_TAG))
        try:
            if read is not None:
                return read(node.value)
        except (KeyError, ValueError):
            pass
        raise self._error(node, f'has the value "{node.value[:40]}", which JSON does not have (tag {node.tag})')

    def _error(self, node: Node, message: str) -> MalformedDocument:
        return MalformedDocument(self._document.number, self._document.line + node.start_mark.line, message)


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
    return int(f"{octal[1]}{octal[2]}", 8) if octal else int(digits, 0)


def _number(text: str) -> int | float:
    """A whole number is written without a point, as Go's encoder does: `1e3` is 1000."""
    value = float(text.replace("_", ""))
    if not math.isfinite(value):
        raise ValueError(text)
    return int(value) if value.is_integer() and abs(value) < 1e21 else value


_READERS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "merge": str,
    "timestamp": str,
    "bool": _BOOL.__getitem__,
    "null": _NULL.__getitem__,
    "int": _integer,
    "float": _number,
}
