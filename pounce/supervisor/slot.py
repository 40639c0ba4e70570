"""A place in the pool, and the workers that serve there or are to."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from math import inf

from pounce.supervisor.crash_policy import CrashBackoff
from pounce.supervisor.worker_record import WorkerRecord, WorkerState


@dataclass(slots=True, eq=False)
class Slot:
    """Usually holds one worker; two while one takes over from the other.

    During a reload there are two lines: the committed generation, which serves and is respawned
    when it crashes, and one candidate of the generation that is being prepared.
    """

    index: int
    backoff: CrashBackoff
    workers: list[WorkerRecord] = field(default_factory=list)
    """Whoever is told to leave no longer counts here, see `present`."""
    has_started: bool = False
    """Whether a worker of a committed generation was ever spawned here."""
    retry_at: float = -inf
    """No worker is spawned before that."""
    is_healing: bool = False
    """Whether its worker was killed to be replaced, and none has been READY since."""
    trouble: str = ""
    """Why the last worker failed, until one is READY."""

    @property
    def present(self) -> list[WorkerRecord]:
        """Those that serve or are to serve."""
        self.workers = [worker for worker in self.workers if worker.is_present]
        return self.workers

    def newest(self, generation: int) -> WorkerRecord | None:
        """The worker that serves here, or that is to, of any generation up to `generation`."""
        line = [worker for worker in self.present if worker.generation <= generation]
        return max(line, key=lambda worker: worker.seniority, default=None)

    def newest_ready(self) -> WorkerRecord | None:
        line = [worker for worker in self.present if worker.state is WorkerState.READY]
        return max(line, key=lambda worker: worker.seniority, default=None)

    def candidate(self, generation: int) -> WorkerRecord | None:
        """The worker of exactly this generation."""
        return next((w for w in self.present if w.generation == generation), None)

    def is_handing_over(self, generation: int) -> bool:
        """Whether, of generations up to `generation`, one worker takes over from another."""
        return sum(worker.generation <= generation for worker in self.present) > 1

    def seniority(self) -> tuple[int, int]:
        """Of its youngest worker: the lower, the longer nobody has been replaced here."""
        return max((worker.seniority for worker in self.present), default=(sys.maxsize, 0))
