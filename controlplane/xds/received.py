"""What a request of a proxy turned out to be, or that none came."""

from dataclasses import dataclass
from typing import Literal

from controlplane.xds.snapshot import Kind


class ConversationError(Exception):
    """The proxy asks for more than a proxy needs: its stream is to be ended. `reason` is of a closed set."""

    def __init__(self, reason: Literal["too_many_names", "name_too_long"], message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Asked:
    """It changes what the proxy subscribes to, and nothing else; None: of a type that we do not serve."""

    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The response is in effect, `seconds` after it was given out."""

    kind: Kind
    seconds: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The proxy keeps what it had. Of several `names`, halves are tried apart, down to one that is at fault alone:
    that is not sent again before it changes.
    """

    kind: Kind
    names: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Stale:
    """It answers no response that waits for an answer."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The response counts as accepted, although no answer has come for long."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Slowed:
    """The pod has asked for more than its allowance, and waits for so many `seconds` now."""

    seconds: float


Received = Asked | Accepted | Rejected | Stale
Unusual = Rejected | Unanswered | Slowed
