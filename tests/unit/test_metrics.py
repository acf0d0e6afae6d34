"""metrics: what is counted, under which names, and that no label can grow without end."""

import platform

from prometheus_client.parser import text_string_to_metric_families

from webhook import __version__
from webhook.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.page().decode())
    return {
        (sample.name.removeprefix("envoy_sidecar_webhook_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_duration_falls_into_its_bucket() -> None:
    metrics = Metrics("abc")
    metrics.observe("inject", "injected", "added", 0.0007)
    seen = samples(metrics)
    name = "admission_duration_seconds"
    assert seen[f"{name}_bucket", (("endpoint", "inject"), ("le", "0.0005"))] == 0
    assert seen[f"{name}_bucket", (("endpoint", "inject"), ("le", "0.001"))] == 1
    assert seen[f"{name}_sum", (("endpoint", "inject"),)] == 0.0007


def test_the_settings_in_effect_are_told_by_their_hash() -> None:
    assert samples(Metrics("abc"))["settings_info", (("hash", "abc"),)] == 1


def test_the_version_of_ours_and_of_python_is_told() -> None:
    labels = (("python", platform.python_version()), ("version", __version__))
    assert samples(Metrics("abc"))["build_info", labels] == 1


def test_reloads_are_there_before_the_first_one_so_that_a_rate_can_be_taken() -> None:
    seen = samples(Metrics("abc"))
    assert seen["certificate_reloads_total", (("result", "success"),)] == 0
    assert seen["certificate_reloads_total", (("result", "failure"),)] == 0


def test_there_is_no_series_for_the_time_of_creation() -> None:
    metrics = Metrics("abc")
    metrics.observe("inject", "injected", "added", 0.0007)
    assert not [name for name, _ in samples(metrics) if name.endswith("_created")]


def test_two_sets_of_metrics_do_not_share_a_count() -> None:
    one, other = Metrics("abc"), Metrics("abc")
    one.observe("inject", "injected", "added", 0.1)
    labels = (("decision", "injected"), ("endpoint", "inject"), ("reason", "added"))
    assert samples(one)["admissions_total", labels] == 1
    assert ("admissions_total", labels) not in samples(other)
