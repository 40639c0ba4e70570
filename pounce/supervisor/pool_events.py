"""What the pool has to tell: typed events, for the log and for counting. Times are in seconds."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from pounce.supervisor.worker_record import WorkerState


class ExitReason(StrEnum):
    DRAINED = "drained"
    """It had been told to leave."""
    KILLED = "killed"
    """The pool had killed it."""
    BOOT_FAILURE = "boot_failure"
    """It was not READY yet."""
    CRASH = "crash"
    OUTSIDE = "outside"
    """It was READY, and left with code 0, or by SIGTERM or SIGKILL of somebody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady:
    worker_id: int
    slot: int
    generation: int
    boot_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExited:
    worker_id: int
    slot: int
    generation: int
    pid: int | None
    state: WorkerState
    """The one it was in."""
    exit_code: int
    reason: ExitReason
    detail: str
    """A sentence for people."""

    @property
    def is_normal(self) -> bool:
        """Whether it follows from what the pool did: it was told to leave, by SIGTERM if it was
        still starting, or killed, of which there is an event already."""
        match self.reason:
            case ExitReason.DRAINED:
                return self.exit_code in (0, -signal.SIGTERM)
            case ExitReason.KILLED:
                return True
            case _:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """No process came to be."""

    worker_id: int
    slot: int
    generation: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerKilled:
    """SIGKILL is sent."""

    worker_id: int
    slot: int
    state: WorkerState
    """The one it was in."""
    reason: str
    is_asked_for: bool = False
    """The program is to end at once; else the worker is out of time."""
    recycled_for: str = ""
    """Label of the reason, where it is killed to be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """Its end was not seen after SIGKILL; it is written off."""

    worker_id: int
    slot: int
    pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecycled:
    """Its successor is READY, and it is told to drain."""

    worker_id: int
    slot: int
    successor: int
    reason: str
    """`reload`, `restart`, `max_requests`, `max_lifetime` or what a further policy says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecycleHeldBack:
    """A worker should be replaced for its health, but that would be too many."""

    worker_id: int
    slot: int
    reason: str
    limit: str
    """The setting that holds it back."""
    allowed: int
    """What that allows: workers at once, or within a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RespawnDelayed:
    slot: int
    delay: float
    failures: int
    """Failures in a row in this slot."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadStarted:
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadQueued:
    """Another reload is under way; this one follows, unless a later request takes its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadSucceeded:
    generation: int
    seconds: float
    lost: int
    """Workers that failed after all had been prepared; they are started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadFailed:
    generation: int
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolScaled:
    size: int
    previous: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GaveUp:
    """The pool could not start; the program ends."""

    reason: str
    exit_code: int


PoolEvent: TypeAlias = (
    WorkerReady
    | WorkerExited
    | SpawnFailed
    | WorkerKilled
    | WorkerLost
    | WorkerRecycled
    | RecycleHeldBack
    | RespawnDelayed
    | ReloadStarted
    | ReloadQueued
    | ReloadSucceeded
    | ReloadFailed
    | PoolScaled
    | GaveUp
)
