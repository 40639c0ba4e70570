"""When a worker that crashed is started again.

The first crash is answered at once. Further ones in the same slot wait: 0.5 s, 1 s, 2 s, ... up to
30 s, each shortened by up to half so that slots which fail together do not start together. A worker
that has been READY for a minute has its slot's crashes forgotten.

Respawns without delay come out of a budget of the whole pool, so that many slots cannot do together
what one slot may not. A worker that was READY and was ended from outside is replaced at once while
there is budget, however often that happens: it is not its fault, and waiting mends nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from pounce.supervisor.pool_events import ExitReason
from pounce.supervisor.pool_settings import CrashSettings
from pounce.supervisor.worker_record import WorkerState

OUTSIDE_EXIT_CODES: Final = frozenset({0, -signal.SIGTERM, -signal.SIGKILL})
"""Somebody else's SIGTERM (a worker drains and exits with 0), or SIGKILL of the kernel for want of
memory or of an operator."""


def exit_reason(state: WorkerState, exit_code: int) -> ExitReason:
    """Why a worker that was in `state` is gone."""
    match state:
        case WorkerState.DRAINING:
            return ExitReason.DRAINED
        case WorkerState.KILLED:
            return ExitReason.KILLED
        case WorkerState.READY:
            is_outside = exit_code in OUTSIDE_EXIT_CODES
            return ExitReason.OUTSIDE if is_outside else ExitReason.CRASH
        case _:
            return ExitReason.BOOT_FAILURE


class RespawnBudget:
    """A bucket of respawns without delay, shared by the slots of a pool."""

    def __init__(self, settings: CrashSettings) -> None:
        self._capacity = float(settings.budget)
        self._per_second = settings.budget_per_second
        self._left = self._capacity
        self._counted_at: float | None = None

    def take(self, now: float) -> bool:
        """Whether there was one left; if so it is used."""
        if self._counted_at is not None:
            earned = (now - self._counted_at) * self._per_second
            self._left = min(self._capacity, self._left + earned)
        self._counted_at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class CrashBackoff:
    """The crashes of one slot and the delay that follows from them.

    Args:
        settings: The numbers.
        budget: The pool's.
        random: Returns numbers from 0 up to 1.
    """

    def __init__(
        self, settings: CrashSettings, budget: RespawnBudget, random: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._budget = budget
        self._random = random
        self._ready_at: float | None = None
        self.failures = 0
        """In a row."""

    def became_ready(self, now: float) -> None:
        self._ready_at = now

    def failed(self, now: float, *, from_outside: bool = False) -> float:
        """Takes note that a worker of the slot failed; returns how long to wait, in seconds."""
        settings = self._settings
        if self._ready_at is not None and now - self._ready_at >= settings.reset_after:
            self.failures = 0
        # A success counts once: further failures while the same worker still serves do repeat.
        self._ready_at = None
        if from_outside and self._budget.take(now):
            return 0.0
        self.failures += 1
        if self.failures == 1 and self._budget.take(now):
            return 0.0
        doublings = min(max(0, self.failures - 2), 64)
        delay = min(settings.delay_ceiling, settings.delay_base * 2.0**doublings)
        return delay * (1 - self._random() / 2)
