"""Watches how workers do: measures them, and looks for those whose event loop is blocked.

What follows is decided by the pool. A worker that is found blocked is asked for the stacks of its
threads, and all that is known of it goes into the log, in one entry, before it is killed.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pounce.metrics.processes import process_figures
from pounce.runtime import WorkerMode
from pounce.shm.black_box import BlackBoxRecord
from pounce.shm.slot import Slot
from pounce.supervisor.actions import Action
from pounce.supervisor.health_policy import health_policies_of
from pounce.supervisor.live_figures import Counts, CountsReader, LiveFigures, in_flight
from pounce.supervisor.measurements import Measurements
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_log import log_stall
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_handle import WorkerHandle
from pounce.supervisor.worker_health import HealthSample

logger = logging.getLogger("pounce.error")

PERIOD: Final = 0.25
"""Seconds between two looks at the heartbeats."""
MEASURING_PERIOD: Final = 1.0
"""Seconds between two measurements."""
AWAKE: Final = 2.0
"""Seconds between two looks from which on this process has been stopped or kept from running: the
workers may have been, too, and their old heartbeats say nothing."""

STACKS_POLL: Final = 0.05
STACKS_QUIET: Final = 0.3
"""Seconds without anything further after which the stacks are taken to be complete."""
STACKS_PATIENCE: Final = 2.0
"""Seconds that a worker has to write them: where loops are blocked, the machine is often busy."""
STACKS_SIZE: Final = 128 * 1024
"""Bytes of them that are logged."""


@dataclass(slots=True)
class _Stall:
    """A worker that was found blocked."""

    blocked_since: float
    requests: Sequence[BlackBoxRecord]
    asked_at: float
    heard_at: float | None = None
    stacks: bytearray = field(default_factory=bytearray)
    is_logged: bool = False

    def is_complete(self, now: float) -> bool:
        """Whether the stacks are as complete as they will get."""
        if now - self.asked_at >= STACKS_PATIENCE or len(self.stacks) >= STACKS_SIZE:
            return True
        return self.heard_at is not None and now - self.heard_at >= STACKS_QUIET


class HealthWatch:
    """Runs in the master's event loop.

    Args:
        measurements: Where workers count, and beat.
        pool: Decides.
        handles: The workers by number.
        do: Carries out what the pool decides.
        mode: What workers are.
    """

    def __init__(
        self,
        measurements: Measurements,
        pool: Pool,
        handles: Mapping[int, WorkerHandle],
        do: Callable[[Sequence[Action]], None],
        mode: WorkerMode,
    ) -> None:
        self._slots = measurements.slots_by_worker
        self._pool = pool
        self._handles = handles
        self._do = do
        self._are_processes = mode is WorkerMode.PROCESS
        self._reader = CountsReader(measurements.layout)
        self._live = LiveFigures(self._reader)
        self._stalls: dict[int, _Stall] = {}
        self._excused: dict[int, float] = {}
        """When a worker was last seen to be stopped, by number."""
        self._awake_since = self._looked_at = self._measured_at = -float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to watch."""
        if not self._are_processes:
            _warn_of_threads(self._pool.settings)
        self._awake_since = self._looked_at = time.monotonic()
        self._look()

    def stop(self) -> None:
        """Ends that."""
        if self._timer is not None:
            self._timer.cancel()

    def figures(self, worker_id: int, reported_in_flight: int) -> dict[str, Any]:
        """What a worker is doing now, see `control_messages.WorkerRow`; nothing of one that has
        no slot."""
        slot = self._slots.get(worker_id)
        if slot is None:
            return {}
        figures = self._live.read(worker_id, slot, time.monotonic())
        figures["in_flight"] = in_flight(slot, reported_in_flight)
        system = process_figures(slot.pid) if self._are_processes and slot.pid else None
        figures["rss"] = None if system is None else system.rss
        figures["open_fds"] = None if system is None else system.open_fds
        return figures

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at >= AWAKE:
            self._awake_since = now
        self._looked_at = now
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._look)
        self._look_for_stalls(now)
        if now - self._measured_at >= MEASURING_PERIOD:
            self._measured_at = now
            self._measure(now)

    # Measuring

    def _measure(self, now: float) -> None:
        counts = {worker_id: self._reader.read(slot) for worker_id, slot in self._slots.items()}
        for worker_id, each in counts.items():
            self._live.note(worker_id, each, now)
        self._live.forget_all_but(list(counts))
        settings = self._pool.settings
        if health_policies_of(settings):
            samples = {
                worker_id: self._sample(self._slots[worker_id], each, settings)
                for worker_id, each in counts.items()
            }
            self._do(self._pool.measured(samples, now))

    def _sample(self, slot: Slot, counts: Counts, settings: PoolSettings) -> HealthSample:
        sample = HealthSample(
            answers=counts.answers, errors=counts.errors, stuck_threads=counts.stuck_threads
        )
        asks_system = settings.max_rss or settings.max_rss_growth or settings.max_open_fds
        if not (asks_system and self._are_processes and slot.pid):
            return sample
        figures = process_figures(slot.pid)
        if figures is None:
            return sample
        limit = _fd_limit(slot.pid) if settings.max_open_fds else None
        return sample._replace(rss=figures.rss, open_fds=figures.open_fds, fd_limit=limit)

    # Blocked event loops

    def _look_for_stalls(self, now: float) -> None:
        ages = {
            worker_id: now - self._turned_at(worker_id, slot)
            for worker_id, slot in self._slots.items()
            if slot.heartbeat_ns
        }
        blocked = self._pool.blocked(ages)
        for worker_id in blocked:
            stall = self._stalls.get(worker_id)
            if stall is None:
                self._begin_examination(worker_id, now)
            elif stall.is_logged:
                self._do(self._pool.stalled(worker_id, now))
        for worker_id in self._stalls.keys() - set(blocked):
            self._end_stall(worker_id, now)
        for worker_id in self._excused.keys() - self._slots.keys():
            del self._excused[worker_id]

    def _turned_at(self, worker_id: int, slot: Slot) -> float:
        """When an event loop last turned, or last had an excuse not to."""
        excused = self._excused.get(worker_id, self._awake_since)
        return max(slot.heartbeat_ns / 1e9, self._awake_since, excused)

    def _begin_examination(self, worker_id: int, now: float) -> None:
        handle, slot = self._handles.get(worker_id), self._slots[worker_id]
        if handle is None:
            return
        if handle.is_stopped():
            # Whoever has stopped it does not want it killed. It has all of the time again after.
            if worker_id not in self._excused:
                logger.warning(
                    "worker %d (pid %d) is stopped, by a signal or a debugger: it is let be",
                    worker_id,
                    handle.pid,
                )
            self._excused[worker_id] = now
            return
        self._stalls[worker_id] = _Stall(slot.heartbeat_ns / 1e9, slot.read_black_box(), now)
        handle.ask_for_stacks()
        self._collect(worker_id)

    def _collect(self, worker_id: int) -> None:
        stall, now = self._stalls.get(worker_id), time.monotonic()
        if stall is None:
            return
        handle = self._handles.get(worker_id)
        more = b"" if handle is None else handle.read_stacks()
        if more:
            stall.stacks += more
            stall.heard_at = now
        if handle is None or stall.is_complete(now):
            self._log(worker_id, stall, now)
            self._look_for_stalls(now)  # it may have come to life meanwhile
        else:
            asyncio.get_running_loop().call_later(STACKS_POLL, self._collect, worker_id)

    def _log(self, worker_id: int, stall: _Stall, now: float) -> None:
        stall.is_logged = True
        stacks = bytes(stall.stacks[:STACKS_SIZE]).decode(errors="replace")
        log_stall(worker_id, now - stall.blocked_since, stall.requests, stacks)

    def _end_stall(self, worker_id: int, now: float) -> None:
        """The event loop turns again, or the worker is told to leave or gone."""
        stall = self._stalls.pop(worker_id)
        slot = self._slots.get(worker_id)
        turns = slot is not None and slot.heartbeat_ns / 1e9 > stall.blocked_since
        if not stall.is_logged:
            self._log(worker_id, stall, now)
        if turns:
            logger.warning(
                "worker %d: its event loop turns again, after %.1f s",
                worker_id,
                now - stall.blocked_since,
            )


def _fd_limit(pid: int) -> int | None:
    """How many descriptors a process may have; None: as many as it likes."""
    try:
        if sys.platform == "linux":
            limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        else:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # workers inherit it
    except OSError:
        return None
    return None if limit == resource.RLIM_INFINITY else limit


def _warn_of_threads(settings: PoolSettings) -> None:
    names = [
        name
        for name in ("max_rss", "max_rss_growth", "max_open_fds", "max_stuck_threads")
        if getattr(settings, name)
    ]
    if names:
        logger.warning(
            "workers are threads, which share memory and descriptors: no effect of %s",
            ", ".join(names),
        )
