"""How long to wait before something that failed is tried again: later and later, and not all replicas at once."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Seconds: `least` after the first failure, twice as many each time, `most` at most; less up to half, by chance."""

    least: float
    most: float
    chance: Callable[[], float] = random.random
    failures: int = 0

    def failed(self) -> float:
        """How long to wait now."""
        seconds = min(self.most, self.least * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return seconds * (1 - self.chance() / 2)

    def worked(self) -> None:
        """The next failure is the first."""
        self.failures = 0
