"""What `pounce ctl status` says of each worker: what it does now, not since it began."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from operator import add, sub
from typing import Any, Final, NamedTuple

from pounce.metrics import catalogue
from pounce.metrics.catalogue import DURATION_BOUNDS, LOOP_DELAY_BOUNDS, REJECTIONS, STATUSES
from pounce.shm.layout import Layout
from pounce.shm.slot import Slot

RATE_WINDOW: Final = 5.0
"""Seconds over which requests per second are measured."""
WINDOW: Final = 60.0
"""Seconds that quantiles are of."""

_SERVER_ERRORS: Final = tuple(i for i, text in enumerate(STATUSES) if text.startswith("5"))
_OWN_ERRORS: Final = ("overloaded", "not_implemented")
"""Rejections with a status of 5xx: an answer of the server, and no fault of the application."""


class Counts(NamedTuple):
    """What one worker has counted so far."""

    answers: int
    errors: int
    """Responses of the application with a status of 5xx."""
    durations: list[int]
    """Of requests, by bucket."""
    delays: list[int]
    """Of the event loop, by bucket."""
    stuck_threads: int


class CountsReader:
    """Reads them from slots."""

    def __init__(self, layout: Layout) -> None:
        self._requests = [
            slice(layout[name].start, layout[name].start + layout[name].size)
            for name in ("requests_without_content", "requests_with_content")
        ]
        rejections = layout["rejections"]
        self._own_errors = [rejections.index(REJECTIONS.index(name)) for name in _OWN_ERRORS]
        self._durations = [
            slice(layout[name].start, layout[name].start + len(DURATION_BOUNDS) + 1)
            for name in ("duration_whole", "duration_streamed")
        ]
        start = layout["loop_delay"].start
        self._delays = slice(start, start + len(LOOP_DELAY_BOUNDS) + 1)
        self._stuck_threads = layout["stuck_threads"].start

    def read(self, slot: Slot) -> Counts:
        cells = slot.cells
        without_content, with_content = (cells[each].tolist() for each in self._requests)
        requests = without_content + with_content  # rows of statuses, one for each method
        errors = sum(sum(requests[status :: len(STATUSES)]) for status in _SERVER_ERRORS)
        errors -= sum(cells[index] for index in self._own_errors)
        whole, streamed = (cells[each].tolist() for each in self._durations)
        return Counts(
            sum(requests),
            max(0, errors),
            list(map(add, whole, streamed)),
            cells[self._delays].tolist(),
            cells[self._stuck_threads],
        )


class LiveFigures:
    """Remembers what workers had counted, as far back as figures go.

    Args:
        reader: Of the arena.
    """

    def __init__(self, reader: CountsReader) -> None:
        self._reader = reader
        self._history: dict[int, deque[tuple[float, Counts]]] = {}

    def note(self, worker_id: int, counts: Counts, now: float) -> None:
        """Takes note of what a worker has counted; to be done once a second."""
        history = self._history.setdefault(worker_id, deque())
        history.append((now, counts))
        while len(history) > 1 and history[1][0] <= now - WINDOW:
            history.popleft()

    def forget_all_but(self, worker_ids: Sequence[int]) -> None:
        """Of all others nothing will be asked any more."""
        for worker_id in self._history.keys() - set(worker_ids):
            del self._history[worker_id]

    def read(self, worker_id: int, slot: Slot, now: float) -> dict[str, Any]:
        """The figures now; None is what there is nothing to say of.

        Args:
            worker_id: The worker.
            slot: Its slot.
            now: The time, in monotonic seconds.
        """
        counts = self._reader.read(slot)
        history = self._history.get(worker_id) or deque([(now, counts)])
        then, before = next((e for e in reversed(history) if e[0] <= now - RATE_WINDOW), history[0])
        rate = (counts.answers - before.answers) / (now - then) if now > then else None
        oldest = history[0][1]
        durations = list(map(sub, counts.durations, oldest.durations))
        delays = list(map(sub, counts.delays, oldest.delays))
        beat = slot.heartbeat_ns
        return {
            "requests_per_second": rate,
            "duration_p50": quantile(DURATION_BOUNDS, durations, 0.5),
            "duration_p99": quantile(DURATION_BOUNDS, durations, 0.99),
            "loop_delay_p99": quantile(LOOP_DELAY_BOUNDS, delays, 0.99),
            "heartbeat_age": max(0.0, time.monotonic() - beat / 1e9) if beat else None,
            "stuck_threads": counts.stuck_threads,
        }


def quantile(bounds: Sequence[int], counts: Sequence[int], share: float) -> float | None:
    """The time that a share of the observations took at most, in seconds; None if there are none.

    Within a bucket they are taken to be spread evenly, as Prometheus does. What is beyond the
    largest bound counts as that.

    Args:
        bounds: Of the buckets, in nanoseconds.
        counts: Observations in each, and in the one beyond the last bound.
        share: From 0 to 1.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank = share * total
    for index, reached in enumerate(accumulate(counts)):
        if reached >= rank and counts[index]:
            if index == len(bounds):
                break
            low = bounds[index - 1] if index else 0
            inside = (rank - (reached - counts[index])) / counts[index]
            return (low + (bounds[index] - low) * inside) / 1e9
    return bounds[-1] / 1e9


def in_flight(slot: Slot, reported: int) -> int:
    """Requests in progress, also of a worker that does not report any more: those in its black
    box, or, where that is full, what it said last."""
    noted = len(slot.read_black_box())
    return max(noted, reported) if noted >= catalogue.BLACK_BOX_RECORDS else noted
