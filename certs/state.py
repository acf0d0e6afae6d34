"""What is there: the CA Secret, the served certificates and every published trust, as values; and how they are stored.

Whatever cannot be read is as if it were absent, and `problem` says so in words.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from certs import chain
from certs.bundle import Bundle, Validity
from certs.objects import CERTIFICATE, KEY, Target

_NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class Retired:
    """A CA that signs nothing any more, its key destroyed; trusted until its last certificate has ended."""

    certificate: bytes
    until: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """What the CA Secret holds."""

    signing: Bundle | None = None
    next: Bundle | None = None  # published, and waiting until that has arrived everywhere
    retired: tuple[Retired, ...] = ()

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """All that is to be trusted. The order depends on nobody's role, so a promotion changes no published text."""
        keyed = [bundle.certificate for bundle in (self.signing, self.next) if bundle]
        known = dict.fromkeys([*keyed, *(one.certificate for one in self.retired)])
        return tuple(sorted(known, key=lambda pem: (chain.facts(pem).validity.not_before, pem)))


@dataclass(frozen=True, slots=True)
class Leaf:
    """The certificate of one server."""

    target: Target
    names: tuple[str, ...]  # that it is to be served under
    exists: bool = True
    bundle: Bundle | None = None
    problem: str = ""
    steady: timedelta = _NONE  # for how long this process has seen it unchanged

    @property
    def validity(self) -> Validity | None:
        """The certificate's; None: there is none."""
        return chain.facts(self.bundle.certificate).validity if self.bundle else None


@dataclass(frozen=True, slots=True)
class Trust:
    """One place where trust is published: a ConfigMap, or a webhook configuration with one text for each webhook."""

    target: Target
    texts: tuple[bytes, ...] = ()
    exists: bool = True
    operators: bool = True  # nobody else writes there
    born: datetime | None = None  # of its namespace
    refuses: bool = False  # our last write there was turned down
    steady: timedelta = _NONE

    @property
    def published(self) -> frozenset[bytes]:
        """What whoever reads any text of it trusts."""
        texts = [frozenset(chain.read(text)) for text in self.texts]
        return frozenset.intersection(*texts) if texts else frozenset()

    @property
    def found(self) -> frozenset[bytes]:
        """What stands in any text of it."""
        return frozenset(pem for text in self.texts for pem in chain.read(text))


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything, read in this order: leaves and trusts, then the CA Secret (see rotation)."""

    exists: bool  # the CA Secret
    authority: Authority
    problem: str  # with the CA Secret
    leaves: tuple[Leaf, ...]
    trusts: tuple[Trust, ...]


def render(certificates: tuple[bytes, ...]) -> bytes:
    """A trust, as it is published."""
    return b"".join(certificates)


def encode(authority: Authority) -> dict[str, bytes]:
    """The data of the CA Secret."""
    data: dict[str, bytes] = {}
    for name, bundle in (("ca", authority.signing), ("next", authority.next)):
        if bundle:
            data |= {f"{name}.crt": bundle.certificate, f"{name}.key": bundle.key}
    retired = [{"certificate": one.certificate.decode(), "until": one.until.isoformat()} for one in authority.retired]
    return data | {"retired.json": json.dumps(retired).encode()}


def decode(data: Mapping[str, bytes]) -> tuple[Authority, str]:
    """What the CA Secret holds, and what is wrong with it."""
    if not data:
        return Authority(), "is empty"
    problems: list[str] = []
    signing, following = (_authority(data, name, problems) for name in ("ca", "next"))
    return Authority(signing, following, _retired(data, problems)), "; ".join(problems)


def decode_leaf(data: Mapping[str, bytes]) -> tuple[Bundle | None, str]:
    """The pair in a server's Secret, and what is wrong with it."""
    if not data:
        return None, "is empty"
    bundle = chain.pair(data.get(CERTIFICATE, b""), data.get(KEY, b""))
    return bundle, "" if bundle else f"{CERTIFICATE} and {KEY} are no matching pair"


def _authority(data: Mapping[str, bytes], name: str, problems: list[str]) -> Bundle | None:
    certificate, key = data.get(f"{name}.crt", b""), data.get(f"{name}.key", b"")
    if not certificate and not key:
        return None
    bundle = chain.pair(certificate, key)
    if bundle is None or not chain.is_root(bundle.certificate):  # its signature: no bit of it has changed
        problems.append(f"{name}.crt and {name}.key are no matching pair of a P-256 CA")
        return None
    return bundle


def _retired(data: Mapping[str, bytes], problems: list[str]) -> tuple[Retired, ...]:
    try:
        return tuple(
            Retired(chain.read(one["certificate"].encode())[0], _moment(one["until"]))
            for one in json.loads(data.get("retired.json", b"[]"))
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        problems.append("retired.json cannot be read")
        return ()


def _moment(text: str) -> datetime:
    """Raises ValueError for a time without a zone as well: it can be compared with none of ours."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return moment


def covers(trust: Trust, leaves: tuple[Leaf, ...], now: datetime) -> bool:
    """Whether whoever trusts what is published there accepts what every server has."""
    return trust.exists and all(
        leaf.bundle and any(chain.vouches(ca, leaf.bundle.certificate, now) for ca in trust.published)
        for leaf in leaves
    )
