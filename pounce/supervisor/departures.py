"""Slots that were given up: their workers accept until nothing can arrive there any more.

New connections are steered away from such a slot at once, but those whose handshake had begun still
arrive. So its workers are told to drain a moment later, and its sockets close when they are gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from pounce.net.listener import Departure

LONGEST_HOLD: Final = 6.0
"""Seconds that a worker is kept from draining at most: more than a handshake may take."""

QUIET_CHECK: Final = 0.05
"""Seconds between two looks at the queue of a slot that is being given up."""


class _Leaving:
    def __init__(self, departure: Departure, workers: Iterable[int], began: float) -> None:
        self.departure = departure
        self.workers = set(workers)
        self.began = began
        self.held: dict[int, float] = {}
        """Workers to be told to drain, and the seconds that they may take."""


class Departures:
    """The slots that were given up and are not closed yet.

    Args:
        tell_drain: Tells a worker to drain gently, within so many seconds.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        tell_drain: Callable[[int, float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell_drain = tell_drain
        self._clock = clock
        self._leaving: list[_Leaving] = []

    @property
    def holds(self) -> bool:
        """Whether `check` is to be called again soon."""
        return any(each.held for each in self._leaving)

    def add(self, departure: Departure, workers: Iterable[int]) -> None:
        """A slot was given up; `workers` are all that have its sockets."""
        leaving = _Leaving(departure, workers, self._clock())
        if leaving.workers:
            self._leaving.append(leaving)
        else:
            departure.close()

    def hold(self, worker_id: int, seconds: float) -> bool:
        """Whether a worker is to be told to drain later, by `check`."""
        for leaving in self._leaving:
            if worker_id in leaving.workers:
                if leaving.departure.is_quiet():
                    return False
                leaving.held[worker_id] = seconds
                return True
        return False

    def release(self, worker_id: int) -> None:
        """A worker was told to hurry: nothing more is to be said to it."""
        for leaving in self._leaving:
            leaving.held.pop(worker_id, None)

    def ended(self, worker_id: int) -> None:
        """A worker is gone. Nobody accepts where it was the last one, so that is closed."""
        self.release(worker_id)
        for leaving in list(self._leaving):
            leaving.workers.discard(worker_id)
            if not leaving.workers:
                self._leaving.remove(leaving)
                leaving.departure.close()

    def check(self) -> None:
        """Lets workers drain where nothing arrives any more, or it has taken too long."""
        for leaving in self._leaving:
            if not leaving.held:
                continue
            waited = self._clock() - leaving.began
            patience = min(LONGEST_HOLD, min(leaving.held.values()) / 2)
            if waited >= patience or leaving.departure.is_quiet():
                held, leaving.held = leaving.held, {}
                for worker_id, seconds in held.items():
                    self._tell_drain(worker_id, max(0.0, seconds - waited))

    def close(self) -> None:
        """The end of the program."""
        leaving, self._leaving = self._leaving, []
        for each in leaving:
            each.departure.close()
