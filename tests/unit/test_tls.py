"""tls: a certificate that changes is served at once, and nothing that is mounted can end the serving."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from certs.authority import issue_ca, issue_leaf
from certs.bundle import Bundle, Validity
from tests import needs
from webhook.errors import CertificateError
from webhook.tls import Certificate

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
CA = issue_ca("test CA", Validity.starting(NOW, timedelta(days=365)))


def pair(days: int = 365, name: str = "localhost") -> Bundle:
    return issue_leaf(CA, [name], Validity.starting(NOW, timedelta(days=days)))


def write(directory: Path, certificate: bytes, key: bytes) -> None:
    directory.mkdir(exist_ok=True)
    for name, content in (("tls.crt", certificate), ("tls.key", key)):
        (directory / name).unlink(missing_ok=True)
        (directory / name).write_bytes(content)


def mount(directory: Path, bundle: Bundle, generation: str = "..1") -> Path:
    """As the kubelet does: the files behind a symlink `..data`, which is swapped in one step."""
    directory.mkdir(exist_ok=True)
    write(directory / generation, bundle.certificate, bundle.key)
    (directory / "..data_tmp").symlink_to(generation)
    (directory / "..data_tmp").replace(directory / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    return directory


def served(certificate: Certificate, **limits: ssl.TLSVersion) -> bytes:
    """The certificate that a client gets, in DER, over a handshake in memory."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    for limit, version in limits.items():
        setattr(client_context, limit, version)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server) * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True) or b""


def der(bundle: Bundle) -> bytes:
    return ssl.PEM_cert_to_DER_cert(bundle.certificate.decode())


def test_the_mounted_certificate_is_served(tmp_path: Path) -> None:
    first = pair()
    assert served(Certificate(mount(tmp_path / "tls", first))) == der(first)


def test_plain_files_are_served_too(tmp_path: Path) -> None:
    first = pair()
    write(tmp_path, first.certificate, first.key)
    assert served(Certificate(tmp_path)) == der(first)


def test_a_changed_certificate_is_served_to_the_next_client(tmp_path: Path) -> None:
    certificate, second = Certificate(mount(tmp_path / "tls", pair())), pair()
    mount(tmp_path / "tls", second, "..2")
    assert certificate.reload()
    assert served(certificate) == der(second)


def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    certificate = Certificate(mount(tmp_path / "tls", pair()))
    assert not certificate.reload()


