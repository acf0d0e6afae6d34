"""What the two images hold, what they do not, and that they do their work."""

import pytest

from tests import build
from tests.image.builder import Image

# Runs inside the server image, on its own Python: a certificate, a server, one look at it, a clean end.
SMOKE = """
import json, ssl, subprocess, sys, urllib.request

subprocess.run([sys.executable, "-m", "certs", "dev", "/tmp/tls"], check=True)
open("/tmp/settings.yaml", "w").write("server: {shutdownGraceSeconds: 0}")
command = "-m webhook serve --tls-dir /tmp/tls --port 0 --metrics-port 0 --settings /tmp/settings.yaml"
server = subprocess.Popen([sys.executable, *command.split()], stdout=subprocess.PIPE, text=True)
try:
    serving = json.loads(server.stdout.readline())
    trust = ssl.create_default_context(cafile="/tmp/tls/ca.crt")
    with urllib.request.urlopen(f"https://localhost:{serving['port']}/readyz", context=trust) as answer:
        assert answer.status == 200, answer.status
finally:
    server.terminate()
assert server.wait(30) == 0, server.returncode
"""
ABSENT = 44  # an exit code that nothing else here has


def has(image: Image, program: str) -> bool:
    ran = image.run("/bin/sh", "-c", f"command -v {program} || exit {ABSENT}")
    assert ran.returncode in (0, ABSENT), ran.stderr
    return ran.returncode == 0


# What a container prints is for the message of a failure; exit codes decide, which no busy machine can lose.


def holds(image: Image, script: str) -> None:
    """Fails unless the shell script succeeds in a container of `image`."""
    ran = image.run("/bin/sh", "-exc", script)
    assert ran.returncode == 0, ran.stderr


def test_the_server_image_serves_and_stops_cleanly(server: Image) -> None:
    ran = server.run("python", "-", stdin=SMOKE)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("process", ["webhook", "certs", "controlplane"])
def test_the_server_image_runs_every_process_by_name(server: Image, process: str) -> None:
    entrypoint = " ".join(server.config()["Entrypoint"])
    holds(server, f"{entrypoint} {process} --help | grep 'python -m {process}'")


def test_the_server_image_runs_as_a_numeric_user_that_is_not_root(server: Image) -> None:
    """The kubelet can prove `runAsNonRoot` only of a number."""
    assert server.config()["User"] == "65532:65532"
    holds(server, "test $(id -u) = 65532")


@pytest.mark.parametrize("program", ["pip", "pip3", "gcc", "cc", "curl", "wget"])
def test_the_server_image_has_nothing_to_build_or_fetch_with(server: Image, program: str) -> None:
    assert not has(server, program)


def test_the_server_image_holds_the_compiled_form_of_every_module(server: Image) -> None:
    count = "find webhook certs controlplane -name '*.{}' | wc -l"
    holds(server, f"test $({count.format('py')}) -gt 0; test $({count.format('py')}) = $({count.format('pyc')})")


def test_the_init_image_has_no_python(init: Image) -> None:
    assert not has(init, "python3")


@pytest.mark.parametrize(
    "program", ["iptables-nft-restore", "iptables-legacy-restore", "ip6tables-restore", "ip", "busybox"]
)
def test_the_init_image_has_what_its_script_calls(init: Image, program: str) -> None:
    assert has(init, program)


def test_the_init_image_applies_the_rules_that_stand_in_the_pod(init: Image) -> None:
    container = build.named(build.injected(build.pod())["spec"]["initContainers"], "envoy-sidecar-init")
    env = [f"{variable['name']}={variable['value']}" for variable in container["env"]]
    (entrypoint,) = init.config()["Entrypoint"]
    script = f"""
        mkdir -p /run/envoy-sidecar
        {entrypoint}
        iptables-save > /run/rules
        grep -e '-A PREROUTING -p tcp -j ENVOY_SIDECAR_IN' /run/rules
        grep -e '-A OUTPUT -p tcp -j ENVOY_SIDECAR_OUT' /run/rules
    """
    ran = init.run("/bin/sh", "-exc", script, env=env, wrapper=("unshare", "--net"))
    assert ran.returncode == 0, ran.stderr
