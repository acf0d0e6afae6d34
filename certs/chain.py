"""What certificates say, and which of them vouches for which. PEM in, values out; what cannot be read is as if absent.

A certificate is its PEM, in one form, so that equal ones are equal bytes.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from certs.authority import ORGANIZATION
from certs.bundle import Bundle, Validity

MAX_CERTIFICATES = 64  # of one text: more are no trust of ours, and each costs every handshake
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]*-----END CERTIFICATE-----")
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is read of one certificate."""

    validity: Validity
    names: frozenset[str]
    is_ca: bool
    ours: bool  # says that this project issued it; anybody can say so
    fingerprint: str  # the start of its SHA-256, for people


@lru_cache(4096)
def read(text: bytes) -> tuple[bytes, ...]:
    """The certificates in a text, in order, each once."""
    found: dict[bytes, None] = {}
    for block in _BLOCK.findall(text)[:MAX_CERTIFICATES]:
        try:
            pem = x509.load_pem_x509_certificate(block).public_bytes(serialization.Encoding.PEM)
            facts(pem)
        except _UNREADABLE:
            continue
        found[pem] = None
    return tuple(found)


@lru_cache(4096)
def facts(certificate: bytes) -> Facts:
    """What one certificate, as `read` or `authority` return it, says. Raises what `cryptography` does for others."""
    loaded = x509.load_pem_x509_certificate(certificate)
    organizations = loaded.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Facts(
        Validity(loaded.not_valid_before_utc, loaded.not_valid_after_utc),
        _names(loaded),
        _is_ca(loaded),
        [attribute.value for attribute in organizations] == [ORGANIZATION],
        loaded.fingerprint(hashes.SHA256()).hex()[:12],
    )


@lru_cache(4096)
def signed(ca: bytes, certificate: bytes) -> bool:
    """Whether the key of `ca` signed `certificate`."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True


def vouches(ca: bytes, certificate: bytes, now: datetime) -> bool:
    """Whether somebody who trusts `ca` accepts `certificate` now, names aside."""
    both = (facts(ca), facts(certificate))
    return both[0].is_ca and all(one.validity.holds(now) for one in both) and signed(ca, certificate)


def is_root(certificate: bytes) -> bool:
    """Whether this is a CA that signed itself."""
    return facts(certificate).is_ca and signed(certificate, certificate)


def pair(certificate: bytes, key: bytes) -> Bundle | None:
    """The first certificate of a text with its key; None if they cannot be read or do not belong together.

    Keys are P-256 here: others are none of ours.
    """
    match read(certificate):
        case (first, *_) if _belong_together(first, key):
            return Bundle(first, key)
        case _:
            return None


def _belong_together(certificate: bytes, key: bytes) -> bool:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
        public = x509.load_pem_x509_certificate(certificate).public_key()  # read only now, and may be no key at all
    except _UNREADABLE:
        return False
    p256 = isinstance(loaded, ec.EllipticCurvePrivateKey) and isinstance(loaded.curve, ec.SECP256R1)
    return p256 and public == loaded.public_key()


def _names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(str(name.value) for name in names)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
