"""What is told of each worker by itself, and of the master."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from pounce.metrics.catalogue import LOOP_DELAY_BOUNDS, MASTER_ID, SIZE_BOUNDS
from pounce.metrics.families import Family, Reading, Series
from pounce.metrics.processes import ProcessFigures, process_figures
from pounce.shm.layout import Layout
from pounce.shm.slot import GENERATION, HEARTBEAT, PID, STARTED, STATE, WORKER_ID, Slot, SlotState

_NANOSECONDS: Final = 1_000_000_000
_IDENTITY: Final = max(STATE, PID, WORKER_ID, GENERATION, STARTED, HEARTBEAT) + 1


class _Snapshot(NamedTuple):
    """One slot at one moment."""

    worker_id: int
    state: int
    generation: int
    started_ns: int
    heartbeat_age_ns: int | None
    requests: int
    delays: list[int]
    figures: ProcessFigures | None
    """None: the process is gone, or not there yet, or another slot's as well."""


_Figure = Callable[[_Snapshot], Sequence[float] | None]


def _up(worker: _Snapshot) -> Sequence[float]:
    return (worker.state == SlotState.READY,)


def _start_time(worker: _Snapshot) -> Sequence[float] | None:
    return (worker.started_ns / _NANOSECONDS,) if worker.started_ns else None


def _generation(worker: _Snapshot) -> Sequence[float]:
    return (worker.generation,)


def _requests(worker: _Snapshot) -> Sequence[float]:
    return (worker.requests,)


def _rss(worker: _Snapshot) -> Sequence[float] | None:
    return (worker.figures.rss,) if worker.figures else None


def _cpu(worker: _Snapshot) -> Sequence[float] | None:
    return (worker.figures.cpu,) if worker.figures else None


def _open_fds(worker: _Snapshot) -> Sequence[float] | None:
    if worker.figures is None or worker.figures.open_fds is None:
        return None
    return (worker.figures.open_fds,)


def _loop_delay(worker: _Snapshot) -> Sequence[float]:
    *counts, total = worker.delays
    cumulated = list(accumulate(counts))
    return (*cumulated, cumulated[-1], total / _NANOSECONDS)


def _heartbeat_age(worker: _Snapshot) -> Sequence[float] | None:
    age = worker.heartbeat_age_ns
    return None if age is None else (age / _NANOSECONDS,)


_OF_WORKERS: Final[Sequence[tuple[Family, _Figure]]] = (
    (
        Family("pounce_worker_up", "gauge", "Whether the worker is ready; 0 before and after."),
        _up,
    ),
    (
        Family(
            "pounce_worker_start_time_seconds",
            "gauge",
            "When the worker started, since the Unix epoch.",
            "seconds",
        ),
        _start_time,
    ),
    (
        Family(
            "pounce_worker_generation",
            "gauge",
            "Which configuration and code the worker runs; each reload begins a generation.",
        ),
        _generation,
    ),
    (
        Family(
            "pounce_worker_requests",
            "counter",
            "Responses to HTTP requests, complete ones, where the request could be read.",
        ),
        _requests,
    ),
    (
        Family("pounce_worker_rss_bytes", "gauge", "Resident memory of the worker.", "bytes"),
        _rss,
    ),
    (
        Family(
            "pounce_worker_cpu_seconds",
            "counter",
            "User and system CPU time of the worker.",
            "seconds",
        ),
        _cpu,
    ),
    (
        Family("pounce_worker_open_fds", "gauge", "Open file descriptors of the worker."),
        _open_fds,
    ),
    (
        Family(
            "pounce_worker_event_loop_delay_seconds",
            "histogram",
            "How late the worker's event loop was.",
            "seconds",
        ),
        _loop_delay,
    ),
    (
        Family(
            "pounce_worker_heartbeat_age_seconds",
            "gauge",
            "Time since the worker's event loop last turned.",
            "seconds",
        ),
        _heartbeat_age,
    ),
)

