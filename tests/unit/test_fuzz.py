"""Hostile reviews: whatever comes in, an answer comes out, or MalformedReview; and every patch applies.

A short slice runs with every test run; `FUZZ_EXAMPLES=100000 pytest tests/unit/test_fuzz.py` is the long form.
"""

import json
import os
import random
from typing import Any

import jsonpatch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import build
from tests.build import Document
from webhook import injection, review
from webhook import pod as pods
from webhook.annotations import TABLE
from webhook.errors import MalformedReview
from webhook.injection import Injected, Unchanged

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))
fuzz = settings(max_examples=EXAMPLES)

SCALARS: list[Any] = [None, True, 0, -1, 1.5, 2**70, "", "envoy-sidecar", "\x00", "é" * 300, [], {}, [None], {"": None}]


def answer(body: bytes) -> Document | None:
    """The response, or None if the review is malformed. Anything else that is raised fails the test."""
    try:
        parsed = review.parse(body)
        if parsed.object is None:
            return None
        outcome = injection.inject(parsed.object, "privileged", build.DEFAULTS)
    except MalformedReview:
        return None
    in_one_pass = review.parse_pod(body)
    assert in_one_pass.uid == parsed.uid
    assert (in_one_pass.pod or pods.decode(parsed.object)) == pods.decode(parsed.object)
    if isinstance(outcome, Injected):
        as_go_reads_it = bytes(parsed.object).decode(errors="replace")
        patched = jsonpatch.apply_patch(json.loads(as_go_reads_it), json.loads(outcome.patch))
        again = injection.inject(json.dumps(patched).encode(), "privileged", build.DEFAULTS)
        assert isinstance(again, Unchanged)
    response: Document = json.loads(review.respond(parsed, outcome, build.DEFAULTS.hash))["response"]
    assert response["uid"] == parsed.uid
    assert all(len(warning) <= 120 for warning in response.get("warnings", ()))
    return response


RICH = build.pod(
    {row.name: "1" for row in TABLE} | {"version": "0"},
    {"app": "web", "envoy-sidecar.io/injected": "true"},
    initContainers=[build.container("envoy-sidecar"), build.container("init", restartPolicy="Always")],
    volumes=[{"name": "envoy-sidecar-run", "emptyDir": {}}],
    securityContext={"runAsUser": 1, "supplementalGroups": [1]},
    resources={"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    os={"name": "linux"},
)


def damage(document: Any, chance: random.Random) -> Any:
    """The document with one value somewhere in it replaced, removed or doubled."""
    holders: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            holders.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(document)
    for _ in range(chance.randint(1, 3)):
        node, key = chance.choice(holders)
        match chance.randint(0, 3):
            case 0 if isinstance(node, dict):
                node.pop(key, None)
            case 1 if isinstance(node, list) and len(node) > 0:
                node.append(node[0])
            case _ if isinstance(node, dict):
                node[key] = chance.choice(SCALARS)
            case _ if len(node) > 0:
                node[chance.randrange(len(node))] = chance.choice(SCALARS)
    return document


@fuzz
@given(st.randoms(use_true_random=False), st.booleans())
def test_a_review_damaged_anywhere_is_answered(chance: random.Random, rich: bool) -> None:
    document = build.review(json.loads(json.dumps(RICH)) if rich else None)
    answer(json.dumps(damage(document, chance)).encode())


@fuzz
@given(st.randoms(use_true_random=False))
def test_bytes_damaged_anywhere_are_answered(chance: random.Random) -> None:
    body = bytearray(json.dumps(build.review(RICH)).encode())
    for _ in range(chance.randint(1, 8)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    answer(bytes(body[: chance.choice([len(body), chance.randrange(len(body))])]))


@fuzz
@given(st.dictionaries(st.sampled_from([row.name for row in TABLE]), st.text(max_size=60), max_size=6))
def test_any_text_in_any_annotation_is_answered(annotations: dict[str, str]) -> None:
    assert answer(json.dumps(build.review(build.pod(annotations))).encode()) is not None


def test_ten_thousand_levels_of_nesting_are_answered() -> None:
    deep = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
    for field in (b'"spec":', b'"spec":{"containers":[{"name":"a"}],"x":', b'"x":'):
        body = json.dumps(build.review()).encode().replace(b'"spec":', field + deep + b',"y":', 1)
        answer(body)


def test_bytes_that_are_no_text_are_answered_where_nothing_is_read() -> None:
    assert answer(json.dumps(build.review()).encode().replace(b"registry.example/app", b"registry.example/\x80"))


def test_duplicate_keys_are_answered() -> None:
    answer(json.dumps(build.review()).encode().replace(b'"spec":', b'"spec": {"containers": null}, "spec":', 1))
