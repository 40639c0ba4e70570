"""Arenas as servers fill them."""

from __future__ import annotations

from collections.abc import Mapping

from pounce.metrics import catalogue
from pounce.metrics.catalogue import MASTER_ID
from pounce.shm.arena import Arena
from pounce.shm.layout import Layout
from pounce.shm.slot import Slot, SlotState

LAYOUT: Layout = catalogue.layout(4)


def arena_with(*worker_ids: int) -> Arena:
    """An arena with a slot for each worker, all of them ready, in this process."""
    arena = Arena.anonymous(LAYOUT)
    for worker_id in worker_ids:
        add(arena, worker_id)
    return arena


def add(arena: Arena, worker_id: int, generation: int = 1) -> Slot:
    """One worker more."""
    slot = arena.acquire(worker_id, generation)
    slot.start()
    slot.state = SlotState.READY
    return slot


def add_master(arena: Arena) -> Slot:
    return add(arena, MASTER_ID)


def fill(slot: Slot, cells: Mapping[str, int]) -> None:
    """Give cells their values: by name, of a matrix or histogram the first one."""
    for name, value in cells.items():
        slot.cells[LAYOUT[name].start] = value