_OF_MASTER: Final[Sequence[tuple[Family, _Figure]]] = (
    (
        Family(
            "pounce_master_start_time_seconds",
            "gauge",
            "When the master started, since the Unix epoch.",
            "seconds",
        ),
        _start_time,
    ),
    (
        Family(
            "pounce_master_rss_bytes",
            "gauge",
            "Resident memory of the master, and of workers that are its threads.",
            "bytes",
        ),
        _rss,
    ),
    (
        Family(
            "pounce_master_cpu_seconds",
            "counter",
            "User and system CPU time of the master, and of workers that are its threads.",
            "seconds",
        ),
        _cpu,
    ),
    (
        Family(
            "pounce_master_open_fds",
            "gauge",
            "Open file descriptors of the master, and of workers that are its threads.",
        ),
        _open_fds,
    ),
)

WORKER_FAMILIES: Final = tuple(family for family, _ in _OF_WORKERS)
MASTER_FAMILIES: Final = tuple(family for family, _ in _OF_MASTER)


class Workers:
    """Reads the slots one by one."""

    def __init__(self, layout: Layout) -> None:
        sizes = layout["response_size"]
        self._requests = slice(sizes.start, sizes.start + len(SIZE_BOUNDS) + 1)
        delay = layout["loop_delay"]
        self._delay = slice(delay.start, delay.start + len(LOOP_DELAY_BOUNDS) + 2)
        self._series: dict[int, dict[Family, Series]] = {}
        self._master_series = {family: family.series() for family in MASTER_FAMILIES}

    def read(self, slots: Iterable[Slot]) -> list[Reading]:
        """A family for each figure, with a series for each worker.

        Args:
            slots: Those whose workers live.
        """
        snapshots = self._snapshots(slots)
        masters = [each for each in snapshots if each.worker_id == MASTER_ID]
        workers = [each for each in snapshots if each.worker_id != MASTER_ID]
        known = self._series
        self._series = {
            each.worker_id: known.get(each.worker_id) or _worker_series(each.worker_id)
            for each in workers
        }
        readings = [
            Reading(
                family,
                [
                    (self._series[worker.worker_id][family], values)
                    for worker in workers
                    if (values := figure(worker)) is not None
                ],
            )
            for family, figure in _OF_WORKERS
        ]
        if masters:
            # The later one, while one hands over to another.
            master = max(masters, key=lambda each: each.started_ns)
            readings += [
                Reading(family, [(self._master_series[family], values)])
                for family, figure in _OF_MASTER
                if (values := figure(master)) is not None
            ]
        return readings

    def _snapshots(self, slots: Iterable[Slot]) -> list[_Snapshot]:
        now = time.monotonic_ns()
        snapshots = []
        told: set[int] = {0}
        # The master first: where workers are its threads, the process is told of once, as its.
        for slot in sorted(slots, key=lambda slot: slot.worker_id):
            identity = slot.identity[:_IDENTITY].tolist()
            pid = identity[PID]
            figures = None if pid in told else process_figures(pid)
            told.add(pid)
            heartbeat = identity[HEARTBEAT]
            snapshot = _Snapshot(
                identity[WORKER_ID],
                identity[STATE],
                identity[GENERATION],
                identity[STARTED],
                max(0, now - heartbeat) if heartbeat else None,
                sum(slot.cells[self._requests].tolist()),
                slot.cells[self._delay].tolist(),
                figures,
            )
            # The slot may have been cleared, or given to another worker, meanwhile.
            if slot.identity[:_IDENTITY].tolist()[:STARTED] == identity[:STARTED]:
                snapshots.append(snapshot)
        return snapshots


def _worker_series(worker_id: int) -> dict[Family, Series]:
    labels = {"worker": str(worker_id)}
    bounds = [bound / _NANOSECONDS for bound in LOOP_DELAY_BOUNDS]
    return {
        family: family.histogram_series(bounds, labels)
        if family.kind == "histogram"
        else family.series(labels)
        for family in WORKER_FAMILIES
    }
