"""What `pounce ctl status` shows of the pool. Times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from pounce.supervisor.reload_state import ReloadOutcome
from pounce.supervisor.slot import Slot
from pounce.supervisor.worker_record import WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    slot: int
    worker_id: int
    pid: int | None
    generation: int
    state: str
    age: float
    """Since the spawn."""
    requests: int
    connections: int
    in_flight: int
    reason: str
    """Why it is to be replaced, or why it leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTrouble:
    """A slot whose last worker failed and where none has been READY since."""

    slot: int
    failures: int
    """In a row."""
    retry_in: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    phase: str
    """`new`, `running`, `parked` (drained, and waiting for a reload or a change of size),
    `lingering` (to stop, but still accepting), `leaving` (another master serves) or `stopping`."""
    generation: int
    target: int
    workers: tuple[WorkerStatus, ...]
    """By slot, then by age; those that leave are listed until they are gone."""
    troubles: tuple[SlotTrouble, ...]
    reload_under_way: int | None
    """Its generation."""
    reload_queued: bool
    last_reload: ReloadOutcome | None
    restarts: int
    """Workers that were started in place of one that failed."""


def worker_status(worker: WorkerRecord, now: float) -> WorkerStatus:
    return WorkerStatus(
        slot=worker.slot,
        worker_id=worker.worker_id,
        pid=worker.pid,
        generation=worker.generation,
        state=worker.state.value,
        age=max(0.0, now - worker.spawned_at),
        requests=worker.requests,
        connections=worker.connections,
        in_flight=worker.in_flight,
        reason=worker.reason,
    )


def slot_trouble(slot: Slot, now: float) -> SlotTrouble:
    return SlotTrouble(
        slot=slot.index,
        failures=slot.backoff.failures,
        retry_in=max(0.0, slot.retry_at - now),
        reason=slot.trouble,
    )
