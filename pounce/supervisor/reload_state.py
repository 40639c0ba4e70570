"""A reload: asked for, under way, over.

```
 asked for ──> preparing: candidates are spawned and held in PREPARED
                  │   │ one fails, is late, or the pool is drained or stopped
                  │   └──> failed: candidates leave, all else is as it was
                  │ all slots have a PREPARED one
                  v
               committed: candidates are told to serve; each predecessor drains when its
                  │       successor is READY. No way back: from here on failures are crashes.
                  v none is left between PREPARED and READY
               succeeded
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pounce.supervisor.pool_events import (
    ReloadFailed,
    ReloadQueued,
    ReloadStarted,
    ReloadSucceeded,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.roster import Roster
from pounce.supervisor.worker_record import WorkerRecord, WorkerState


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    settings: PoolSettings | None
    """None: those of the pool as it is when the reload begins."""


@dataclass(slots=True, eq=False)
class Reload:
    """The one under way."""

    generation: int
    settings: PoolSettings
    target: int
    """Size of the pool when it is committed."""
    started_at: float
    members: frozenset[int] | None = None
    """The candidates that were told to serve, by worker id; None before the commit."""
    lost: int = 0
    """How many of them failed."""

    @property
    def is_preparing(self) -> bool:
        return self.members is None


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    generation: int
    result: Literal["succeeded", "failed"]
    reason: str
    """Why it failed, or what went wrong although it succeeded."""
    at: float
    """Monotonic seconds."""


class Reloads:
    """The reload under way, the one that follows it, and how the last one went.

    That one is committed is decided in `staffing`, which sets its `members`.

    Args:
        roster: Has the workers, and is told of everything.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._last_generation = 1
        self.under_way: Reload | None = None
        self.queued: ReloadRequest | None = None
        self.last: ReloadOutcome | None = None

    @property
    def candidates(self) -> Reload | None:
        """The reload whose candidates are being prepared, if one is."""
        reload = self.under_way
        return reload if reload is not None and reload.is_preparing else None

    @property
    def is_opening(self) -> bool:
        """Whether a candidate was told to serve and is not READY yet."""
        if self.under_way is None:
            return False
        workers = [self._roster.get(worker_id) for worker_id in self.under_way.members or ()]
        states = [worker.state for worker in workers if worker is not None]
        return WorkerState.PREPARED in states or WorkerState.OPENING in states

    def ask_for(self, settings: PoolSettings | None) -> None:
        """One more; of those that wait, the latest counts."""
        self.queued = ReloadRequest(settings)
        if self.under_way is not None:
            self._roster.report(ReloadQueued())

    def begin_if_queued(self, settings: PoolSettings, size: int) -> None:
        """Begins the one that waits, unless another one is under way.

        Args:
            settings: Of the committed generation.
            size: The pool's, which stays unless the new settings have another one.
        """
        if self.under_way is not None or self.queued is None:
            return
        request, self.queued = self.queued, None
        new = request.settings or settings
        self._last_generation += 1
        self.under_way = Reload(
            generation=self._last_generation,
            settings=new,
            target=new.workers if new.workers != settings.workers else size,
            started_at=self._roster.now,
        )
        self._roster.report(ReloadStarted(generation=self.under_way.generation))

    def resized(self, size: int) -> None:
        """The pool was given another size, and so is the generation that is being prepared."""
        if self.candidates is not None:
            self.candidates.target = size

    def worker_failed(self, worker: WorkerRecord) -> None:
        """A worker is gone; it may have been one that serves since the commit."""
        reload = self.under_way
        if reload is not None and worker.worker_id in (reload.members or ()):
            reload.lost += 1

    def candidate_failed(self, worker: WorkerRecord, reason: str) -> None:
        """The same for one of a generation that is not committed, whose reload may have failed
        already."""
        if self.under_way is not None and worker.generation == self.under_way.generation:
            self.abandon(reason)

    def cancel(self, reason: str) -> None:
        """Fails the one under way, and the one that would follow."""
        self.queued = None
        self.abandon(reason)

    def abandon(self, reason: str) -> None:
        """Fails the reload that is being prepared, if one is; one that is committed is over."""
        reload = self.under_way
        if reload is None:
            return
        if not reload.is_preparing:
            self.succeed()
            return
        now = self._roster.now
        self.under_way = None
        self.last = ReloadOutcome(reload.generation, "failed", reason, now)
        self._roster.report(
            ReloadFailed(
                generation=reload.generation, seconds=now - reload.started_at, reason=reason
            )
        )

    def succeed(self) -> None:
        """The new generation serves."""
        reload, self.under_way = self.under_way, None
        assert reload is not None
        now = self._roster.now
        reason = f"{reload.lost} of its workers failed and were started again" * bool(reload.lost)
        self.last = ReloadOutcome(reload.generation, "succeeded", reason, now)
        self._roster.report(
            ReloadSucceeded(
                generation=reload.generation, seconds=now - reload.started_at, lost=reload.lost
            )
        )
