"""Values of this package: a certificate with its key, and how long it is valid. A key never shows in a repr."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Bundle:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when; both aware of their time zone."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def starting(cls, now: datetime, days: int, backdated: timedelta = timedelta(hours=1)) -> "Validity":
        """From a little before `now`, so that a client whose clock is behind takes it too."""
        return cls(now - backdated, now + timedelta(days=days))
