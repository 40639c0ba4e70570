"""Metrics of what waits to be accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from pounce.metrics.families import Family, Reading, Series
from pounce.net.listener import SlotQueue

LENGTH: Final = Family(
    "pounce_accept_queue_length",
    "gauge",
    "Connections that wait to be accepted, by address and slot of the pool.",
)
LIMIT: Final = Family(
    "pounce_accept_queue_limit", "gauge", "Connections that may wait to be accepted."
)
QUEUE_FAMILIES: Final = (LENGTH, LIMIT)


class AcceptQueueMetrics:
    """Makes metrics of queues.

    Args:
        queues: Returns them as they are now.
    """

    def __init__(self, queues: Callable[[], Iterable[SlotQueue]]) -> None:
        self._queues = queues
        self._series: dict[tuple[str, str], tuple[Series, Series]] = {}

    def read(self) -> list[Reading]:
        """Their lengths and limits; where the system does not tell, nothing."""
        lengths, limits = [], []
        known, self._series = self._series, {}
        for queue in self._queues():
            if queue.length is None or queue.limit is None:
                continue
            key = (_format(queue.address), "" if queue.slot is None else str(queue.slot))
            series = known.get(key) or _series(*key)
            if key not in self._series:
                self._series[key] = series
                lengths.append((series[0], (queue.length,)))
                limits.append((series[1], (queue.limit,)))
        return [Reading(LENGTH, lengths), Reading(LIMIT, limits)] if lengths else []


def _series(address: str, slot: str) -> tuple[Series, Series]:
    labels = {"address": address, "slot": slot} if slot else {"address": address}
    return LENGTH.series(labels), LIMIT.series(labels)


def _format(address: tuple[str, int]) -> str:
    host, port = address
    if host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
