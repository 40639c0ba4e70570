"""What a scrape gets: all metrics of the server, in the format that the client asks for."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pounce.config import ServerConfig
from pounce.metrics.catalogue import METRICS
from pounce.metrics.constants import CONSTANT_FAMILIES, constants
from pounce.metrics.encoder import encoder_for
from pounce.metrics.families import Family, Reading
from pounce.metrics.negotiation import accepts_gzip
from pounce.metrics.queue_metrics import QUEUE_FAMILIES, AcceptQueueMetrics
from pounce.metrics.totals import Totals, family_of, live_slots
from pounce.metrics.workers import MASTER_FAMILIES, WORKER_FAMILIES, Workers
from pounce.net.listener import SlotQueue
from pounce.shm.arena import Arena

logger = logging.getLogger("pounce.error")

RING_DROPPED: Final = Family(
    "pounce_ring_dropped",
    "counter",
    "Samples and events of workers that were overwritten before the master read them.",
)

IN_FLIGHT: Final = Family(
    "http_requests_in_flight",
    "gauge",
    "Requests that have begun and whose responses are not complete; at most 512 for each worker.",
)

FAMILIES: Final = (
    *map(family_of, METRICS),
    IN_FLIGHT,
    RING_DROPPED,
    *QUEUE_FAMILIES,
    *WORKER_FAMILIES,
    *MASTER_FAMILIES,
    *CONSTANT_FAMILIES,
)
"""Everything that a scrape may hold, in its order, without what the application adds."""

_GZIP_LEVEL: Final = 1
"""Label names repeat so often that higher levels gain little, and cost several times as much."""


class Page(NamedTuple):
    """An exposition, ready to be sent."""

    content_type: str
    content: bytes
    is_gzipped: bool


class Exposition(Collector):
    """The metrics of a server, from its arena. Any process that has the arena can have one.

    Args:
        arena: Where they are.
        config: Its limits are told.
        queues: What waits to be accepted now, as far as this process can tell.
        application: Metrics of the application. Where a name of the server's is among them, its
            own metric is left out, and a line in the log says so, once: the application's author
            knows what the name means there, and the dashboards that show it are older.
    """

    def __init__(
        self,
        arena: Arena,
        config: ServerConfig,
        *,
        queues: Callable[[], Iterable[SlotQueue]] = tuple,
        application: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._arena = arena
        self._totals = Totals(arena.layout)
        self._workers = Workers(arena.layout)
        self._queues = AcceptQueueMetrics(queues)
        self._in_flight = IN_FLIGHT.series()
        self._ring_dropped = RING_DROPPED.series()
        self._constants = constants(config)
        self._application = application
        self._told: set[str] = set()

    def page(self, accept: str = "", accept_encoding: str = "") -> Page:
        """The exposition as a client wants it.

        Args:
            accept: Accept fields, joined by commas.
            accept_encoding: Accept-Encoding fields, likewise.

        Raises:
            SharedMemoryError: The arena is damaged.
        """
        further = list(self._application())
        encoder = encoder_for(accept)
        readings = self._besides({metric.name for metric in further})
        content = encoder.encode(readings, further)
        is_gzipped = accepts_gzip(accept_encoding)
        if is_gzipped:
            content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
        return Page(encoder.content_type, content, is_gzipped)

    def _besides(self, taken: set[str]) -> Iterator[Reading]:
        """The server's metrics, without those whose names the application has taken."""
        for reading in self.readings():
            name = reading.family.name
            # What prometheus_client calls a counter has its suffix from the exposition alone.
            if name not in taken and f"{name}_total" not in taken:
                yield reading
            elif name not in self._told:
                self._told.add(name)
                logger.warning(
                    "the application has a metric %s: it takes the place of the server's", name
                )

    def collect(self) -> Iterator[Metric]:
        """The server's metrics for a registry of prometheus_client."""
        return (reading.metric() for reading in self.readings())

    def readings(self) -> list[Reading]:
        """The server's metrics as they are now.

        Raises:
            SharedMemoryError: The arena is damaged.
        """
        slots = live_slots(self._arena)
        in_flight = sum(slot.count_black_box() for slot in slots)
        dropped = sum(slot.ring_missed for slot in self._arena.slots)
        return [
            *self._totals.read(self._arena, slots),
            Reading(IN_FLIGHT, [(self._in_flight, (in_flight,))]),
            Reading(RING_DROPPED, [(self._ring_dropped, (dropped,))]),
            *self._queues.read(),
            *self._workers.read(slots),
            *self._constants,
        ]
