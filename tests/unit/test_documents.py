"""YAML in, YAML out: nothing that was not changed changes, nothing is read or written as something else."""

import contextlib
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from webhook import documents
from webhook.documents import Document
from webhook.errors import MalformedDocument

WORDS = [
    "on",
    "y",
    "No",
    "~",
    "",
    "null",
    "=",
    "<<",
    ".inf",
    " a ",
    "é😀",
    "- a",
    "a: b",
    "#c",
    "a #b",
    "%d",
    "@e",
    "`f",
]
NUMBERS = ["1e3", "0777", "0o17", "08", ".5", "+.5e1", "1_000", "0x1F", "1:30", "2024-01-01", "2001-12-14T21:59:43Z"]
BLOCKS = ["a\nb\n", "a\nb", "a  \nb\n", "\n\n a\n", "x\r\ny", "\t", "\x07", "\x85", "\u2028", "\ufeff"]
TRAPS = [*WORDS, *NUMBERS, *BLOCKS]
texts = st.sampled_from(TRAPS) | st.text(max_size=20)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
STREAMS = [
    "",
    "\n",
    "a: 1",
    "---\n",
    "---\n---\n",
    "a: 1\n...\n# x\n---\nb: é😀\n---\nc: 1\n",
    "a: 1\r\n---\r\nb: 2\r\n",
    "# only a comment\n",
    "--- {a: 1}\n--- [2]\n",
    "%YAML 1.1\n---\na: 1\n",
    "\ufeffa: 1\n---\nb: 1\n",
    '{"a":\t1}',
]


def load(text: str) -> Any:
    return documents.load(Document(1, 1, text))


def read(text: str) -> list[Any]:
    return [documents.load(document) for document in documents.split(text)]


def error_of(text: str) -> MalformedDocument:
    with pytest.raises(MalformedDocument) as caught:
        read(text)
    return caught.value


@pytest.mark.parametrize("stream", STREAMS)
def test_the_texts_of_the_documents_are_the_stream(stream: str) -> None:
    assert "".join(document.text for document in documents.split(stream)) == stream


def test_documents_are_counted_and_know_their_lines() -> None:
    found = list(documents.split("# a\na: 1\n---\n# b\n\nb: 1\n---\nc: 1\n"))

    assert [(document.number, document.line, document.content_line) for document in found] == [
        (1, 1, 2),
        (2, 3, 6),
        (3, 7, 8),
    ]


@hypothesis.settings(deadline=None)  # the machine may be busy
@given(trees)
def test_what_is_written_is_read_back_unchanged(tree: Any) -> None:
    written = documents.to_yaml(tree)

    assert load(written) == tree
    assert yaml.safe_load(written) == tree, "as YAML 1.1 reads it"


@pytest.mark.parametrize("text", TRAPS)
def test_a_string_that_looks_like_something_else_stays_a_string(text: str) -> None:
    assert load(documents.to_yaml({"key": text, text: "value"})) == {"key": text, text: "value"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("yes", True),
        ("y", True),
        ("off", False),
        ("0644", 420),
        ("0o644", 420),
        ("0x10", 16),
        ("1_000", 1000),
        ("1e3", 1000),
        ("08", 8),
        ("1.5", 1.5),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("2001-12-14T21:59:43Z", "2001-12-14T21:59:43Z"),
        ("1:30", "1:30"),
        ("'yes'", "yes"),
        ('"1e3"', "1e3"),
        ("!!str 123", "123"),
        ("!!int '7'", 7),
    ],
)
def test_a_scalar_is_read_as_kubectl_reads_it(written: str, read: object) -> None:
    value = load(f"a: {written}")["a"]

    assert value == read
    assert type(value) is type(read)


def test_keys_become_text_as_they_do_in_kubectl() -> None:
    assert load("{1: a, on: b, 1.5: c}") == {"1": "a", "true": "b", "1.5": "c"}


def test_anchors_aliases_and_merges_are_resolved() -> None:
    assert load("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}\nd: {<<: [{m: 1}, {m: 2, o: 3}]}\n") == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 1, "l": 2},
        "c": {"k": 1, "l": 3},
        "d": {"m": 1, "o": 3},
    }


def test_what_an_alias_names_is_not_shared() -> None:
    data = load("a: &x {k: 1}\nb: *x\n")
    data["a"]["k"] = 2

    assert data["b"] == {"k": 1}


def test_text_of_several_lines_is_written_as_a_block() -> None:
    assert documents.to_yaml({"rules": "*nat\n-A OUT -j RETURN\nCOMMIT\n"}) == (
        "rules: |\n  *nat\n  -A OUT -j RETURN\n  COMMIT\n"
    )


def test_a_long_line_is_not_folded() -> None:
    assert documents.to_yaml({"a": "word " * 100 + "end"}).count("\n") == 1


def test_comments_above_and_below_a_changed_document_stay() -> None:
    stream = "# licence\n---\n# Source: web.yaml\na: 1 # gone\n\n# next\n...\n---\nb: 1\n"
    first = next(documents.split(stream))

    assert documents.dump({"a": 2}, first) == "# licence\n---\n# Source: web.yaml\na: 2\n\n# next\n...\n"


@pytest.mark.parametrize("text", ["--- {a: 1}\n", "---  !!map\na: 1\n", "--- # why\na: 1\n"])
def test_a_changed_document_keeps_its_separator(text: str) -> None:
    assert documents.dump({"a": 2}, Document(1, 1, text)).startswith("---")
    assert load(documents.dump({"a": 2}, Document(1, 1, text))) == {"a": 2}


def test_a_block_of_text_that_ends_in_a_comment_sign_is_no_comment() -> None:
    assert documents.dump({"b": 1}, Document(1, 1, "a: |\n  x\n  # y\n")) == "b: 1\n"


def test_a_duplicate_key_is_named_with_its_line() -> None:
    error = error_of("a: 1\n---\n\nb:\n  c: 1\n  c: 2\n")

    assert (error.number, error.line) == (2, 6)
    assert '"c" twice' in error.message


def test_a_syntax_error_names_document_and_line() -> None:
    error = error_of("a: 1\n---\nb: [1\nc: 2\n")

    assert error.number == 2
    assert error.line >= 3
    assert "no YAML" in error.message


def test_documents_before_a_syntax_error_are_read() -> None:
    stream = documents.split("a: 1\n---\nb: [1\n")

    assert documents.load(next(stream)) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [*a]", "holds itself"),
        ("[" * 900 + "]" * 900, "nested deeper"),
        ("[" * 100_000, ""),
        ("a: .inf", "JSON"),
        ("a: !!binary aGk=", "JSON"),
        ("a: !python/name:os.system x", "JSON"),
        ("a: !!set {b}", "tag"),
        ("{[1]: 2}", "no text"),
        ("{~: 2}", "no text"),
        ("a: {<<: 1}", "no mapping"),
        ("a: \x01", "no YAML"),
        ("a: *b", "undefined alias"),
    ],
)
def test_what_json_does_not_have_is_refused(text: str, said: str) -> None:
    assert said in error_of(text).message


def test_aliases_cannot_multiply_without_end() -> None:
    laughs = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    laughs += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]

    assert "values" in error_of("\n".join(laughs)).message


@hypothesis.settings(deadline=None)  # the machine may be busy
@given(st.text("ab:-|>&*!#%{}[]'\" \n\t.<?,", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(MalformedDocument):
        read(text)
