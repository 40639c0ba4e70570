"""The black box: what a worker is doing now, for those who ask after it has died or hung.

A record is a state cell, a stamp cell and text. State and stamp of a free one are 0. A record is
written while it is free: the text, its state, a sequence number above the length, and the stamp; so
a reader that finds the same state before and after has read one record, whole.

Who does the same thing again and again keeps its record: one store of a stamp says that it has
begun again, and one of a negative stamp that it is as good as over. Over it is when the slot's
settled cell has come to that number, so one store there ends all that are; or with a stamp of 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pounce.shm.layout import BLACK_BOX_HEADER_SIZE, CELL

_LENGTH_BITS: Final = 16
_LENGTH_MASK: Final = (1 << _LENGTH_BITS) - 1
_NEXT: Final = 1 << _LENGTH_BITS
_ATTEMPTS: Final = 3


class BlackBoxRecord(NamedTuple):
    """Something that is going on."""

    stamp: int
    """What the writer gave, such as when it began; negative for what is as good as over."""
    text: bytes


class BlackBoxWriter:
    """The writing side, in the worker. All records are free at first.

    Args:
        memory: The bytes of the black box; their number is a multiple of the stride.
        stride: Bytes of a record with its state and stamp.
        size: Bytes of text that a record has.
        missed: A view whose first cell counts how often no record was free.
    """

    def __init__(self, memory: memoryview, stride: int, size: int, missed: memoryview) -> None:
        self.cells = self._cells = memory.cast("q")
        """For who keeps its record: `cells[token + 1]` is the stamp."""
        self._memory = memory
        self._size = size
        self._sequence = 0
        width = stride // CELL
        # Counted backwards, so that the first records are taken first.
        self._free = list(range(len(self._cells) - width, -1, -width)) if stride else []
        for token in self._free:
            self._cells[token + 1] = self._cells[token] = 0
        self._reserve = len(self._free) // 4
        self._missed = missed
        self.is_scarce = self._reserve == 0
        """Whether so few records are free that nobody should keep one."""

    def take(self, stamp: int, text: bytes) -> int:
        """Note that something has begun; `text` is cut to size. What comes back is for
        `release()`, once. Where no record is free, the missing one is counted."""
        try:
            token = self._free.pop()
        except IndexError:
            self._missed[0] += 1
            return -1
        length = len(text)
        if length > self._size:
            length = self._size
            text = text[:length]
        cells = self._cells
        begin = token * CELL + BLACK_BOX_HEADER_SIZE
        self._memory[begin : begin + length] = text
        self._sequence = sequence = self._sequence + _NEXT
        cells[token] = sequence | length
        cells[token + 1] = stamp
        self.is_scarce = len(self._free) <= self._reserve
        return token

    def release(self, token: int) -> None:
        """Note that it has ended."""
        if token >= 0:
            self._cells[token + 1] = self._cells[token] = 0
            self._free.append(token)
            self.is_scarce = len(self._free) <= self._reserve


def read_black_box(memory: memoryview, stride: int, settled: int = 0) -> list[BlackBoxRecord]:
    """What is going on, by stamp and then by place, but for what was as good as over and is
    `settled`. A record that changes while it is read is read again, and left out when it does not
    stay: then it was not the one that hangs."""
    if not stride:
        return []
    records = []
    with memory.cast("q") as cells:
        for start in range(0, len(memory), stride):
            record = _read_record(memory, cells, start)
            if record is not None and not -settled <= record.stamp <= 0:
                records.append(record)
    return sorted(records, key=lambda record: record.stamp)


def count_black_box(memory: memoryview, stride: int) -> int:
    """How much is going on, without what is as good as over."""
    if not stride:
        return 0
    with memory.cast("q") as cells:
        stamps = cells[1 :: stride // CELL].tolist()
    return sum(stamp > 0 for stamp in stamps)


def _read_record(memory: memoryview, cells: memoryview, start: int) -> BlackBoxRecord | None:
    state_cell = start // CELL
    for _ in range(_ATTEMPTS):
        state = cells[state_cell]
        if not state:
            return None
        stamp = cells[state_cell + 1]
        begin = start + BLACK_BOX_HEADER_SIZE
        text = bytes(memory[begin : begin + (state & _LENGTH_MASK)])
        if cells[state_cell] == state:
            return BlackBoxRecord(stamp, text)
    return None


def clear_black_box(memory: memoryview, stride: int) -> None:
    """Free all records of a writer that has ended."""
    if stride:
        with memory.cast("q") as cells:
            for start in range(0, len(memory), stride):
                at = start // CELL
                cells[at + 1] = cells[at] = 0
