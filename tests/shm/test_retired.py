"""Totals are right at every moment of a fold, and never fall."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pounce.errors import SharedMemoryError
from pounce.shm import retired as retired_module
from pounce.shm.arena import Arena
from pounce.shm.layout import CELL, IDENTITY_SIZE, Counter, Gauge, Histogram, Layout
from pounce.shm.slot import RING_MISSED
from tests.shm.interleaving import ReaderMemory

LAYOUT = Layout((Gauge("g"), Counter("c", (3,)), Histogram("h", (10,))), slots=3)


def fold_in_steps(arena: Arena, index: int, cleared: int) -> Iterator[None]:
    """A fold that stops after each step, and when `cleared` bytes of the third one are done."""
    retired = arena._retired
    retired.write_copy(index)
    yield
    retired.switch_to_copy(index)
    yield
    arena.slots[index].cells.cast("B")[:cleared] = bytes(cleared)
    yield
    retired.recover()
    yield


class FoldMachine(RuleBasedStateMachine):
    """Workers count, come and go; the owner folds in steps, and dies between any two; a reader
    reads meanwhile."""

    @initialize()
    def begin(self) -> None:
        self.arena = Arena.create(LAYOUT)
        assert self.arena.name is not None
        # The reader has mapped it on its own, like another process.
        self.other = Arena.attach(self.arena.name, LAYOUT)
        self.counted = [0] * LAYOUT.summed
        self.last = list(self.counted)
        self.fold: Iterator[None] = iter(())
        self.folding: int | None = None
        self.schedule: list[int] = []
        self._hook_loads()

    def teardown(self) -> None:
        for name in ("other", "arena"):
            if hasattr(self, name):
                getattr(self, name).close()

    def _hook_loads(self) -> None:
        """Before every load of the reader, something may happen."""
        retired: Any = self.other._retired

        def step() -> None:
            for _ in range(self.schedule.pop() if self.schedule else 0):
                self.step_of_fold()
                self.count_somewhere(0)

        retired._word = ReaderMemory(retired._word, step)
        retired._summed = [ReaderMemory(view, step) for view in retired._summed]

    def count_somewhere(self, cell: int) -> None:
        for slot in self.arena.slots_in_use():
            if slot.index != self.folding:
                slot.cells[cell] += 1
                self.counted[cell] += 1

    @rule(worker=st.integers(1, 5))
    def start_worker(self, worker: int) -> None:
        if len(self.arena.slots_in_use()) < LAYOUT.slots:
            slot = self.arena.acquire(worker, 1)
            assert not any(slot.cells)

    @rule(cell=st.integers(0, LAYOUT.summed - 1))
    def count(self, cell: int) -> None:
        self.count_somewhere(cell)

    @rule(index=st.integers(0, LAYOUT.slots - 1), cleared=st.integers(0, LAYOUT.cells * CELL))
    def end_worker(self, index: int, cleared: int) -> None:
        if self.folding is None and self.arena.slots[index] in self.arena.slots_in_use():
            self.folding = index
            self.fold = fold_in_steps(self.arena, index, cleared)

    @rule()
    def step_of_fold(self) -> None:
        if self.folding is not None and next(self.fold, "end") == "end":
            self.folding = None

    @rule()
    def owner_dies(self) -> None:
        """Its successor finishes what was begun; if nothing was, the worker is still there."""
        was_switched = self.arena.epoch % 2 == 1
        self.fold = iter(())
        self.arena.adopt()
        assert self.arena.epoch % 2 == 0
        if was_switched and self.folding is not None:
            assert not any(self.arena.slots[self.folding].cells)
        self.folding = None

    @rule(schedule=st.lists(st.integers(0, 3), max_size=20))
    def read(self, schedule: list[int]) -> None:
        self.schedule = schedule
        before = list(self.counted)
        found = self.other.totals()
        self.schedule = []
        for low, value, high, last in zip(before, found, self.counted, self.last, strict=True):
            assert low <= value <= high
            assert value >= last
        self.last = found

    @rule()
    def read_at_rest(self) -> None:
        assert self.other.totals() == self.arena.totals() == self.counted


TestFold = FoldMachine.TestCase


@pytest.fixture
def arena() -> Iterator[Arena]:
    with Arena.anonymous(LAYOUT) as made:
        yield made


@given(cells=st.lists(st.integers(0, 2**61), min_size=LAYOUT.summed, max_size=LAYOUT.summed))
def test_cells_of_any_size_do_not_spill_into_each_other(cells: list[int]) -> None:
    with Arena.anonymous(LAYOUT) as arena:
        for _ in range(2):
            slot = arena.acquire(1, 1)
            for index, value in enumerate(cells):
                slot.cells[index] = value
            arena.retire(slot)
        slot = arena.acquire(1, 1)
        for index, value in enumerate(cells):
            slot.cells[index] = value - value // 2
        assert arena.totals() == [3 * value - value // 2 for value in cells]


def test_damaged_sums_are_an_error(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retired_module, "_PATIENCE", 0.01)
    slot = arena.acquire(1, 1)
    slot.cells[0] += 1
    arena.retire(slot)
    copy = arena._retired._copies[1]
    copy[16] ^= 1
    with pytest.raises(SharedMemoryError, match="damaged"):
        arena.totals()
    with pytest.raises(SharedMemoryError, match="damaged"):
        arena.retire(arena.acquire(1, 1))
    copy[16] ^= 1
    assert arena.totals()[0] == 1


def test_a_fold_that_shows_its_word_before_its_sums_waits_for_them(arena: Arena) -> None:
    """A processor with weak ordering may do that. What it shows instead was valid before."""
    for _ in range(2):
        slot = arena.acquire(1, 1)
        slot.cells[1] = 1
        arena.retire(slot)
    slot = arena.acquire(1, 1)
    slot.cells[1] = 5
    retired: Any = arena._retired
    old = bytes(retired._copies[1])
    retired.write_copy(slot.index)
    new = bytes(retired._copies[1])
    retired.switch_to_copy(slot.index)
    retired._copies[1][:] = old
    loads = 0

    def step() -> None:
        nonlocal loads
        loads += 1
        if loads == 5:
            retired._copies[1][:] = new

    retired._word = ReaderMemory(retired._word, step)
    assert arena.totals()[1] == 7
    assert loads > 5


def test_identity_fits_into_its_place() -> None:
    assert (RING_MISSED + 1) * CELL <= IDENTITY_SIZE
