"""What can be done to certificates and trust, as values: each step is one write of one object, and says why.

When is for `rotation` to say, how for `rounds`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from certs.bundle import Bundle, Validity
from certs.objects import Target
from certs.state import Authority

Verb = Literal["create", "introduce", "adopt", "promote", "forget", "publish", "issue"]


@dataclass(frozen=True, slots=True)
class Create:
    """An empty object, to be filled once it was read back."""

    verb: ClassVar[Verb] = "create"
    target: Target
    reason: str


@dataclass(frozen=True, slots=True)
class Introduce:
    """Make a CA and store it as the next one, beside `authority`."""

    verb: ClassVar[Verb] = "introduce"
    target: Target
    authority: Authority
    validity: Validity
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """Store `authority` in the place of what the CA Secret holds."""

    target: Target
    authority: Authority
    verb: Literal["adopt", "promote", "forget"]
    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Let `certificates` be what is trusted there."""

    verb: ClassVar[Verb] = "publish"
    target: Target
    certificates: tuple[bytes, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Issue:
    """Give a server a fresh certificate."""

    verb: ClassVar[Verb] = "issue"
    target: Target
    ca: Bundle
    names: tuple[str, ...]
    validity: Validity
    reason: str


Step = Create | Introduce | Change | Publish | Issue
