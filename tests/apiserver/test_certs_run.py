"""`certs` against the real API server, with the real rights of its account: one CA whatever happens, and healing."""

import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.apiserver.account import MERGE_PATCH, SYSTEM, sign_in
from tests.apiserver.admissions import MEASURED
from tests.apiserver.damage import delete, delete_and_empty, empty_bundles, replace_bundles, spoil
from tests.apiserver.keeping import CA, HOST, WEBHOOK, Keeping, Process, installed
from tests.apiserver.objects import namespace
from tests.apiserver.processes import eventually, stop

QUICK = ("--period-seconds", "1", "--publication-delay-seconds", "2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Keeping]:
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), installed(tmp_path_factory.mktemp("certs")) as keeping:
        yield keeping


@pytest.fixture
def empty(cluster: Keeping) -> Keeping:
    """Nothing is there, as before the first installation."""
    cluster.wipe()
    return cluster


@pytest.fixture
def shop(cluster: Keeping) -> Callable[[], str]:
    """Makes another namespace that opts in."""
    numbers = itertools.count()

    def make() -> str:
        name = f"shop-{time.monotonic_ns()}-{next(numbers)}"
        cluster.cluster.kubectl("create", "-f", "-", stdin=namespace(name))
        return name

    return make


@pytest.fixture
def kept(empty: Keeping, request: pytest.FixtureRequest) -> Iterator[Process]:
    """One process, all well."""
    with empty.running(request.node.name[:40], *QUICK) as process:
        eventually(process.ready, f"all is well, see {process.log}")
        yield process


