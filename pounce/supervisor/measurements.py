"""The arena as the master keeps it: a slot for each worker that runs, and one of its own."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pounce.errors import SharedMemoryError
from pounce.metrics import catalogue
from pounce.metrics.accept_queues import note_listeners
from pounce.shm.arena import Arena, LayoutError
from pounce.shm.black_box import BlackBoxRecord
from pounce.shm.layout import Layout
from pounce.shm.slot import Slot
from pounce.supervisor.pool_events import (
    PoolEvent,
    WorkerExited,
    WorkerKilled,
    WorkerRecycled,
)
from pounce.supervisor.shared_arena import SharedArena
from pounce.worker.life import Counting

logger = logging.getLogger("pounce.error")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker process finds its slot; small, and pickled on its way there."""

    arena: str
    slots: int
    index: int
    has_clients: bool
    """Whether the application's own metrics are counted beside it."""

    def attach(self) -> Counting:
        """The slot, in the worker.

        Raises:
            SharedMemoryError: The arena is gone, or the master's is another version of Pounce.
        """
        try:
            arena = Arena.attach(self.arena, catalogue.layout(self.slots))
        except LayoutError as error:
            raise SharedMemoryError(
                f"Pounce on the disk is another version than that of the master, which SIGUSR2 "
                f"replaces as well: {error}"
            ) from error
        slot = arena.slots[self.index]
        # Before anything that takes its time: a slot without a process is soon another's.
        slot.start()
        return Counting(arena, slot)


class Measurements:
    """What the master does with the arena.

    Args:
        shared: The arena, which may have been another process's, and may become one's.
    """

    def __init__(self, shared: SharedArena) -> None:
        self.shared = shared
        self.arena = shared.arena
        self._slots: dict[int, Slot] = {}
        """By worker id."""
        self._own = shared.acquire(catalogue.MASTER_ID, 0)
        self._own.start()

    @property
    def layout(self) -> Layout:
        return self.arena.layout

    @property
    def slots_by_worker(self) -> Mapping[int, Slot]:
        """Those of the workers that have not ended, by worker id; it changes with them."""
        return self._slots

    def slot_of(self, worker_id: int) -> Slot:
        """The slot of a worker that has been given one.

        Raises:
            KeyError: It has none, or has ended.
        """
        return self._slots[worker_id]

    def assign(
        self, worker_id: int, generation: int, place: int, sockets: Sequence[socket.socket]
    ) -> Slot:
        """A slot for a worker that is about to start.

        Args:
            worker_id: Its number.
            generation: That of its configuration.
            place: The number of its slot in the pool.
            sockets: What it will listen on.

        Raises:
            SharedMemoryError: All are in use.
        """
        slot = self._slots[worker_id] = self.shared.acquire(worker_id, generation)
        note_listeners(slot, self.layout, place, sockets)
        return slot

    def place_of(self, worker_id: int) -> Place:
        """For a worker that is another process."""
        assert self.arena.name is not None
        return Place(
            self.arena.name,
            len(self.arena.slots),
            self._slots[worker_id].index,
            has_clients=self.shared.clients is not None,
        )

    def ended(self, worker_id: int) -> list[BlackBoxRecord]:
        """Keeps what a worker that has ended has counted, and frees its slot; what it was working
        on, the oldest first."""
        slot = self._slots.pop(worker_id, None)
        if slot is None:
            return []
        in_flight = slot.read_black_box()
        self.shared.retire(slot)
        return in_flight

    # What the master itself counts

    def count(self, event: PoolEvent) -> None:
        """Counts the ends of workers, and why they were replaced."""
        match event:
            case WorkerExited(reason=reason):
                self._count("worker_exits", catalogue.EXIT_REASONS.index(reason.value))
            case WorkerRecycled(reason=why):
                self._count_recycle(why)
            case WorkerKilled(recycled_for=why) if why:
                self._count_recycle(why)

    def _count_recycle(self, reason: str) -> None:
        reasons = catalogue.RECYCLE_REASONS
        index = reasons.index(reason if reason in reasons else catalogue.OTHER)
        self._count("worker_recycles", index)

    def count_reload(self, result: str) -> None:
        self._count("reloads", catalogue.RESULTS.index(result))

    def count_upgrade(self, result: str) -> None:
        self._count("upgrades", catalogue.RESULTS.index(result))

    def set_workers_wanted(self, number: int) -> None:
        self._own.cells[self.layout["workers_wanted"].start] = number

    def _count(self, name: str, index: int) -> None:
        self._own.cells[self.layout[name].index(index)] += 1
