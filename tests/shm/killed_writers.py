"""Kills writers with -9 at random moments, and says what was found: a program, so that its
process is small and forks fast.

    python killed_writers.py workers KILLS    writers that count are killed, and retired
    python killed_writers.py owners KILLS     owners that retire are killed, and succeeded
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable

from pounce.shm.arena import Arena
from pounce.shm.histogram import observer, read_distribution
from pounce.shm.layout import Counter, Gauge, Histogram, Layout
from pounce.shm.slot import RING_WRITTEN, Slot, SlotState

LAYOUT = Layout(
    (
        Counter("requests", (4,)),
        Counter("done"),
        Histogram("duration", (100, 1000)),
        Gauge("begun"),
        Gauge("ended"),
    ),
    slots=3,
    black_box_records=4,
    black_box_size=32,
    ring_records=8,
    ring_size=16,
)
DONE = LAYOUT["done"].index()
DURATION = LAYOUT["duration"]
BEGUN = LAYOUT["begun"].index()
ENDED = LAYOUT["ended"].index()


def fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def count_for_ever(arena: Arena, index: int, acknowledge: int) -> None:
    """What a worker does for a request, and a byte for each that was counted."""
    slot = arena.slots[index]
    slot.start()
    cells, box, ring = slot.cells, slot.black_box_writer(), slot.ring_writer()
    observe = observer(cells, DURATION)
    number = 0
    while True:
        token = box.take(number, b"request %d" % number)
        cells[number % 4] += 1
        observe(number % 2000)
        cells[DONE] += 1
        ring.write(b"%d" % number)
        number += 1
        os.write(acknowledge, b".")
        box.release(token)


def read_all(fd: int) -> int:
    size = 0
    while data := os.read(fd, 1 << 16):
        size += len(data)
    return size


def check_counts(slot: Slot, acknowledged: int) -> None:
    """Every store before the kill is there, and none after it."""
    cells = slot.cells
    done = cells[DONE]
    assert done - 1 <= acknowledged <= done, (acknowledged, done)
    requests = sum(cells[:4])
    assert done <= requests <= done + 1, (requests, done)
    for cell in range(4):
        assert cells[cell] == len(range(cell, requests, 4)), (cell, cells[:4].tolist())
    durations = read_distribution(cells, DURATION)
    assert done <= durations.count <= requests, (durations, done, requests)
    sums = [sum(i % 2000 for i in range(count)) for count in (done, durations.count)]
    assert durations.sum in sums, (durations, sums)


def check_records(slot: Slot, written_before: int) -> None:
    done = slot.cells[DONE]
    in_progress = slot.read_black_box()
    possible = [[], *([(number, b"request %d" % number)] for number in (done - 1, done))]
    assert in_progress in possible, (in_progress, done)
    written = slot.identity[RING_WRITTEN] - written_before
    assert done - 1 <= written <= done, (written, done)
    records = [int(record) for record in slot.drain_ring()]
    expected = list(range(max(0, written - LAYOUT.ring_records), written))
    # The oldest one may have been the one that was being overwritten.
    assert records in (expected, expected[1:]), (records, expected)


def kill_workers(kills: int) -> dict[str, object]:
    counted = [0] * LAYOUT.summed
    with Arena.create(LAYOUT) as arena:
        last = arena.totals()
        for number in range(kills):
            slot = arena.acquire(number, 1)
            written = slot.identity[RING_WRITTEN]
            ours, theirs = os.pipe()
            worker = fork(lambda: count_for_ever(arena, slot.index, theirs))  # noqa: B023
            os.close(theirs)
            time.sleep(random.uniform(0, 0.004))
            kill(worker)
            check_counts(slot, read_all(ours))
            check_records(slot, written)
            os.close(ours)
            values = slot.cells.tolist()[: LAYOUT.summed]
            before = arena.totals()
            counted = [a + b for a, b in zip(counted, values, strict=True)]
            assert before == counted
            arena.retire(slot)
            assert arena.totals() == counted
            assert all(a <= b for a, b in zip(last, before, strict=True))
            last = counted
        return {"kills": kills, "counted": counted[DONE]}


def retire_for_ever(name: str) -> None:
    """An owner that gives slots to workers and retires them."""
    arena = Arena.attach(name, LAYOUT)
    arena.adopt()
    # Nobody else will: the process that had them is dead.
    for left in arena.slots_in_use()[1:]:
        arena.retire(left)
    journal = arena.slots[0].cells
    # What was begun was done, or not: from the total it can be told.
    journal[BEGUN] = journal[ENDED] = arena.totals()[DONE]
    number = 0
    while True:
        slot = arena.acquire(number, 1)
        for _ in range(3):
            journal[BEGUN] += 1
            slot.cells[DONE] += 1
            journal[ENDED] += 1
        arena.retire(slot)
        number += 1


def kill_owners(kills: int) -> dict[str, object]:
    half_done = reads = 0
    with Arena.create(LAYOUT) as arena:
        assert arena.name is not None
        journal = arena.acquire(0, 0).cells
        last = 0
        for _ in range(kills):
            owner = fork(lambda: retire_for_ever(str(arena.name)))
            end = time.monotonic() + random.uniform(0.001, 0.006)
            while time.monotonic() < end:
                low = journal[ENDED]
                total = arena.totals()[DONE]
                high = journal[BEGUN]
                assert low <= total <= high, (low, total, high)
                assert total >= last, (total, last)
                last = total
                reads += 1
            kill(owner)
            half_done += arena.epoch % 2
            # A reader does not need a successor.
            total = arena.totals()[DONE]
            assert journal[ENDED] <= total <= journal[BEGUN]
            assert last <= total
            last = total
        arena.adopt()
        assert arena.epoch % 2 == 0
        for slot in arena.slots_in_use()[1:]:
            assert slot.state in (SlotState.STARTING, SlotState.EXITED)
            arena.retire(slot)
        assert arena.totals()[DONE] == last
        return {"kills": kills, "counted": last, "half done": half_done, "reads": reads}


if __name__ == "__main__":
    kind, kills = sys.argv[1], int(sys.argv[2])
    print(json.dumps(kill_workers(kills) if kind == "workers" else kill_owners(kills)))
