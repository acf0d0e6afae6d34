"""certs: whatever stands in a Secret or in a published trust, one look puts it right; nothing ends the looking."""

import base64
import json
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import show
from certs.authority import issue_ca, issue_leaf
from certs.bundle import Bundle, Validity
from certs.metrics import Metrics
from certs.objects import CONFIGURATIONS, Target
from certs.reading import data
from certs.rehearsal import Rehearsal
from certs.rotation import Lifetimes
from certs.rounds import settle
from certs.state import covers, decode
from tests.rehearsed import INSTALLATION, NOW, keeper, nothing, settled

CA, (WEBHOOK, _) = INSTALLATION.authority, INSTALLATION.leaves
SHOP = INSTALLATION.config_map("shop")
VALIDITY = Validity.starting(NOW, timedelta(days=365))
WELL = settled().read()

Damage = Callable[[Rehearsal], None]


def damaged(damage: Damage) -> Rehearsal:
    store = Rehearsal(WELL)
    damage(store)
    return store


def written(target: Target, **files: bytes) -> Damage:
    """These files in the place of a Secret's own of the same name, `_` for the dot."""

    def damage(store: Rehearsal) -> None:
        kept = data(store.found[target])
        store.fill(target, store.found[target], kept | {name.replace("_", "."): text for name, text in files.items()})

    return damage


def deleted(*targets: Target) -> Damage:
    def damage(store: Rehearsal) -> None:
        for target in targets:
            del store.found[target]

    return damage


def published(text: bytes, *targets: Target) -> Damage:
    def damage(store: Rehearsal) -> None:
        for target in targets:
            store.publish(target, store.found[target], text)

    return damage


def both(first: Damage, second: Damage) -> Damage:
    def damage(store: Rehearsal) -> None:
        first(store)
        second(store)

    return damage


def heals_in_one_look(store: Rehearsal) -> list[str]:
    """What was done, and why."""
    told: list[str] = []
    one = keeper(store)
    ended = settle(one, lambda step, _: told.append(f"{step.verb} {step.target}: {step.reason}"))
    assert not ended.failures
    assert all(covers(trust, ended.observed.leaves, ended.at) for trust in ended.observed.trusts)
    assert not one.look()[2], "and then there is nothing left to do"
    return told


