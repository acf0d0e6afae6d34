"""certs run: what it says of itself, when it looks, and what it refuses to start with."""

import logging
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from certs import service
from certs.__main__ import main
from certs.kube import ConflictError, KubeError
from certs.metrics import Metrics
from certs.objects import CONFIGURATIONS, Target
from certs.reading import Object
from certs.rehearsal import Rehearsal
from certs.rounds import MAX_ROUNDS, settle
from certs.steps import Step, Verb
from tests.rehearsed import INSTALLATION, NOW, cluster, keeper, nothing, settled


@pytest.fixture
def quiet() -> Iterator[None]:
    """Leaves logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


def samples(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.page().decode())
    return {f"{s.name}{sorted(s.labels.values())}": s.value for family in families for s in family.samples}


def shown(store: Rehearsal) -> dict[str, float]:
    """The metrics after a look at that cluster."""
    metrics = Metrics(service.FAILURES)
    metrics.show(keeper(store).look()[1], NOW, INSTALLATION.authority.name)
    return samples(metrics)


@pytest.mark.parametrize(
    ("labels", "lifetime"),
    [
        ("['ca', 'envoy-sidecar-ca-key']", timedelta(days=365)),
        ("['envoy-sidecar-webhook-tls', 'leaf']", timedelta(days=30)),
        ("['envoy-sidecar-controlplane-tls', 'leaf']", timedelta(days=30)),
    ],
)
def test_a_metric_says_when_a_certificate_ends(labels: str, lifetime: timedelta) -> None:
    assert shown(settled())[f"envoy_sidecar_certs_not_after_timestamp_seconds{labels}"] == (NOW + lifetime).timestamp()


@pytest.mark.parametrize("target", ["mutating", "validating", "config_maps"])
def test_a_metric_says_that_a_trust_vouches_for_what_is_served(target: str) -> None:
    assert shown(settled())[f"envoy_sidecar_certs_trust_matches['{target}']"] == 1


@pytest.mark.parametrize(("number", "target"), [(0, "mutating"), (1, "validating")])
def test_a_metric_says_that_a_trust_does_not(number: int, target: str) -> None:
    store = settled()
    store.publish(CONFIGURATIONS[number], store.found[CONFIGURATIONS[number]], b"")
    found = shown(store)
    assert found[f"envoy_sidecar_certs_trust_matches['{target}']"] == 0
    assert found["envoy_sidecar_certs_trust_matches['config_maps']"] == 1


def test_a_registration_that_is_not_installed_is_no_mismatch() -> None:
    store = settled()
    del store.found[CONFIGURATIONS[0]]
    assert "envoy_sidecar_certs_trust_matches['mutating']" not in shown(store)


@pytest.mark.parametrize("step", get_args(Verb))
def test_every_step_is_counted_from_the_start(step: str) -> None:
    assert samples(Metrics(service.FAILURES))[f"envoy_sidecar_certs_steps_total['{step}']"] == 0


@pytest.mark.parametrize("reason", service.FAILURES)
def test_every_reason_of_a_failure_is_counted_from_the_start(reason: str) -> None:
    assert samples(Metrics(service.FAILURES))[f"envoy_sidecar_certs_failures_total['{reason}']"] == 0


def test_it_looks_when_the_clock_on_the_wall_has_come_to_a_whole_period() -> None:
    before = time.time()
    at = before + service.until_next(60, failures=0)
    assert at % 60 == pytest.approx(0, abs=1) or at % 60 == pytest.approx(60, abs=1)


def test_after_a_failure_it_looks_sooner_and_later_each_time_up_to_the_period() -> None:
    delays = [max(service.delay(failures, 60) for _ in range(200)) for failures in range(1, 12)]
    assert delays[0] <= 1
    assert delays[4] == pytest.approx(16, rel=0.1)
    assert max(delays) <= 60


class Stubborn(Rehearsal):
    """Somebody else writes first, each time."""

    def fill(self, target: Target, read: Object, content: dict[str, bytes]) -> None:
        raise ConflictError("refused", "always")


class Emptied(Rehearsal):
    """Somebody else empties what is published in a registration at once."""

    def publish(self, target: Target, read: Object, text: bytes) -> None:
        super().publish(target, read, b"" if target in CONFIGURATIONS else text)


def test_a_look_that_others_undo_at_once_ends_and_says_so() -> None:
    told: list[tuple[Step, KubeError | None]] = []
    ended = settle(keeper(cluster(Stubborn)), lambda step, error: told.append((step, error)))
    assert sum(step.verb == "introduce" for step, _ in told) == MAX_ROUNDS
    step, error = told[-1]
    assert (str(step.target), error and error.reason) == (str(INSTALLATION.authority), "unsettled")
    assert ended.failures == {INSTALLATION.authority: error}


def test_a_trust_that_somebody_empties_at_once_is_no_match() -> None:
    """The alert goes by that, and is about this."""
    store = cluster(Emptied)
    ended, metrics = settle(keeper(store), nothing), Metrics(service.FAILURES)
    metrics.show(ended.observed, ended.at, INSTALLATION.authority.name)
    found = samples(metrics)
    assert found["envoy_sidecar_certs_trust_matches['mutating']"] == 0
    assert found["envoy_sidecar_certs_trust_matches['config_maps']"] == 1
    assert all(leaf.bundle for leaf in ended.observed.leaves)


def test_a_step_that_fails_holds_up_no_other_and_is_tried_once() -> None:
    class Refusing(Rehearsal):
        def publish(self, target: Target, read: Object, text: bytes) -> None:
            if target.namespace == "shop":
                raise KubeError("forbidden", "no")
            return super().publish(target, read, text)

    store, told = cluster(Refusing), []

    def tell(step: Step, error: KubeError | None) -> None:
        told.append((str(step.target), error is None))

    ended = settle(keeper(store), tell)
    assert [str(target) for target in ended.failures] == ["ConfigMap shop/envoy-sidecar-ca"]
    assert told.count(("ConfigMap shop/envoy-sidecar-ca", False)) == 1
    assert ("Secret envoy-sidecar-system/envoy-sidecar-webhook-tls", True) in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ca-days", "50"), "a CA must be valid at least twice as long as the certificates that it signs"),
        (("--leaf-days", "0"), "'0' is no number of days above 0"),
        (("--ca-days", "nan"), "'nan' is no number of days"),
        (("--ca-days", "36501"), "up to 36500"),
        (("--publication-delay-seconds", "-1"), "'-1' is no number of seconds"),
        (("--ca-days", "1", "--leaf-days", "0.1", "--publication-delay-seconds", "30000"), "shorter than a third"),
        (("--kubeconfig", "/nowhere"), "no credentials"),
        (("--namespace", "a/../b"), "'a/../b' is no name of a namespace"),
        (("--cluster-domain", "Cluster local"), "'Cluster local' is no DNS name in lower case"),
    ],
)
@pytest.mark.parametrize("command", ["run", "ensure", "show"])
@pytest.mark.usefixtures("quiet")
def test_it_does_not_start_with(
    options: tuple[str, ...], words: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main([command, *options])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["rubbish", "[]", "{", "users: 1", "contexts: [1]", "clusters: {a: 1}"])
def test_a_file_that_is_no_kubeconfig_is_told(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    assert main(["show", "--kubeconfig", str(file)]) == 2
    assert capsys.readouterr().err.startswith("certs: no credentials: ")


@pytest.mark.usefixtures("quiet")
def test_a_port_that_is_taken_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = tmp_path / "kubeconfig"
    context = {"name": "it", "context": {"cluster": "it", "user": ""}}
    server = {"name": "it", "cluster": {"server": "http://127.0.0.1:1"}}
    nobody.write_text(
        yaml.safe_dump({"clusters": [server], "contexts": [context], "current-context": "it", "users": []})
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = ["--metrics-address", "127.0.0.1", "--metrics-port", str(taken.getsockname()[1])]
        assert main(["run", "--kubeconfig", str(nobody), *where]) == 2
    assert "--metrics-address, --metrics-port: Address already in use" in capsys.readouterr().err
