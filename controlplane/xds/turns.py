"""Much to do in an event loop that others need as well: a little at each of its turns."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from time import monotonic

TURN_SECONDS = 0.02  # after which others have their turn


async def turn_by_turn(steps: Iterator[None]) -> None:
    """All of them, and the loop turns meanwhile."""
    until = monotonic() + TURN_SECONDS
    for _ in steps:
        if monotonic() >= until:
            await asyncio.sleep(0)
            until = monotonic() + TURN_SECONDS


class Turns:
    """What is to be done soon, in its order; what waits already is not done twice."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Callable[[], None], None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def add(self, things: Iterable[Callable[[], None]]) -> None:
        """These as well. They raise nothing."""
        self._waiting.update(dict.fromkeys(things))
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(turn_by_turn(self._each()))

    def stop(self) -> None:
        """What waits is not done any more."""
        self._waiting.clear()

    def _each(self) -> Iterator[None]:
        while self._waiting:
            thing, _ = self._waiting.popitem(last=False)
            thing()
            yield
