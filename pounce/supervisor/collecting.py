"""The lifecycle collector of a pool: it gets the events of all workers, in the main process.

Workers leave their events in their rings, and the master's loop takes them out; the collector is
called in a thread of its own, so that it may take its time.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from typing import Final

from pounce.lifecycle import LifecycleCollector, NoopCollector, safe_record
from pounce.shm.slot import Slot
from pounce.supervisor.measurements import Measurements
from pounce.worker.event_ring import event_of

logger = logging.getLogger("pounce.error")

PERIOD: Final = 0.02
"""Seconds between two looks at the rings: each holds the events of that time many times over."""

END_PATIENCE: Final = 5.0
"""Seconds that a collector gets for what is left when the server ends."""


def collecting(
    collector: LifecycleCollector | None, measurements: Measurements | None
) -> Collecting | None:
    """For the arguments see there; None where nobody wants the events, or can leave them."""
    if collector is None or isinstance(collector, NoopCollector) or measurements is None:
        return None
    return Collecting(collector, measurements)


class Collecting:
    """Brings events from rings to a collector.

    Args:
        collector: The user's; its failures are logged and do no harm.
        measurements: Where the rings are.
    """

    def __init__(self, collector: LifecycleCollector, measurements: Measurements) -> None:
        self._measurements = measurements
        self._record = safe_record(collector)
        self._records: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._collect, name="collector", daemon=True)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in the running event loop."""
        self._thread.start()
        self._task = asyncio.ensure_future(self._drain_for_ever())

    def drain(self, slot: Slot) -> None:
        """Takes what a worker has left, such as one that has ended."""
        records = slot.drain_ring()
        if records:
            self._records.put(records)

    def close(self) -> None:
        """Hands over what is left, and waits for the collector, within reason."""
        if self._task is not None:
            self._task.cancel()
        self._drain_all()
        self._records.put(None)
        self._thread.join(END_PATIENCE)
        if self._thread.is_alive():
            logger.warning("the lifecycle collector did not keep up: some events are lost")

    async def _drain_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            self._drain_all()

    def _drain_all(self) -> None:
        for slot in [*self._measurements.slots_by_worker.values()]:
            self.drain(slot)

    def _collect(self) -> None:
        while (records := self._records.get()) is not None:
            for record in records:
                try:
                    event = event_of(record)
                except ValueError as error:
                    logger.warning("a lifecycle event is lost: %s", error)
                else:
                    self._record(event)
