"""What the init container's script promises: the same result however often it runs, or a message that says what is
missing."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import build
from tests.build import injected, named
from tests.dataplane.network import Backend, Namespace, network
from webhook.redirect import Redirection, render

pytestmark = pytest.mark.dataplane

REDIRECT = Redirection(
    mode="redirect",
    uid=1337,
    gid=1337,
    exclude_inbound_ports=tuple((port, port + port % 3) for port in range(8000, 8256, 2)),
    exclude_outbound_cidrs=("169.254.169.254/32", "fe80::/10"),
    include_outbound_cidrs=("10.0.0.0/8", "fd00::/8"),
    opaque_inbound_ports=((9092, 9092),),
    opaque_outbound_ports=((25, 25), (3306, 3307)),
)
TPROXY = Redirection(mode="tproxy", uid=1337, gid=1337, opaque_inbound_ports=((9092, 9092),))

SHORT = Redirection(mode="redirect", uid=1337, gid=1337)

backends = pytest.mark.parametrize("backend", ["nft", "legacy"])
modes = pytest.mark.parametrize("wanted", [REDIRECT, TPROXY], ids=["redirect", "tproxy"])


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Namespace]:
    with network(tmp_path) as made:
        yield made.pod


def routing(pod: Namespace) -> str:
    return "".join(pod.run("ip", family, "rule").stdout for family in ("-4", "-6"))


@backends
@modes
@pytest.mark.parametrize("shell", [["dash"], ["busybox", "sh"]], ids=["dash", "busybox"])
def test_a_second_run_changes_nothing(pod: Namespace, backend: Backend, wanted: Redirection, shell: list[str]) -> None:
    assert pod.redirect(wanted, backend, shell=shell).returncode == 0
    first = pod.rules(backend), routing(pod)
    assert pod.redirect(wanted, backend, shell=shell).returncode == 0
    assert (pod.rules(backend), routing(pod)) == first


@backends
def test_ten_runs_are_like_one(pod: Namespace, backend: Backend) -> None:
    pod.redirect(SHORT, backend)
    first = pod.rules(backend)
    for _ in range(9):
        assert pod.redirect(SHORT, backend).returncode == 0
    assert pod.rules(backend) == first


@backends
@modes
@pytest.mark.parametrize(
    ("earlier", "broken"),
    [(False, "IPTABLES_RULES_IPV6"), (True, "the bootstrap")],
    ids=["the first run, by a rule", "a later one, by the bootstrap"],
)
def test_a_failure_leaves_nothing_half_applied(
    pod: Namespace, backend: Backend, wanted: Redirection, earlier: bool, broken: str
) -> None:
    before = routing(pod)
    if earlier:
        pod.redirect(wanted, backend)
    if broken == "the bootstrap":
        (pod.folder / "ln").symlink_to("/bin/false")
        shell = ["env", f"PATH={pod.folder}:{os.environ['PATH']}"]
    else:
        rules = render(wanted).ipv6.replace("-j RETURN", "-j NOWHERE")
        shell = ["env", f"{broken}={rules}"]
    assert pod.redirect(wanted, backend, shell=shell).returncode == 1
    assert (pod.rules(backend), routing(pod)) == ([], before)


@backends
def test_every_rule_is_there_for_both_families(pod: Namespace, backend: Backend) -> None:
    pod.redirect(REDIRECT, backend)
    rules = pod.rules(backend)
    assert sum("--to-ports 15006" in rule for rule in rules) == 2
    assert sum("-A OUTPUT -p tcp -j ENVOY_SIDECAR_OUT" in rule for rule in rules) == 2


@backends
def test_the_check_names_the_rule_that_is_missing(pod: Namespace, backend: Backend) -> None:
    pod.redirect(REDIRECT, backend)
    rule = "ENVOY_SIDECAR_OUT -m owner --uid-owner 1337 -j RETURN"
    pod.run(f"iptables-{backend}", "-t", "nat", "-D", *rule.split())
    checked = pod.redirect(REDIRECT, backend, "check")
    assert checked.returncode == 1
    assert checked.stderr == f"envoy-sidecar-init: a rule is missing: iptables-{backend} -t nat -A {rule}\n"


def test_the_check_names_a_routing_rule_that_is_missing(pod: Namespace) -> None:
    pod.redirect(TPROXY, "nft")
    pod.run("ip", "-6", "rule", "del", "fwmark", "0x539")
    checked = pod.redirect(TPROXY, "nft", "check")
    assert checked.returncode == 1
    assert "ip -6 rule add fwmark 0x539 table 133" in checked.stderr


def test_a_check_changes_nothing(pod: Namespace) -> None:
    assert pod.redirect(REDIRECT, "nft", "check").returncode == 1
    assert pod.rules("nft") == []


def test_a_node_with_ipv6_gets_the_dual_stack_bootstrap(pod: Namespace) -> None:
    pod.redirect(REDIRECT, "nft")
    assert (pod.folder / "envoy-sidecar/bootstrap.json").readlink() == Path("/etc/envoy-sidecar/bootstrap-dual.json")


def test_a_node_without_ipv6_gets_the_ipv4_bootstrap(pod: Namespace) -> None:
    """A kernel that was booted with ipv6.disable=1 has no /proc/net/if_inet6; here, all of /proc is hidden."""
    hidden = ["sh", "-c", 'mount -t tmpfs tmpfs /proc && exec "$@"', "sh"]
    applied = pod.redirect(REDIRECT, "nft", shell=hidden)
    assert applied.stdout == "envoy-sidecar-init: redirection is in place (redirect, ipv4)\n"
    assert (pod.folder / "envoy-sidecar/bootstrap.json").readlink() == Path("/etc/envoy-sidecar/bootstrap-ipv4.json")


def test_a_node_without_ip6tables_is_tolerated_and_named(pod: Namespace) -> None:
    without = pod.folder / "bin"
    without.mkdir()
    for program in ("iptables-nft", "iptables-nft-restore", "grep", "ln"):
        (without / program).symlink_to(str(shutil.which(program)))
    applied = pod.redirect(REDIRECT, "nft", shell=["env", f"PATH={without}", "/bin/dash"])
    assert applied.returncode == 0
    assert applied.stdout.startswith(
        "envoy-sidecar-init: this node has no ip6tables with a nat table: IPv6 traffic is not redirected\n"
    )


def test_a_node_without_iptables_is_named(pod: Namespace) -> None:
    refused = pod.redirect(REDIRECT, "nft", shell=["env", "IPTABLES_BACKEND=absent"])
    assert refused.returncode == 1
    assert "this node has no iptables with a nat table" in refused.stderr


def test_the_classic_sidecar_gets_a_busybox(pod: Namespace) -> None:
    target = "/run/envoy-sidecar/busybox"
    for _ in range(2):
        pod.redirect(REDIRECT, "nft", shell=["env", f"BUSYBOX_COPY={target}"])
    assert pod.run(str(pod.folder / "envoy-sidecar/busybox"), "echo", "works").stdout == "works\n"


LEAST: dict[Backend, list[str]] = {"nft": ["net_admin"], "legacy": ["net_admin", "net_raw"]}


def with_only(capabilities: Sequence[str]) -> list[str]:
    bounding = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return ["setpriv", "--no-new-privs", f"--bounding-set={bounding}", "--inh-caps=-all"]


@backends
@modes
def test_these_capabilities_suffice_and_none_of_them_can_be_spared(
    pod: Namespace, backend: Backend, wanted: Redirection
) -> None:
    for spared in LEAST[backend]:
        rest = [name for name in LEAST[backend] if name != spared]
        assert pod.redirect(wanted, backend, shell=with_only(rest)).returncode == 1
    assert pod.redirect(wanted, backend, shell=with_only(LEAST[backend])).returncode == 0


def test_the_init_container_has_these_capabilities_and_no_other() -> None:
    container = named(injected(build.pod())["spec"]["initContainers"], "envoy-sidecar-init")
    capabilities = container["securityContext"]["capabilities"]
    assert capabilities == {"drop": ["ALL"], "add": [name.upper() for name in LEAST["legacy"]]}


def test_an_unknown_mode_is_refused(pod: Namespace) -> None:
    refused = pod.redirect(REDIRECT, "nft", shell=["env", "ENVOY_SIDECAR_MODE=none"])
    assert refused.returncode == 1
    assert refused.stderr == "envoy-sidecar-init: ENVOY_SIDECAR_MODE is 'none', not redirect or tproxy\n"
