"""The arena on its way from one process of the program to the next, so that totals go on.

For a while both use it. The one that serves owns it: it keeps what workers have counted that have
ended, also those of the other one. The new one takes its slots from the other end, so that both
never reach for the same one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import psutil

from pounce.errors import SharedMemoryError
from pounce.metrics import catalogue
from pounce.shm.arena import Arena
from pounce.shm.slot import Slot, SlotState

if TYPE_CHECKING:
    from pounce.metrics.client.store import ClientStore

logger = logging.getLogger("pounce.error")

Owner: TypeAlias = tuple[int, int]

SWEEP_PERIOD: Final = 2.0
"""Seconds between two looks for slots of the other process."""

START_PATIENCE: Final = 60.0
"""Seconds from the assignment of a slot to the first sign of its worker, at most."""

_MORE_IDS: Final = 100
"""The other process may still have to start some workers."""
_CLOCK_SLACK: Final = 2.0


class SharedArena:
    """The arena of this process, and perhaps of the one before it or after it.

    Args:
        arena: Created here, or attached to.
        clients: The application's own metrics, where they are counted; beside the arena.
        last_worker_id: The highest number of a worker that there may have been.
    """

    def __init__(
        self, arena: Arena, clients: ClientStore | None = None, last_worker_id: int = 0
    ) -> None:
        self.arena = arena
        self.clients = clients
        self.last_worker_id = last_worker_id
        self._is_first = arena.owner_pid == os.getpid()
        self._own: set[int] = set()
        """The indices of the slots that this process has acquired."""
        self._without_pid: dict[int, float] = {}
        """Since when a slot of the other process was seen to have no process of its own."""
        self.is_handed_over: Callable[[], bool] = lambda: False
        """Whether another process was told to take over."""

    @classmethod
    def create(cls, slots: int, *, share_with: Owner | None, has_clients: bool) -> Self:
        """A new one.

        Args:
            slots: For workers and the master.
            share_with: User and group id that workers go on as, where that is not this user's.
            has_clients: Whether the application's own metrics are counted.

        Raises:
            SharedMemoryError: There is not enough shared memory.
        """
        arena = Arena.create(catalogue.layout(slots))
        if not has_clients:
            return cls(arena)
        from pounce.metrics.client.store import ClientStore

        assert arena.name is not None
        try:
            return cls(arena, ClientStore.create(arena.name, slots, share_with=share_with))
        except BaseException:
            arena.close()
            raise

    @classmethod
    def attach(
        cls,
        state: Mapping[str, Any],
        needed: int,
        *,
        share_with: Owner | None,
        has_clients: bool,
    ) -> Self:
        """The one of the process before, from what that one `describe`d.

        Args:
            state: The description.
            needed: Slots that this process may need.
            share_with, has_clients: As in `create`.

        Raises:
            SharedMemoryError: It is gone, laid out by another version, or too small.
        """
        slots: int = state["slots"]
        from pounce.metrics.client.store import ClientStore

        arena = Arena.attach(state["name"], catalogue.layout(slots))
        try:
            # The process before may be killed, and any server that starts then looks for leftovers.
            arena.become_heir()
            if slots - len(arena.slots_in_use()) < needed:
                raise SharedMemoryError(f"{slots} slots of shared memory are too few now")
            clients: ClientStore | None
            try:
                clients = ClientStore.attach(state["name"], share_with=share_with)
            except SharedMemoryError:
                clients = None
            if has_clients and clients is None:
                # The process before did not count them.
                clients = ClientStore.create(state["name"], slots, share_with=share_with)
        except SharedMemoryError:
            arena.close()
            raise
        return cls(arena, clients, state["last_worker_id"] + _MORE_IDS)

    def describe(self, last_worker_id: int) -> dict[str, Any]:
        """For `attach` in the next process, ready for JSON."""
        return {
            "name": self.arena.name,
            "slots": len(self.arena.slots),
            "last_worker_id": last_worker_id,
        }

    def acquire(self, worker_id: int, generation: int) -> Slot:
        """A slot for a worker of this process. Raises `SharedMemoryError`."""
        slot = self.arena.acquire(worker_id, generation, last=not self._is_first)
        self._own.add(slot.index)
        if self.clients is not None and worker_id != catalogue.MASTER_ID:
            self.clients.assign(slot.index)
        return slot

    def retire(self, slot: Slot) -> None:
        """Keep what a worker of this process has counted, which has ended."""
        self._own.discard(slot.index)
        if self.is_handed_over():
            # The next owner may be at it.
            if self.clients is not None:
                self.clients.end(slot.index)
            slot.state = SlotState.EXITED
        else:
            self._retire(slot)

    def _retire(self, slot: Slot) -> None:
        self._without_pid.pop(slot.index, None)
        if self.clients is not None:
            self.clients.retire(slot.index)
        self.arena.retire(slot)

    def adopt(self) -> None:
        """This process serves now."""
        try:
            self.arena.adopt()
            if self.clients is not None:
                self.clients.adopt()
        except SharedMemoryError as error:
            logger.error("%s", error)

    async def keep_swept(self) -> None:
        """Keeps what workers of the other process have counted as they end, for ever."""
        while True:
            await asyncio.sleep(SWEEP_PERIOD)
            self.sweep()

    def sweep(self) -> None:
        """Retires the slots of workers of the other process that have ended."""
        if self.is_handed_over():
            return
        if self.arena.owner_pid != os.getpid():
            if psutil.pid_exists(self.arena.owner_pid):
                return
            # It had taken over, and has failed nevertheless.
            self.adopt()
        for slot in self.arena.slots_in_use():
            if slot.index not in self._own and self._has_ended(slot):
                self._retire(slot)

    def _has_ended(self, slot: Slot) -> bool:
        """Whether a worker of the other process has. One that is about to start has no pid yet, and
        has none for long when that process has failed."""
        if slot.state is SlotState.EXITED:
            return True
        if slot.pid:
            self._without_pid.pop(slot.index, None)
            return _is_left(slot)
        now = time.monotonic()
        return now - self._without_pid.setdefault(slot.index, now) > START_PATIENCE

    def close(self) -> None:
        """Gives it up, and removes it unless another process has taken it over."""
        if self.is_handed_over():
            for index in self._own:
                self.arena.slots[index].state = SlotState.EXITED
        if self.clients is not None:
            self.clients.close()
        self.arena.close()


def _is_left(slot: Slot) -> bool:
    """Whether there is no such process any more."""
    try:
        process = psutil.Process(slot.pid)
        return process.create_time() > slot.started_ns / 1e9 + _CLOCK_SLACK
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
