"""The certificate that proxies trust: mounted files -> gRPC's server credentials, looked at for every handshake.

The kubelet swaps all files of a volume at once, by the symlink `..data`; it is followed once for a pair. What changed
and cannot be served is told once, and the former pair stays.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
from cryptography import x509

CERTIFICATE, KEY = "tls.crt", "tls.key"

_Seen = tuple[tuple[int, int, int], ...] | None  # of both files: inode, modification time in ns, size


class CredentialsError(Exception):
    """The certificate and its key cannot be served."""


@dataclass(slots=True)
class Credentials:
    """Those in `directory`. `on_change` is told of every attempt to serve others: None, or why they cannot be.

    Raises CredentialsError if they cannot be at first.
    """

    directory: Path
    on_change: Callable[[CredentialsError | None, "Credentials"], None] = lambda _problem, _self: None
    not_after: datetime = field(init=False)
    _seen: _Seen = None
    _current: grpc.ServerCertificateConfiguration = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._load()

    def server(self) -> grpc.ServerCredentials:
        """For a gRPC server; it goes on to serve what the directory holds."""
        return grpc.dynamic_ssl_server_credentials(self._current, self._fetch)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks in a thread of its own before a handshake; None: as before."""
        if _version(self.directory) == self._seen:
            return None
        try:
            self._load()
        except CredentialsError as problem:
            self.on_change(problem, self)
            return None
        self.on_change(None, self)
        return self._current

    def _load(self) -> None:
        self._seen = _version(self.directory)  # first: files that change from here on are read once more
        data = self.directory / "..data"
        try:
            source = (data if data.is_symlink() else self.directory).resolve(strict=True)
            certificate, key = (source / CERTIFICATE).read_bytes(), (source / KEY).read_bytes()
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(source / CERTIFICATE, source / KEY, password="")
            self.not_after = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a symlink loop; an SSLError is an OSError
            raise CredentialsError(f"{self.directory}: {CERTIFICATE} and {KEY} cannot be served: {error}") from None
        self._current = grpc.ssl_server_certificate_configuration([(key, certificate)])


def _version(directory: Path) -> _Seen:
    with suppress(OSError):
        stats = [(directory / name).stat() for name in (CERTIFICATE, KEY)]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)
    return None
