"""The black box: who reads it sees what is in progress, whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pounce.shm.black_box import (
    BlackBoxRecord,
    BlackBoxWriter,
    clear_black_box,
    count_black_box,
    read_black_box,
)
from pounce.shm.layout import Layout
from tests.shm.interleaving import ReaderMemory, WriterMemory

SIZE = 20
STRIDE = Layout((), black_box_records=1, black_box_size=SIZE).black_box_stride


def text_of(stamp: int, length: int) -> bytes:
    return bytes((stamp * 31 + i) % 256 for i in range(length))


class BlackBoxMachine(RuleBasedStateMachine):
    """A writer whose stores become visible bit by bit, and a reader."""

    @initialize(records=st.integers(1, 4))
    def begin(self, records: int) -> None:
        self.records = records
        self.memory = WriterMemory(records * STRIDE)
        self.missed = memoryview(bytearray(8)).cast("q")
        memory: Any = self.memory
        self.writer = BlackBoxWriter(memory, STRIDE, SIZE, self.missed)
        self.in_progress: dict[int, BlackBoxRecord] = {}
        self.ever: set[BlackBoxRecord] = set()
        self.times_full = 0
        self.stamp = 0

    def read(self, steps: Iterator[int]) -> list[BlackBoxRecord]:
        def step() -> None:
            self.memory.advance(next(steps, 0))

        seen: Any = ReaderMemory(memoryview(self.memory.seen), step)
        return read_black_box(seen, STRIDE)

    @rule(length=st.integers(0, SIZE + 5))
    def take(self, length: int) -> None:
        self.stamp += 1
        record = BlackBoxRecord(self.stamp, text_of(self.stamp, length)[:SIZE])
        token = self.writer.take(self.stamp, text_of(self.stamp, length))
        if len(self.in_progress) == self.records:
            assert token < 0
            self.times_full += 1
            self.writer.release(token)
        else:
            assert token not in self.in_progress
            self.in_progress[token] = record
            self.ever.add(record)
        assert self.missed[0] == self.times_full

    @precondition(lambda self: self.in_progress)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.in_progress)))
        del self.in_progress[token]
        self.writer.release(token)

    @precondition(lambda self: self.in_progress)
    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        """Who keeps its record."""
        token = data.draw(st.sampled_from(sorted(self.in_progress)))
        self.stamp += 1
        self.writer.cells[token + 1] = self.stamp
        record = BlackBoxRecord(self.stamp, self.in_progress[token].text)
        self.in_progress[token] = record
        self.ever.add(record)

    @rule(stores=st.integers(1, 40))
    def advance(self, stores: int) -> None:
        self.memory.advance(stores)

    @rule(steps=st.lists(st.integers(0, 60), max_size=15))
    def read_meanwhile(self, steps: list[int]) -> None:
        found = self.read(iter(steps))
        assert found == sorted(found)
        assert set(found) <= self.ever

    @rule()
    def read_at_rest(self) -> None:
        self.memory.advance_to_end()
        assert self.read(iter(())) == sorted(self.in_progress.values())


TestBlackBox = BlackBoxMachine.TestCase


def test_a_record_that_is_replaced_while_it_is_read_is_one_or_the_other() -> None:
    """At every load of the reader, any number of the writer's stores become visible."""
    old, new = BlackBoxRecord(1, b"x" * SIZE), BlackBoxRecord(2, b"y" * SIZE)
    stores_of_both = 2 + SIZE + 2
    found = []
    for first, stores, second in product(range(6), range(stores_of_both + 1), range(6)):
        memory = WriterMemory(STRIDE)
        writer = BlackBoxWriter(memory, STRIDE, SIZE, memoryview(bytearray(8)).cast("q"))  # type: ignore[arg-type]
        token = writer.take(*old)
        memory.advance_to_end()
        writer.release(token)
        writer.take(*new)
        loads = count()

        def step() -> None:
            load = next(loads)  # noqa: B023
            if load == first:  # noqa: B023
                memory.advance(stores)  # noqa: B023
            if load == first + second:  # noqa: B023
                memory.advance_to_end()  # noqa: B023

        seen: Any = ReaderMemory(memoryview(memory.seen), step)
        found.append(tuple(read_black_box(seen, STRIDE)))
    assert set(found) == {(), (old,), (new,)}


@given(st.integers(0, SIZE), st.integers(0, 8 + SIZE))
def test_a_record_cut_at_any_byte_is_not_there(length: int, cut: int) -> None:
    memory = WriterMemory(STRIDE)
    writer = BlackBoxWriter(memory, STRIDE, SIZE, memoryview(bytearray(8)).cast("q"))  # type: ignore[arg-type]
    writer.release(writer.take(1, b"x" * SIZE))
    memory.advance_to_end()
    writer.take(2, b"y" * length)
    memory.advance(min(cut, length + 1))  # the text, the state; then the stamp
    memory.lose_the_rest()
    assert read_black_box(memoryview(memory.seen), STRIDE) == []


def test_what_is_as_good_as_over_is_there_until_it_is_settled() -> None:
    memory = memoryview(bytearray(4 * STRIDE))
    writer = BlackBoxWriter(memory, STRIDE, SIZE, memoryview(bytearray(8)).cast("q"))
    tokens = [writer.take(stamp, b"text") for stamp in (1, 2, 3, 4)]
    for token, stamp in zip(tokens, (-5, -6, 3, 0), strict=True):
        writer.cells[token + 1] = stamp
    stamps = [
        [record.stamp for record in read_black_box(memory, STRIDE, settled)]
        for settled in (0, 4, 5, 6, 7)
    ]
    assert stamps == [[-6, -5, 3], [-6, -5, 3], [-6, 3], [3], [3]]
    assert count_black_box(memory, STRIDE) == 1


def test_a_cleared_box_is_empty() -> None:
    memory = memoryview(bytearray(3 * STRIDE))
    missed = memoryview(bytearray(8)).cast("q")
    writer = BlackBoxWriter(memory, STRIDE, SIZE, missed)
    writer.take(2, b"second")
    writer.take(1, b"first")
    assert read_black_box(memory, STRIDE) == [(1, b"first"), (2, b"second")]
    clear_black_box(memory, STRIDE)
    assert read_black_box(memory, STRIDE) == []


def test_there_may_be_no_records() -> None:
    missed = memoryview(bytearray(8)).cast("q")
    nothing = memoryview(bytearray(0))
    writer = BlackBoxWriter(nothing, 0, 0, missed)
    writer.release(writer.take(1, b"lost"))
    assert missed[0] == 1
    assert read_black_box(nothing, 0) == []
    clear_black_box(nothing, 0)
