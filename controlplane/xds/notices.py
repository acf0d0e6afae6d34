"""Lines of the log about what thousands of proxies may meet in the same hour: one for all of them."""

import logging
from collections import OrderedDict

from controlplane import logs

REMEMBERED = 1000  # things that were told of
AGAIN_SECONDS = 3600.0  # after which one that still happens is told of again


class Notices:
    """Those of one server. Times are of any monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def tell(self, event: str, what: str, who: str, message: str, now: float, **facts: str) -> None:
        """Writes it, unless the same happened to the same lately."""
        key = (event, what, who)
        if now < self._told.get(key, -AGAIN_SECONDS) + AGAIN_SECONDS:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        logs.tell(event, logging.WARNING, what=what, who=who, problem=message[:300], **facts)
