"""Certificates of clients, from a CA that has nothing to do with ours: such as the API server presents."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class ClientAuthority:
    """A CA, whose certificate is in the file `certificate`; what it issues lies beside it."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name("clients")
        self._directory, self.certificate = directory, directory / "client-ca.crt"
        own = _builder(self._name, self._name, self._key, DAY).add_extension(x509.BasicConstraints(True, None), True)
        self.certificate.write_bytes(_pem(own.sign(self._key, hashes.SHA256())))

    def issue(
        self,
        name: str,
        *,
        alternative: str = "client.example",
        usage: ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
        lifetime: timedelta = DAY,
    ) -> Shown:
        """A certificate with that common name and that alternative one."""
        key = ec.generate_private_key(ec.SECP256R1())
        unsigned = (
            _builder(_name(name), self._name, key, lifetime)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(alternative)]), critical=False)
        )
        shown = Shown(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        shown.certificate.write_bytes(_pem(unsigned.sign(self._key, hashes.SHA256())))
        form, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        shown.key.touch(mode=0o600)
        shown.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, bare))
        return shown


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, now + lifetime) - DAY)
        .not_valid_after(now + lifetime)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
