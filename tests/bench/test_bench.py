"""The benchmark runs, and what it runs against injects. No times: those are for `scripts/bench` to judge."""

import statistics

import pytest

from tests.bench import hops, storm
from tests.bench.bodies import KB, SERIALS, Bodies
from tests.bench.measure import QUICK, Figure, measure
from tests.bench.table import render, rows


@pytest.mark.parametrize("size", [6, 10, 32, 64, 128])
@pytest.mark.parametrize("differing", [False, True])
def test_a_body_has_the_size_that_was_asked_for(size: int, differing: bool) -> None:
    assert {len(body) for body in Bodies(size * KB, differing).take(3)} == {size * KB}


def test_bodies_that_differ_do_not_come_again_before_all_others_have() -> None:
    bodies = Bodies(6 * KB, differing=True)
    assert len({hash(body) for body in bodies.take(len(SERIALS))}) == len(SERIALS)


def test_every_answer_injects_and_ours_costs_less_cpu_than_the_naive_one() -> None:
    samples = measure(QUICK)  # raises WrongAnswerError for an answer that is no patch for its pod
    for differing in (False, True):
        ours, naive = (statistics.median(samples.of[Figure("cpu", name, differing)]) for name in ("ours", "naive"))
        assert ours < naive
    assert "first patch after exec" in render(list(rows(samples)), "bodies", "naive")


@pytest.mark.dataplane
@pytest.mark.envoy
def test_what_sidecars_cost_is_measured_on_traffic_that_flows() -> None:
    figures = hops.measure(hops.QUICK)
    assert figures.steady_errors == 0
    assert "what two hops add" in render(list(hops.rows(figures)), "path", "floor")


def test_a_crowd_of_proxies_is_told_of_every_change_and_never_left_without_endpoints() -> None:
    figures = storm.measure(storm.QUICK)
    assert (figures.without, figures.differing) == (0, 0)
    assert "a change at the last proxy" in render(list(storm.rows(figures)), "", "go-control-plane")
