"""How often workers are replaced for their health.

A limit that no worker can keep, or a fault that all have at once, must not have the whole pool
replaced again and again: beyond what is allowed nothing is done, and that is said once.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

from pounce.supervisor.pool_events import RecycleHeldBack
from pounce.supervisor.roster import Roster
from pounce.supervisor.worker_record import WorkerRecord

PERIOD: Final = 60.0
"""Seconds over which replacements are counted."""
SILENCE: Final = 600.0
"""Seconds without anything being held back after which it is worth a word again."""


class HealthLimits:
    """Counts the replacements of a pool, and reports to its roster what is held back."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._taken: deque[float] = deque()
        self._held_at: dict[str, float] = {}

    def may_replace(self, worker: WorkerRecord, reason: str, limit: int, now: float) -> bool:
        """Whether a worker may be replaced, where `limit` of them may be within a minute; if so it
        is counted."""
        while self._taken and self._taken[0] <= now - PERIOD:
            self._taken.popleft()
        if len(self._taken) >= limit:
            self.hold_back(worker, reason, "max_health_recycles", limit, now)
            return False
        self._taken.append(now)
        return True

    def hold_back(
        self, worker: WorkerRecord, reason: str, limit: str, allowed: int, now: float
    ) -> None:
        """A worker goes on that should be replaced. Reported unless that has been so all the time.

        Args:
            worker: Which one.
            reason: Why it should be.
            limit: The setting that is in the way.
            allowed: What it allows.
            now: The time.
        """
        last = self._held_at.get(reason, -inf)
        self._held_at[reason] = now
        if now - last >= SILENCE:
            self._roster.report(
                RecycleHeldBack(
                    worker_id=worker.worker_id,
                    slot=worker.slot,
                    reason=reason,
                    limit=limit,
                    allowed=allowed,
                )
            )
