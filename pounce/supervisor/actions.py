"""What the pool asks its driver to do. Actions are to be carried out in the order given."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TypeAlias

from pounce.supervisor.pool_events import PoolEvent


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """Have listening sockets for this slot; comes before its first `Spawn`.

    May come for the same number again after `CloseSlot`, even while a worker of the closed slot
    still drains: these are other sockets then. When they cannot be had, the answer to the `Spawn`
    that follows is `spawn_failed`.
    """

    slot: int


@dataclass(frozen=True, slots=True)
class CloseSlot:
    """The pool shrinks: steer new connections away from the slot's sockets.

    Its workers are told to drain by the actions that follow. The sockets may be closed when their
    queues are empty.
    """

    slot: int


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker; to be answered by `spawned` or `spawn_failed`, always."""

    worker_id: int
    slot: int
    generation: int
    """Whose configuration it gets. The code is what is on disk when it is loaded."""


@dataclass(frozen=True, slots=True)
class TellServe:
    """Tell a prepared worker to accept connections."""

    worker_id: int


@dataclass(frozen=True, slots=True)
class TellDrain:
    """Tell a worker to leave. May come again, with less patience, when the server stops."""

    worker_id: int
    gentle: bool
    """Kept connections may finish their next request, instead of being closed when idle."""
    seconds: float
    """For the requests in flight; what is left then is cancelled."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal: SIGTERM to a worker that is still starting, SIGKILL to one out of time.

    A worker without a process (a thread) cannot be killed: do what can be done and wait; when its
    end is not reported it is written off.
    """

    worker_id: int
    signal: signal.Signals


@dataclass(frozen=True, slots=True)
class Report:
    """Something for the log and the metrics."""

    event: PoolEvent


Action: TypeAlias = OpenSlot | CloseSlot | Spawn | TellServe | TellDrain | Signal | Report
