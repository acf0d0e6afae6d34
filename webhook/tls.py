"""Mounted certificate files -> live SSLContext, reloaded when they change. Owns no key longer than a load takes.

A context is made anew for what changed, and never touched again. Every handshake begins with the newest one that
loaded well, so there is no moment at which a certificate and a key that do not match could be served.

Clients may be asked for a certificate too. The handshake goes on without one, for the kubelet's probes have none: what
such a client may ask for is decided later. One that does not verify ends the handshake.
"""

import os
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from webhook.errors import CertificateError

CERTIFICATE, KEY = "tls.crt", "tls.key"
MAX_BYTES = 1 << 20  # of each file: a Secret holds no more


_Version = tuple[tuple[int, int, int], ...]  # of all files: inode, modification time in ns, size


@dataclass(slots=True)
class Certificate:
    """The certificate and key in `directory`: `context` serves them, `reload` is to be called now and then.

    `client_ca`, a file of PEM, has the CAs that clients' certificates are verified with; without it none is asked for.
    Raises CertificateError if they cannot be served.
    """

    directory: Path
    client_ca: Path | None = None
    context: ssl.SSLContext = field(init=False, repr=False)  # for the next handshake
    not_after: datetime = field(init=False)
    _seen: _Version | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._load()

    def reload(self) -> bool:
        """Whether another certificate is served from now on.

        Raises CertificateError, once for each state of the files, if they changed and cannot be served;
        the former certificate stays.
        """
        return self._version() != self._seen and self._load()

    def _version(self) -> _Version | None:
        """Says, without reading them, whether the files are still those that were read last. None: one is missing."""
        files = [self.directory / CERTIFICATE, self.directory / KEY]
        with suppress(OSError, RuntimeError):
            stats = [path.stat() for path in (*files, *filter(None, [self.client_ca]))]
            return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)
        return None

    def _load(self) -> bool:
        self._seen = self._version()  # first: files that change from here on are read once more
        source = _resolve(self.directory)
        certificate, key = _read(source / CERTIFICATE), _read(source / KEY)
        not_after = _not_after(certificate, source / CERTIFICATE)
        context = _loaded(certificate, key, source)
        if self.client_ca is not None:
            _ask_clients(context, self.client_ca)
        self.context = context
        self.not_after = not_after
        return True


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The API server asks for HTTP/1.1 and resumes no session: a ticket would be work for nobody.
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _resolve(directory: Path) -> Path:
    """Where the files are now. The kubelet swaps the symlink `..data` for all files at once: follow it only once."""
    data = directory / "..data"
    try:
        return (data if data.is_symlink() else directory).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a symlink loop
        raise CertificateError(f"{directory}: cannot be read: {error}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise CertificateError(f"{path}: larger than {MAX_BYTES} bytes")
    return content


def _loaded(certificate: bytes, key: bytes, source: Path) -> ssl.SSLContext:
    """A context that serves exactly these bytes. OpenSSL takes files only: they go through one without a name."""
    context = _context()
    with _nameless_file() as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.seek(0)
        try:
            context.load_cert_chain(f"/dev/fd/{file.fileno()}", password=_refuse)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise CertificateError(f"{source}: {CERTIFICATE} and {KEY} are no matching pair: {reason}") from None
    return context


def _ask_clients(context: ssl.SSLContext, path: Path) -> None:
    """Asks for a certificate in every handshake, and verifies what comes with the CAs in that file."""
    try:
        context.load_verify_locations(cadata=_read(path).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise CertificateError(f"{path}: holds no CA certificates in PEM: {reason}") from None
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go does: what is in the file is trusted, root or not


def names(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Whom a certificate, in the form of `ssl.SSLSocket.getpeercert`, is for: common names, then alternative names."""
    for attributes in certificate.get("subject", ()):
        yield from (value for kind, value in attributes if kind == "commonName")
    yield from (value for _, value in certificate.get("subjectAltName", ()))


def _nameless_file() -> BinaryIO:
    """In memory where the system can (Linux): the key does not reach a disk."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("tls"), "w+b")
    return tempfile.TemporaryFile()


def _refuse() -> str:
    raise ValueError("the key is encrypted; mount it without a password")


def _not_after(pem: bytes, path: Path) -> datetime:
    """When the first certificate in `pem` ends."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    try:
        first = pem[pem.index(begin) : pem.index(end) + len(end)].decode("ascii")
        return _end_of_validity(ssl.PEM_cert_to_DER_cert(first))
    except (ValueError, IndexError):
        raise CertificateError(f"{path}: holds no certificate in PEM") from None


def _end_of_validity(der: bytes) -> datetime:
    """`tbsCertificate.validity.notAfter` (RFC 5280, 4.1). Raises ValueError or IndexError for other bytes.

    The standard library reads it of a peer's certificate only, and `cryptography` would cost 15 MB.
    """
    certificate, _ = _element(der)
    fields, _ = _element(certificate)
    _, rest = _element(fields)  # version, [0], if present; else the serial number
    skipped = 3 if fields[0] == 0xA0 else 2  # serial number, signature, issuer
    for _ in range(skipped):
        _, rest = _element(rest)
    validity, _ = _element(rest)
    _, rest = _element(validity)  # notBefore
    text = _element(rest)[0].decode("ascii")
    # UTCTime has two digits for a year of 1950 to 2049; GeneralizedTime has four (4.1.2.5).
    century = "" if rest[0] == 0x18 else ("19" if text >= "50" else "20")
    return datetime.strptime(century + text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(der: bytes) -> tuple[bytes, bytes]:
    """The content of the first DER element, and what follows it."""
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    return der[start : start + length], der[start + length :]
