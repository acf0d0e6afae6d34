"""What a Service may say about how it wants to be called."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.xds import annotations, policies
from controlplane.xds.annotations import PREFIX, TABLE, Annotation
from controlplane.xds.policy import DEFAULT, Policy
from controlplane.xds.values import show_duration

GUIDE = Path(__file__).parents[2] / "docs/traffic.md"


def read(**texts: str) -> tuple[Policy, tuple[str, ...]]:
    return policies.read({PREFIX + name.replace("_", "-"): text for name, text in texts.items()})


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_the_example_of_every_annotation_changes_the_policy(row: Annotation) -> None:
    policy, _ = policies.read({row.key: row.example})
    assert getattr(policy, row.field) != getattr(DEFAULT, row.field)


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_what_differs_from_the_defaults_is_shown_as_its_author_would_write_it(row: Annotation) -> None:
    policy, _ = policies.read({row.key: row.example})
    ((found, text),) = policies.changed(policy)
    assert found is row
    assert row.parse(text) == row.parse(row.example)


def test_the_defaults_are_not_what_an_annotation_says() -> None:
    assert list(policies.changed(DEFAULT)) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("timeout", "off"),
        ("idle-timeout", "off"),
        ("hash-on", "source-ip"),
        ("hash-on", "cookie:Session"),
        ("health-check", "off"),
        ("protocol", "grpc,80=http"),
    ],
)
def test_a_value_is_read_back_as_it_is_shown(name: str, text: str) -> None:
    row = annotations.BY_KEY[PREFIX + name]
    assert row.parse(row.show(row.parse(text))) == row.parse(text)


def test_what_the_guide_says_to_kubectl_annotate_is_taken() -> None:
    said = re.findall(r"^kubectl .*annotate service \S+ (.*)$", GUIDE.read_text(), re.MULTILINE)
    assert said
    for line in said:
        words = [word.partition("=") for word in line.split() if not word.startswith("--")]
        assert {key.removesuffix("" if sign else "-") for key, sign, _ in words} - set(annotations.BY_KEY) == set()
        assert policies.read({key: text for key, sign, text in words if sign})[1] == ()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("retries", "0", "retries", 0),
        ("timeout", "1.5s", "timeout", 1500),
        ("timeout", "off", "timeout", 0),
        ("timeout", "250ms", "timeout", 250),
        ("idle-timeout", "2m", "idle_timeout", 120_000),
        ("retry-on", "5xx, reset", "retry_on", ("5xx", "reset")),
        ("hash-on", "cookie:Session", "hash_on", ("cookie", "Session")),
        ("hash-on", "header:X-User", "hash_on", ("header", "x-user")),
        ("protocol", "tcp", "protocols", ((0, "tcp"),)),
        ("protocol", "80=http, 5432=tcp", "protocols", ((80, "http"), (5432, "tcp"))),
        ("health-check", "off", "health_check", ""),
        ("eject-after", "0", "eject_after", 0),
    ],
)
def test_values_as_authors_write_them(name: str, text: str, field: str, value: object) -> None:
    policy, _ = policies.read({PREFIX + name: text})
    assert getattr(policy, field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("retries", "11"),
        ("retries", "-1"),
        ("retries", "two"),
        ("retries", ""),
        ("retries", "1\n"),
        ("retries", "٣"),
        ("timeout", "5"),
        ("timeout", "25h"),
        ("timeout", "1e3s"),
        ("connect-timeout", "off"),
        ("retry-on", "always"),
        ("retry-on", ""),
        ("retry-budget", "101"),
        ("load-balancing", "random"),
        ("hash-on", "header:"),
        ("hash-on", "header:a b"),
        ("hash-on", "x-user"),
        ("health-check", "healthz"),
        ("health-check", "/a b"),
        ("health-check", "/\r\nx: y"),
        ("protocol", "udp"),
        ("protocol", "70000=tcp"),
        ("protocol", "80=http,80=tcp"),
        ("max-requests", "0"),
    ],
)
def test_a_bad_value_is_told_with_what_is_allowed_and_the_rest_applies(name: str, text: str) -> None:
    policy, problems = policies.read({PREFIX + name: text, PREFIX + "retry-timeout": "1s"})
    assert policy == Policy(retry_timeout=1000)
    (problem,) = problems
    assert problem.startswith(f"{PREFIX}{name}: {text!r}: use ")


def test_an_unknown_annotation_of_ours_is_told_with_the_nearest() -> None:
    assert read(retreis="1")[1] == (
        "'envoy-sidecar.io/retreis' is no annotation of a Service; did you mean envoy-sidecar.io/retries?",
    )


def test_annotations_of_others_are_nobodys_business_here() -> None:
    assert policies.read({"example.com/retries": "x", "retries": "y"}) == (DEFAULT, ())


def test_consistent_hash_without_a_word_on_what_is_told() -> None:
    assert "needs envoy-sidecar.io/hash-on" in read(load_balancing="consistent-hash")[1][0]


@pytest.mark.parametrize(
    "texts",
    [
        {"hash_on": "source-ip"},
        {"warm_up": "30s", "load_balancing": "latency"},
        {"warm_up": "30s", "load_balancing": "consistent-hash", "hash_on": "source-ip"},
        {"health_check_interval": "5s"},
        {"retry_on": "5xx", "retries": "0"},
        {"eject_for": "1m", "eject_after": "0"},
    ],
    ids=" ".join,
)
def test_what_does_nothing_for_want_of_another_annotation_is_told(texts: dict[str, str]) -> None:
    (problem,) = read(**texts)[1]
    assert problem.startswith(f"{PREFIX}{next(iter(texts)).replace('_', '-')} does nothing w")


def test_a_request_that_may_take_no_longer_than_one_attempt_is_told() -> None:
    assert "retry-timeout does nothing" in read(retry_timeout="2s", timeout="2s")[1][0]
    assert read(retry_timeout="1s", timeout="2s")[1] == ()


@pytest.mark.parametrize(
    "texts",
    [
        {"warm_up": "30s"},
        {"warm_up": "30s", "load_balancing": "round-robin"},
        {"health_check_interval": "5s", "health_check": "tcp"},
    ],
    ids=" ".join,
)
def test_what_does_something_is_not_told(texts: dict[str, str]) -> None:
    assert read(**texts)[1] == ()


@given(st.dictionaries(st.sampled_from([row.key for row in TABLE]), st.text(max_size=300)))
def test_no_value_whatever_raises_and_no_message_is_long(texts: dict[str, str]) -> None:
    _, problems = policies.read(texts)
    assert all(len(problem) < 1200 for problem in problems)


@given(st.integers(1, 24 * 3_600_000))
def test_a_time_reads_back_as_it_is_shown(milliseconds: int) -> None:
    assert read(timeout=show_duration(milliseconds))[0].timeout == milliseconds