def test_a_key_of_another_algorithm_leaves_nothing_of_the_former_certificate(tmp_path: Path) -> None:
    """In one context OpenSSL keeps a certificate for each algorithm, and would go on serving the old one."""
    openssl = needs.binary("openssl", "install openssl")
    certificate = Certificate(mount(tmp_path / "tls", pair()))
    rsa, key = tmp_path / "rsa.crt", tmp_path / "rsa.key"
    command = [str(openssl), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rsa", "-days", "9"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(rsa)], capture_output=True, check=True)
    mount(tmp_path / "tls", Bundle(rsa.read_bytes(), key.read_bytes()), "..2")
    assert certificate.reload()
    assert served(certificate) == ssl.PEM_cert_to_DER_cert(rsa.read_text())


BROKEN = {
    "the key of another certificate": (pair().certificate, pair().key),
    "an empty certificate": (b"", pair().key),
    "an empty key": (pair().certificate, b""),
    "a truncated certificate": (pair().certificate[:300], pair().key),
    "no PEM": (b"\x00\xff" * 100, pair().key),
    "PEM of something else": (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", pair().key),
    "too large a file": (pair().certificate + b"\n" * (1 << 20), pair().key),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pair_leaves_the_former_one_in_place(tmp_path: Path, broken: tuple[bytes, bytes]) -> None:
    first = pair()
    certificate = Certificate(mount(tmp_path / "tls", first))
    mount(tmp_path / "tls", Bundle(*broken), "..2")
    with pytest.raises(CertificateError, match="tls"):
        certificate.reload()
    assert served(certificate) == der(first)
    assert certificate.not_after == datetime(2027, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pair_is_refused_at_start(tmp_path: Path, broken: tuple[bytes, bytes]) -> None:
    with pytest.raises(CertificateError, match="tls"):
        Certificate(mount(tmp_path / "tls", Bundle(*broken)))


def test_a_broken_pair_is_reported_once(tmp_path: Path) -> None:
    certificate = Certificate(mount(tmp_path / "tls", pair()))
    mount(tmp_path / "tls", Bundle(b"", b""), "..2")
    with pytest.raises(CertificateError):
        certificate.reload()
    assert not certificate.reload()


def test_files_that_vanish_and_return_do_no_harm(tmp_path: Path) -> None:
    first = pair()
    certificate = Certificate(mount(tmp_path / "tls", first))
    (tmp_path / "tls" / "..data").rename(tmp_path / "elsewhere")
    (tmp_path / "tls" / "..1" / "tls.key").unlink()
    with pytest.raises(CertificateError, match="cannot be read"):
        certificate.reload()
    assert served(certificate) == der(first)
    second = pair()
    mount(tmp_path / "tls", second, "..2")
    assert certificate.reload()
    assert served(certificate) == der(second)


def test_a_pair_that_was_torn_is_taken_once_it_is_whole(tmp_path: Path) -> None:
    first, second = pair(), pair()
    write(tmp_path, first.certificate, first.key)
    certificate = Certificate(tmp_path)
    write(tmp_path, second.certificate, first.key)
    with pytest.raises(CertificateError, match="no matching pair"):
        certificate.reload()
    write(tmp_path, second.certificate, second.key)
    assert certificate.reload()
    assert served(certificate) == der(second)


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    write(tmp_path, pair().certificate, pair().key)
    (tmp_path / missing).unlink()
    with pytest.raises(CertificateError, match=f"{missing}: cannot be read: No such file"):
        Certificate(tmp_path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="nowhere"):
        Certificate(tmp_path / "nowhere")


def test_a_symlink_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "..data").symlink_to("..data")
    with pytest.raises(CertificateError):
        Certificate(tmp_path)


def test_an_encrypted_key_is_refused_without_a_prompt(tmp_path: Path) -> None:
    openssl = needs.binary("openssl", "install openssl")
    bundle = pair()
    (tmp_path / "plain.key").write_bytes(bundle.key)
    command = [str(openssl), "pkcs8", "-topk8", "-in", str(tmp_path / "plain.key"), "-passout", "pass:secret"]
    encrypted = subprocess.run(command, capture_output=True, check=True).stdout
    write(tmp_path, bundle.certificate, encrypted)
    with pytest.raises(CertificateError, match="encrypted"):
        Certificate(tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(tmp_path: Path, version: ssl.TLSVersion) -> None:
    first = pair()
    certificate = Certificate(mount(tmp_path / "tls", first))
    assert served(certificate, minimum_version=version, maximum_version=version) == der(first)


def test_nothing_below_tls_1_2_is_spoken(tmp_path: Path) -> None:
    certificate = Certificate(mount(tmp_path / "tls", pair()))
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("days", [1, 365, 365 * 40], ids=["one day", "one year", "beyond 2049"])
def test_the_end_of_validity_is_read_as_cryptography_reads_it(tmp_path: Path, days: int) -> None:
    bundle = pair(days)
    write(tmp_path, bundle.certificate, bundle.key)
    expected = x509.load_pem_x509_certificate(bundle.certificate).not_valid_after_utc
    assert Certificate(tmp_path).not_after == expected


def test_the_first_certificate_of_a_chain_is_the_one_that_counts(tmp_path: Path) -> None:
    leaf = pair(days=7)
    write(tmp_path, leaf.certificate + CA.certificate, leaf.key)
    certificate = Certificate(tmp_path)
    assert certificate.not_after == x509.load_pem_x509_certificate(leaf.certificate).not_valid_after_utc
    assert served(certificate) == der(leaf)


def test_the_key_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    certificate = Certificate(mount(tmp_path / "tls", pair()))
    assert not list((tmp_path / "tmp").iterdir())
    assert "PRIVATE" not in repr(certificate)
