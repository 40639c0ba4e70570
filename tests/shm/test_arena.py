"""The arena as the master and its workers use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pounce.errors import SharedMemoryError
from pounce.shm.arena import Arena, LayoutError
from pounce.shm.histogram import observer, read_distribution
from pounce.shm.layout import Counter, Gauge, Histogram, Layout
from pounce.shm.slot import SlotState

LAYOUT = Layout(
    (
        Gauge("in_flight"),
        Counter("requests", (3, 2)),
        Histogram("duration", (10, 100)),
    ),
    slots=3,
    black_box_records=2,
    black_box_size=16,
    ring_records=4,
    ring_size=16,
)
REQUESTS = LAYOUT["requests"].index(1, 1)
IN_FLIGHT = LAYOUT["in_flight"].index()


@pytest.fixture(params=[Arena.create, Arena.anonymous], ids=["named", "anonymous"])
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    create: Callable[[Layout], Arena] = request.param
    with create(LAYOUT) as made:
        yield made


def test_totals_are_those_of_all_workers(arena: Arena) -> None:
    for worker in (1, 2):
        slot = arena.acquire(worker, 1)
        slot.cells[REQUESTS] += worker * 10
        slot.cells[IN_FLIGHT] += 1
        observer(slot.cells, LAYOUT["duration"])(worker * 50)
    totals = arena.totals()
    assert len(totals) == LAYOUT.summed
    assert totals[REQUESTS] == 30
    assert sum(totals) == 30 + 2 + 150
    assert read_distribution(totals, LAYOUT["duration"]).buckets == (0, 2, 2)


def test_what_a_worker_counted_outlives_it(arena: Arena) -> None:
    for generation in range(5):
        slot = arena.acquire(1, generation)
        slot.cells[REQUESTS] += 7
        slot.cells[IN_FLIGHT] -= 1
        arena.retire(slot)
        assert arena.totals()[REQUESTS] == 7 * (generation + 1)
        assert not any(slot.cells)
    assert arena.epoch == 10


def test_a_retired_slot_is_as_new(arena: Arena) -> None:
    slot = arena.acquire(4, 5)
    slot.start()
    slot.black_box_writer().take(1, b"GET /")
    slot.state = SlotState.READY
    assert (slot.worker_id, slot.generation, slot.pid) == (4, 5, os.getpid())
    assert slot.started_ns > 0 < slot.heartbeat_ns
    arena.retire(slot)
    assert (slot.worker_id, slot.generation, slot.pid, slot.started_ns) == (0, 0, 0, 0)
    assert slot.state is SlotState.FREE
    assert slot.read_black_box() == []
    assert arena.slots_in_use() == []


def test_more_workers_than_slots(arena: Arena) -> None:
    taken = {arena.acquire(worker, 1).index for worker in range(3)}
    assert taken == {0, 1, 2}
    with pytest.raises(SharedMemoryError, match="all 3 slots"):
        arena.acquire(4, 1)
    arena.retire(arena.slots[1])
    assert arena.acquire(4, 1).index == 1


def test_records_of_a_ring_outlive_the_worker(arena: Arena) -> None:
    slot = arena.acquire(1, 1)
    for number in range(6):
        slot.ring_writer().write(b"%d" % number)
    assert slot.drain_ring(limit=1) == [b"2"]
    arena.retire(slot)
    slot = arena.acquire(2, 1)
    slot.ring_writer().write(b"of the next")
    assert slot.drain_ring() == [b"3", b"4", b"5", b"of the next"]
    assert slot.ring_missed == 2
    assert slot.drain_ring() == []


def test_whoever_attaches_sees_the_same() -> None:
    with Arena.create(LAYOUT) as arena:
        assert arena.name is not None
        with Arena.attach(arena.name, LAYOUT) as other:
            slot = other.slots[arena.acquire(1, 1).index]
            slot.cells[REQUESTS] += 1
            assert arena.totals() == other.totals()
            assert arena.totals()[REQUESTS] == 1
            assert other.owner_pid == os.getpid()


def test_another_layout_is_refused() -> None:
    with Arena.create(LAYOUT) as arena:
        assert arena.name is not None
        for other in (
            replace(LAYOUT, slots=4),
            replace(LAYOUT, declarations=(*LAYOUT.declarations[:1], Counter("requests", (2, 3)))),
            replace(LAYOUT, declarations=(Gauge("other"), *LAYOUT.declarations[1:])),
        ):
            with pytest.raises(LayoutError, match=arena.name):
                Arena.attach(arena.name, other)


ADOPT = f"""
import sys
from pounce.shm.arena import Arena
from pounce.shm.layout import *
layout = {LAYOUT!r}
arena = Arena.attach(sys.argv[1], layout)
arena.adopt()
print(arena.owner_pid, flush=True)
sys.stdin.readline()
for slot in arena.slots_in_use():
    arena.retire(slot)
print(arena.totals()[{REQUESTS}], len(arena.slots_in_use()), flush=True)
arena.close()
"""


def test_an_arena_goes_from_one_master_to_the_next() -> None:
    arena = Arena.create(LAYOUT)
    assert arena.name is not None
    slot = arena.acquire(1, 1)
    slot.cells[REQUESTS] += 3
    arena.retire(slot)
    command = [sys.executable, "-c", ADOPT, arena.name]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as successor:
        assert successor.stdin is not None
        assert successor.stdout is not None
        assert int(successor.stdout.readline()) == successor.pid == arena.owner_pid
        slot = arena.acquire(2, 1)
        slot.cells[REQUESTS] += 1
        arena.retire(slot)  # from now on that is the successor's
        assert slot.state is SlotState.EXITED
        assert slot.cells[REQUESTS] == 1
        arena.close()
        Arena.attach(arena.name, LAYOUT).close()  # is still there
        print(file=successor.stdin, flush=True)
        assert successor.stdout.readline() == "4 0\n"
    with pytest.raises(SharedMemoryError, match="does not exist"):
        Arena.attach(arena.name, LAYOUT)
