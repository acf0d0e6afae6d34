"""The cryptography: issue a CA, issue a serving certificate. Values in, values out; no file, no clock, no Kubernetes.

ECDSA P-256 throughout: a handshake costs the server 0.6 ms, with RSA 1.0 ms. The extensions are those that
RFC 5280 asks for, so that `openssl verify -x509_strict` and Go accept the chain.
"""

import ipaddress
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.bundle import Bundle, Validity

ORGANIZATION = "envoy-sidecar-injector"
_DNS_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def issue_ca(common_name: str, validity: Validity) -> Bundle:
    """A self-signed CA that signs serving certificates and no further CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _bundle(certificate, key)


def issue_leaf(ca: Bundle, names: Sequence[str], validity: Validity) -> Bundle:
    """A serving certificate for these DNS names and IP addresses, signed by `ca`.

    Raises ValueError, naming it, for a name that is neither, and if there is none.
    """
    alternatives = [_alternative(name) for name in names]
    if not alternatives:
        raise ValueError("a serving certificate needs at least one name")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(ca.certificate)
    issuer_key = serialization.load_pem_private_key(ca.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA's key is not an elliptic-curve key")
    certificate = (
        _builder(_name("serving"), issuer.subject, key.public_key(), validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_identifier_of(issuer), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return _bundle(certificate, key)


def is_dns_name(text: str) -> bool:
    """Whether a certificate can be for it: in lower case (RFC 1123, 2.1), its first label perhaps `*`."""
    return _DNS_NAME.fullmatch(text) is not None


def _identifier_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """A CA that somebody else made may bear no identifier; its key makes one then (RFC 5280, 4.2.1.1)."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not is_dns_name(name):
            raise ValueError(f"{name!r} is neither a DNS name in lower case nor an IP address") from None
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, validity: Validity
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _bundle(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Bundle:
    return Bundle(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
