"""How much somebody may ask for: a moment's worth at once, and so much a second after that."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class Allowance:
    """One caller's. `left` is negative for who took more than there was; times are of any clock, in seconds."""

    rate: float
    most: float
    left: float
    at: float

    def take(self, amount: float, now: float) -> float:
        """What is left after that, maybe less than nothing."""
        # A clock that went back gives nothing.
        self.left = min(self.most, self.left + max(now - self.at, 0.0) * self.rate) - amount
        self.at = now
        return self.left

    def give_back(self, amount: float) -> None:
        """It was not used after all."""
        self.left = min(self.most, self.left + amount)


class Allowances:
    """One for each key; those that were used last are remembered, `kept` of them."""

    def __init__(self, rate: float, most: float, kept: int) -> None:
        self._rate, self._most, self._kept = rate, most, kept
        self._found: OrderedDict[Hashable, Allowance] = OrderedDict()

    def of(self, key: Hashable, now: float) -> Allowance:
        """The key's own; a full one if it is new."""
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = Allowance(self._rate, self._most, self._most, now)
            if len(self._found) > self._kept:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        return found