FOREIGN = issue_ca("another", VALIDITY).certificate
DAMAGES: dict[str, tuple[Damage, str]] = {
    "the CA is deleted": (deleted(CA), "is empty: a CA is needed"),
    "the CA is garbage": (written(CA, ca_crt=b"!", ca_key=b"!"), "no matching pair of a P-256 CA"),
    "the certificate is deleted": (deleted(WEBHOOK), "is empty"),
    "the certificate is garbage": (written(WEBHOOK, tls_crt=b"\xff"), "tls.crt and tls.key are no matching pair"),
    "the caBundles are emptied": (published(b"", *CONFIGURATIONS), "lacks CA"),
    "the caBundles hold another CA": (published(FOREIGN, *CONFIGURATIONS), "which vouches for nothing of ours"),
    "the trust of a namespace is deleted": (deleted(SHOP), "is not there"),
    "the certificate is deleted and the caBundles are emptied": (
        both(deleted(WEBHOOK), published(b"", *CONFIGURATIONS)),
        "lacks CA",
    ),
    "the CA is deleted and the caBundles are emptied": (both(deleted(CA), published(b"", *CONFIGURATIONS)), "lacks CA"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_lost_is_there_again_after_one_look(damage: Damage, reason: str) -> None:
    assert any(reason in line for line in heals_in_one_look(damaged(damage)))


def test_what_a_server_may_go_on_with_is_waited_for_when_both_secrets_are_lost() -> None:
    """Nobody knows what it serves: the former CA stays trusted, and the next signs when it is trusted everywhere."""
    seconds = 0.0
    one = replace(keeper(damaged(deleted(CA, WEBHOOK))), clock=lambda: seconds)
    assert [leaf.bundle is None for leaf in settle(one, nothing).observed.leaves] == [True, False]
    seconds = Lifetimes().publication.total_seconds()
    ended = settle(one, nothing)
    assert all(covers(trust, ended.observed.leaves, ended.at) for trust in ended.observed.trusts)
    assert all(ca() in trust.published for trust in ended.observed.trusts)


def spoilt(certificate: bytes, place: int, by: int) -> bytes:
    """A certificate with one byte changed: most still are X.509, and many no more than that."""
    der = bytearray(ssl.PEM_cert_to_DER_cert(certificate.decode()))
    der[place % len(der)] ^= by
    return ssl.DER_cert_to_PEM_cert(bytes(der)).encode()


PLACES: dict[str, Callable[[int, int], Damage]] = {
    "a certificate": lambda at, by: written(WEBHOOK, tls_crt=spoilt(data(WELL.found[WEBHOOK])["tls.crt"], at, by)),
    "the CA": lambda at, by: written(CA, ca_crt=spoilt(ca(), at, by)),
    "a caBundle": lambda at, by: published(spoilt(ca(), at, by), CONFIGURATIONS[0]),
    "a caBundle beside the CA": lambda at, by: published(ca() + spoilt(ca(), at, by), CONFIGURATIONS[0]),
    "the trust of a namespace": lambda at, by: published(spoilt(ca(), at, by), SHOP),
}


def ca() -> bytes:
    return data(WELL.found[CA])["ca.crt"]


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # of what it reads
@pytest.mark.parametrize("place", PLACES)
@given(at=st.integers(0, 1000), by=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_whatever_byte_of_a_certificate_changes_it_is_healed(place: str, at: int, by: int) -> None:
    store = damaged(PLACES[place](at, by))
    reading, observed, steps = keeper(store).look()
    assert steps
    assert list(show.state(observed, steps, reading.at, Lifetimes()))  # a person can look at it meanwhile
    Metrics([]).show(observed, reading.at, CA.name)
    heals_in_one_look(store)


def retired(until: object) -> bytes:
    return json.dumps([{"certificate": ca().decode(), "until": until}]).encode()


@pytest.mark.parametrize(
    "text",
    [b"null", b"[null]", b"{", b"[" * 100_000, b"9" * 5000, retired(None), retired(9), retired("9999"), b"\xff"],
    ids=["null", "of null", "half", "deep", "long", "no time", "a number", "a year", "no UTF-8"],
)
def test_garbage_where_retired_cas_are_listed_is_as_if_there_were_none(text: bytes) -> None:
    heals_in_one_look(damaged(written(CA, retired_json=text)))


@pytest.mark.parametrize("until", ["2026-01-01", "2026-01-01T00:00:00"])
def test_a_time_without_a_zone_is_garbage(until: str) -> None:
    """It can be compared with none of ours: every look would end there."""
    assert decode({"retired.json": retired(until)})[1] == "retired.json cannot be read"
    heals_in_one_look(damaged(written(CA, retired_json=retired(until))))


def without_identifier() -> Bundle:
    """A CA as somebody else might make it: no subject key identifier."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "corporate")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(VALIDITY.not_before).not_valid_after(VALIDITY.not_after)
    made = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Bundle(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), encoded)


def test_a_ca_that_somebody_else_made_signs_too() -> None:
    issuer = without_identifier()
    leaf = x509.load_pem_x509_certificate(issue_leaf(issuer, ["localhost"], VALIDITY).certificate)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer.certificate))


def test_a_ca_of_which_a_bit_has_changed_signs_nothing() -> None:
    """Its key would still fit, and clients might refuse what it signs."""
    secret = {name: base64.b64decode(text) for name, text in WELL.found[CA]["data"].items()}
    for place in range(40, 120):
        assert decode(secret | {"ca.crt": spoilt(ca(), place, 1)})[0].signing is None