def test_what_is_served_is_strictly_valid(kept: Process, empty: Keeping, tmp_path: Path) -> None:
    openssl = needs.binary("openssl", "install openssl")
    (tmp_path / "ca.crt").write_bytes(empty.trusts()[0])
    (tmp_path / "tls.crt").write_bytes(empty.secret(WEBHOOK)["tls.crt"])
    command = [str(openssl), "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", HOST]
    command += ["-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "tls.crt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DAMAGES: dict[str, tuple[Callable[[Keeping], None], str, str]] = {
    "the CA is deleted": (lambda it: delete(it, CA), "introduce", "is empty: a CA is needed"),
    "the CA is garbage": (lambda it: spoil(it, CA), "introduce", "are no matching pair of a P-256 CA"),
    "the certificate is deleted": (lambda it: delete(it, WEBHOOK), "issue", "is empty"),
    "the certificate is garbage": (lambda it: spoil(it, WEBHOOK), "issue", "tls.crt and tls.key are no matching pair"),
    "both are deleted": (lambda it: delete(it, CA, WEBHOOK), "issue", "is empty"),
    "the caBundles are emptied": (empty_bundles, "publish", "lacks CA"),
    "the caBundles hold another CA": (replace_bundles, "publish", "which vouches for nothing of ours"),
    "the certificate is deleted and the caBundles are emptied": (delete_and_empty, "publish", "lacks CA"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_heals_and_says_why(
    kept: Process, empty: Keeping, damage: str, record_property: Callable[[str, object], None]
) -> None:
    do, verb, reason = DAMAGES[damage]
    told, counted = len(kept.steps(verb)), kept.metric("steps_total", step=verb)
    do(empty)
    began = time.monotonic()
    eventually(lambda: any(reason in step["reason"] for step in kept.steps(verb)[told:]), f"{reason!r} is told")
    eventually(empty.well, "it is healed")
    record_property(MEASURED, f"{damage}: healed {time.monotonic() - began:.1f} s later, looking every second")
    eventually(lambda: kept.metric("steps_total", step=verb) > counted, "it is counted")


def test_a_ca_that_was_lost_stays_trusted_until_the_next_has_arrived_everywhere(kept: Process, empty: Keeping) -> None:
    former, served = empty.trusts()[0], empty.secret(WEBHOOK)["tls.crt"]
    delete(empty, CA)
    eventually(lambda: all(len(trust) > len(former) for trust in empty.trusts()), "both CAs are trusted")
    assert all(former in trust for trust in empty.trusts())
    assert empty.secret(WEBHOOK)["tls.crt"] == served
    eventually(lambda: empty.secret(WEBHOOK)["tls.crt"] != served, "the next CA has signed")
    assert empty.well()


def test_a_namespace_that_opts_in_gets_the_trust_at_once(empty: Keeping, shop: Callable[[], str]) -> None:
    with empty.running("opt-in", "--period-seconds", "3600") as process:
        eventually(process.ready, f"all is well, see {process.log}")
        name = shop()
        path = f"/api/v1/namespaces/{name}/configmaps/envoy-sidecar-ca"
        eventually(lambda: "data" in empty.get(path), "the trust is there", seconds=5)


def test_a_trust_that_somebody_takes_away_is_back_at_once(empty: Keeping) -> None:
    with empty.running("taken-away", "--period-seconds", "3600") as process:
        eventually(process.ready, f"all is well, see {process.log}")
        empty_bundles(empty)
        eventually(empty.well, "it is back", seconds=5)


@pytest.fixture
def full(cluster: Keeping, shop: Callable[[], str]) -> Iterator[str]:
    """A namespace whose quota leaves no room for a ConfigMap."""
    name = shop()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": name}}
    quota |= {"spec": {"hard": {"count/configmaps": "0"}}}
    cluster.cluster.kubectl("create", "-f", "-", stdin=quota)
    status = {"status": {"hard": {"count/configmaps": "0"}, "used": {"count/configmaps": "0"}}}
    path = f"/api/v1/namespaces/{name}/resourcequotas/none/status"
    assert cluster.admin.ask("PATCH", path, status, MERGE_PATCH, dry=False).status == 200
    yield name
    cluster.cluster.kubectl("label", "namespace", name, "envoy-sidecar.io/inject-")


def test_a_namespace_that_takes_no_trust_keeps_it_from_nobody_else(
    empty: Keeping, full: str, shop: Callable[[], str]
) -> None:
    other = shop()
    with empty.running("quota", *QUICK) as process:
        eventually(empty.well, "all others are well")
        assert other in {one["metadata"]["namespace"] for one in empty.config_maps()}
        (failure, *_) = process.events("step failed")
        assert (failure["target"], failure["failure"]) == (f"ConfigMap {full}/envoy-sidecar-ca", "forbidden")
        assert process.metric("failures_total", reason="forbidden") > 0
        assert not process.ready()


def test_sigterm_ends_it_cleanly(kept: Process) -> None:
    assert stop(kept.process) == 0
    assert kept.events("stopped")


def test_no_key_is_in_a_log(kept: Process, empty: Keeping) -> None:
    spoil(empty, WEBHOOK)
    eventually(empty.well, "it is healed")
    for name in (CA, WEBHOOK):
        for key, value in empty.secret(name).items():
            if key.endswith(".key"):
                assert not any(line in kept.log.read_text() for line in value.decode().splitlines() if line)


def test_a_rehearsal_tells_everything_and_does_nothing(empty: Keeping) -> None:
    done = empty.command("ensure", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("introduce Secret", "publish MutatingWebhookConfiguration", "issue Secret", "because: lacks CA"):
        assert words in done.stdout
    assert "Nothing was changed: this was a rehearsal." in done.stdout
    assert not any(empty.secret(name) for name in (CA, WEBHOOK))
    assert not any(empty.trusts())


def test_ensure_does_at_once_what_can_be_done(empty: Keeping) -> None:
    assert empty.command("ensure").returncode == 0
    assert empty.well()
    again = empty.command("ensure")
    assert again.stdout.startswith("Nothing is left to do now.")


def test_ensure_does_not_wait(empty: Keeping) -> None:
    empty.command("ensure")
    delete(empty, CA)
    done = empty.command("ensure")
    assert "the next CA takes over, if `certs run` runs" in done.stdout
    assert empty.well()


def test_ensure_says_what_it_could_not_do(empty: Keeping, full: str) -> None:
    done = empty.command("ensure")
    assert done.returncode == 1
    assert f"failed: PATCH ConfigMap {full}/envoy-sidecar-ca: 403 Forbidden" in done.stdout
    assert "Not done, for 1 step failed." in done.stdout
    assert empty.well()


def test_show_says_what_is_there_and_what_comes_next(empty: Keeping) -> None:
    empty.command("ensure")
    shown = empty.command("show").stdout
    for words in (
        "signing ",
        "ends ",
        "(in 365 d)",
        "(in 30 d)",
        "vouches for what is served",
        "gets a fresh certificate",
    ):
        assert words in shown
    assert "DOES NOT VOUCH" not in shown


def test_show_says_what_is_wrong(empty: Keeping) -> None:
    empty.command("ensure")
    empty_bundles(empty)
    shown = empty.command("show").stdout
    assert "envoy-sidecar-webhook: no CA; DOES NOT VOUCH for what is served" in shown
    assert "at once:\n    publish MutatingWebhookConfiguration envoy-sidecar-webhook" in shown


@pytest.mark.parametrize("command", ["ensure", "show"])
def test_the_examples_in_the_help_run(empty: Keeping, command: str) -> None:
    example = empty.command(command, "--help").stdout.partition("example:\n")[2].split("\n")[0]
    assert empty.command(*example.removeprefix("  python -m certs ").split()).returncode == 0


def test_the_example_of_run_runs(empty: Keeping) -> None:
    example = empty.command("run", "--help").stdout.partition("example:\n")[2].split("\n")[0]
    _, options = example.replace("--metrics-port 9090", "").split("certs run")
    with empty.running("example", *options.split()) as process:
        eventually(process.ready, f"all is well, see {process.log}")


def test_somebody_without_rights_is_told_which(cluster: Keeping) -> None:
    nobody = sign_in(cluster.cluster, "envoy-sidecar-webhook")
    done = cluster.command("show", "--kubeconfig", str(nobody.kubeconfig))
    assert done.returncode == 2
    assert done.stderr.startswith(f"certs: GET Secret {SYSTEM}/{WEBHOOK}: 403 Forbidden")
