"""certs: what `python -m certs dev` writes is accepted by strict clients, and its key stays private."""

import re
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certs.__main__ import main
from certs.authority import issue_ca, issue_leaf
from certs.bundle import Bundle, Validity
from tests import needs

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
VALIDITY = Validity.starting(NOW, timedelta(days=365))
HOST = "envoy-sidecar-webhook.envoy-sidecar-system.svc"


def dev(directory: Path, *names: str) -> Path:
    assert main(["dev", str(directory), *(part for name in names for part in ("--name", name))]) == 0
    return directory


def leaf(names: Sequence[str]) -> x509.Certificate:
    ca = issue_ca("test CA", VALIDITY)
    return x509.load_pem_x509_certificate(issue_leaf(ca, names, VALIDITY).certificate)


@pytest.mark.parametrize("check", [("-verify_hostname", HOST), ("-verify_ip", "127.0.0.1"), ("-verify_ip", "::1")])
def test_openssl_accepts_the_chain_in_strict_mode(tmp_path: Path, check: tuple[str, str]) -> None:
    openssl = needs.binary("openssl", "install openssl")
    directory = dev(tmp_path)
    command = [str(openssl), "verify", "-x509_strict", "-purpose", "sslserver", *check]
    command += ["-CAfile", str(directory / "ca.crt"), str(directory / "tls.crt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_strict_python_client_completes_a_handshake(tmp_path: Path) -> None:
    directory = dev(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "tls.crt", directory / "tls.key")
    client = ssl.create_default_context(cafile=directory / "ca.crt")
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    near, far = socket.socketpair()
    with near, far:
        serving = threading.Thread(target=lambda: server.wrap_socket(far, server_side=True).close())
        serving.start()
        with client.wrap_socket(near, server_hostname=HOST) as connection:
            assert connection.version() == "TLSv1.3"
        serving.join()


def test_the_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    assert stat.S_IMODE((dev(tmp_path) / "tls.key").stat().st_mode) == 0o600


def test_no_file_but_the_certificates_and_the_serving_key_is_left(tmp_path: Path) -> None:
    assert sorted(path.name for path in dev(dev(tmp_path)).iterdir()) == ["ca.crt", "tls.crt", "tls.key"]


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    first = (dev(tmp_path) / "tls.crt").read_bytes()
    assert (dev(tmp_path) / "tls.crt").read_bytes() != first


def test_names_replace_the_default_ones(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate((dev(tmp_path, "demo.local", "10.0.0.1") / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["demo.local", "10.0.0.1"]


def test_a_certificate_is_valid_for_clients_whose_clock_is_behind() -> None:
    assert leaf(["localhost"]).not_valid_before_utc == NOW - timedelta(hours=1)


def test_a_serving_certificate_signs_nothing() -> None:
    extensions = leaf(["localhost"]).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@pytest.mark.parametrize(
    "name", ["", "a b", "-a", "a..b", "Upper", "x" * 64, "a" * 254, "http://x", "1.2.3.4/8", "a\n"]
)
def test_a_name_that_no_client_could_ask_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither a DNS name"):
        leaf([name])


def test_a_certificate_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one name"):
        leaf([])


def test_a_bundle_does_not_show_its_key() -> None:
    assert "PRIVATE" not in repr(issue_ca("test CA", VALIDITY))
    assert "secret" not in repr(Bundle(b"", b"secret"))


def test_a_bad_name_ends_with_code_2_and_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dev", str(tmp_path / "new"), "--name", "a b"]) == 2
    assert "'a b'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_directory_that_cannot_be_written_ends_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dev", "/dev/null/tls"]) == 1
    assert "/dev/null" in capsys.readouterr().err


def test_the_example_in_the_help_runs(tmp_path: Path) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "certs", "dev", "--help"], capture_output=True, text=True, check=True
    )
    (example,) = re.findall(r"^  python -m (certs dev .*)$", help_text.stdout, re.MULTILINE)
    arguments = example.replace("/tmp/tls", str(tmp_path)).split()
    subprocess.run([sys.executable, "-m", *arguments], capture_output=True, check=True)
    assert (tmp_path / "tls.key").exists()
