"""Values of this package: a certificate with its key, and how long it is valid. A key never shows in a repr."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

BACKDATED = timedelta(hours=1)  # so that a client whose clock is behind takes a fresh certificate too


@dataclass(frozen=True, slots=True)
class Bundle:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when; both aware of their time zone, in whole seconds (RFC 5280, 4.1.2.5)."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def starting(cls, now: datetime, lifetime: timedelta, within: "Validity | None" = None) -> "Validity":
        """From a little before `now`, for `lifetime`; not beyond `within`."""
        start, end = (now - BACKDATED).replace(microsecond=0), (now + lifetime).replace(microsecond=0)
        return cls(max(start, within.not_before), min(end, within.not_after)) if within else cls(start, end)

    def holds(self, now: datetime) -> bool:
        """Whether a certificate of that time is valid now."""
        return self.not_before <= now < self.not_after

    @property
    def renewal(self) -> datetime:
        """When two thirds of the time since it was issued are over."""
        return self.not_after - (self.not_after - self.not_before - BACKDATED) / 3
