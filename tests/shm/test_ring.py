"""The ring: every record once, in order, whole; or counted as missed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pounce.shm.layout import CELL
from pounce.shm.ring import RingReader, RingWriter
from tests.shm.interleaving import ReaderMemory, WriterCells, WriterMemory

SIZE = 24
STRIDE = 16 + SIZE
NUMBER = struct.Struct("=Q")


def payload(number: int, length: int) -> bytes:
    """Different for each record, and of any length from 8 to `SIZE`."""
    return NUMBER.pack(number) + bytes((number * 7 + i) % 256 for i in range(length - 8))


class Ring:
    """A ring whose writer's stores become visible bit by bit; the model of what it holds."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.memory = WriterMemory(places * STRIDE + CELL)
        self._ring: Any = _Part(self.memory, places * STRIDE)
        self._count: Any = WriterCells(self.memory, places * STRIDE // CELL)
        self.written: dict[int, bytes] = {}
        self.writer = self._new_writer()

    def _new_writer(self) -> RingWriter:
        return RingWriter(self._ring, STRIDE, SIZE, self._count)

    def write(self, length: int) -> None:
        number: int = self._count[0]
        self.written[number] = payload(number, length)
        self.writer.write(self.written[number])

    def kill_writer(self) -> None:
        self.memory.lose_the_rest()
        self.writer = self._new_writer()

    def visible_count(self) -> int:
        return int(memoryview(self.memory.seen).cast("q")[self.places * STRIDE // CELL])

    def reader(self, steps: Iterator[int], position: int = 0) -> RingReader:
        """A reader before each of whose loads as many stores become visible as `steps` says."""

        def step() -> None:
            self.memory.advance(next(steps, 0))

        seen = memoryview(self.memory.seen)
        ring: Any = ReaderMemory(seen[: self.places * STRIDE], step)
        written: Any = ReaderMemory(seen[self.places * STRIDE :].cast("q"), step)
        return RingReader(ring, STRIDE, SIZE, written, position)


class _Part:
    """The first bytes of a `WriterMemory`, with a length of their own."""

    def __init__(self, memory: WriterMemory, size: int) -> None:
        self._memory = memory
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __setitem__(self, place: slice, data: bytes) -> None:
        self._memory[place] = data


def assert_read_right(ring: Ring, reader: RingReader, read: list[bytes], begin: int) -> None:
    """What was read is what was written at some of the positions that were passed, in order."""
    numbers = [NUMBER.unpack_from(record)[0] for record in read]
    assert numbers == sorted(set(numbers))
    assert all(begin <= number < reader.position for number in numbers)
    assert read == [ring.written[number] for number in numbers]


class RingMachine(RuleBasedStateMachine):
    """Any interleaving of a writer, which is killed at times, and two readers."""

    @initialize(places=st.integers(1, 4))
    def begin(self, places: int) -> None:
        self.ring = Ring(places)
        self.steps: list[int] = []
        self.readers = [self.ring.reader(iter(self._pop, None)) for _ in range(2)]
        self.delivered = [0, 0]
        self.was_cut = False

    def _pop(self) -> int:
        return self.steps.pop() if self.steps else 0

    @rule(length=st.integers(8, SIZE))
    def write(self, length: int) -> None:
        self.ring.write(length)
        self.was_cut = False

    @rule(stores=st.integers(1, 60))
    def advance(self, stores: int) -> None:
        self.ring.memory.advance(stores)

    @rule()
    def kill(self) -> None:
        self.ring.kill_writer()
        self.was_cut = True

    @rule(
        who=st.integers(0, 1),
        limit=st.none() | st.integers(1, 3),
        steps=st.lists(st.integers(0, 100), max_size=12),
    )
    def read(self, who: int, limit: int | None, steps: list[int]) -> None:
        reader = self.readers[who]
        self.steps = steps
        begin = reader.position
        read = reader.read(limit)
        self.steps = []
        assert limit is None or len(read) <= limit
        assert_read_right(self.ring, reader, read, begin)
        self.delivered[who] += len(read)

    @rule(who=st.integers(0, 1))
    def read_at_rest(self, who: int) -> None:
        """Nothing that is there is missed when the writer rests."""
        self.ring.memory.advance_to_end()
        reader = self.readers[who]
        begin = reader.position
        written = self.ring.visible_count()
        read = reader.read()
        oldest = written - self.ring.places
        kept = [self.ring.written[number] for number in range(max(begin, oldest), written)]
        # A write that was cut may have spoilt the record in its place, which was the oldest.
        assert read == kept or (self.was_cut and begin <= oldest and read == kept[1:])
        self.delivered[who] += len(read)
        assert reader.position == written

    @invariant()
    def every_record_is_delivered_or_missed(self) -> None:
        for reader, delivered in zip(self.readers, self.delivered, strict=True):
            assert delivered + reader.missed == reader.position


TestRing = RingMachine.TestCase


@given(
    places=st.integers(1, 3),
    before=st.integers(0, 5),
    length=st.integers(8, SIZE),
    data=st.data(),
)
def test_a_write_cut_at_any_byte_is_never_read(
    places: int, before: int, length: int, data: st.DataObject
) -> None:
    ring = Ring(places)
    for _ in range(before):
        ring.write(SIZE)
    ring.memory.advance_to_end()
    ring.write(length)
    cut = data.draw(st.integers(0, 16 + length), label="cut")
    ring.memory.advance(cut)
    ring.kill_writer()
    reader = ring.reader(iter(()))
    read = reader.read()
    assert all(record in ring.written.values() for record in read)
    # The place that was being overwritten held the oldest record, which may be lost with it.
    expected = list(range(max(0, before - places), before))
    assert read in ([ring.written[n] for n in expected], [ring.written[n] for n in expected[1:]])
    assert reader.missed + len(read) == before
    ring.write(length)
    ring.memory.advance_to_end()
    assert reader.read() == [ring.written[before]]


@given(st.integers(0, 10), st.integers(0, STRIDE * 8 - 1))
def test_a_changed_bit_is_seen(number: int, bit: int) -> None:
    ring = Ring(1)
    for _ in range(number + 1):
        ring.write(SIZE)
    ring.memory.advance_to_end()
    ring.memory.seen[bit // 8] ^= 1 << bit % 8
    reader = ring.reader(iter(()))
    assert reader.read() == []
    assert reader.missed == number + 1


def test_words_that_become_visible_in_any_order_are_no_record() -> None:
    """A processor with weak ordering may show the number of records before the record."""
    ring = Ring(2)
    for _ in range(4):
        ring.write(SIZE)
    ring.memory.advance_to_end()
    old = bytes(ring.memory.seen[:STRIDE])
    ring.write(SIZE)
    ring.memory.advance_to_end()
    new = bytes(ring.memory.seen[:STRIDE])
    words = range(0, STRIDE, CELL)
    for mask in range(2 ** len(words) - 1):
        for place, start in enumerate(words):
            source = new if mask >> place & 1 else old
            ring.memory.seen[start : start + CELL] = source[start : start + CELL]
        if ring.memory.seen[:STRIDE] == new:
            continue
        reader = ring.reader(iter(()), position=4)
        assert reader.read() == []
        assert reader.missed == 1


@pytest.mark.parametrize("length", [SIZE + 1, 1000])
def test_a_record_that_does_not_fit_is_refused(length: int) -> None:
    ring = Ring(2)
    with pytest.raises(ValueError, match=f"{length} bytes"):
        ring.writer.write(bytes(length))
    assert ring.visible_count() == 0


def test_records_may_be_empty() -> None:
    ring = Ring(2)
    ring.writer.write(b"")
    ring.memory.advance_to_end()
    assert ring.reader(count()).read() == [b""]
