"""What an arena holds and where: the one place that decides on offsets.

| part | bytes | content |
| --- | --- | --- |
| header | 128 | cells: layout version, fingerprint, fold word, number of slots |
| retired | 2 x | serial, checksum and sums, twice: one copy is valid, the other the next one |
| slot | slots x | the parts below, padded to 128 bytes, so that no cache line has two writers |
| - identity | 128 | the cells of `pounce.shm.slot` |
| - cells | 8 each | counters and histograms, which are summed and retired; then gauges |
| - black box | records x | state, stamp, text cut to size |
| - ring | records x | checksum, length, sequence number, payload |

All numbers are 64-bit cells, aligned, in native byte order. A program may go on with an arena
when its own layout has the same fingerprint.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

LAYOUT_VERSION: Final = 3
"""Raised whenever the table above, or the meaning of a cell in it, changes."""

CELL: Final = 8
LINE: Final = 128
"""Two cache lines on x86-64, where they are fetched in pairs; one on Apple's processors."""
IDENTITY_SIZE: Final = 128
ARENA_HEADER_SIZE: Final = 128
RETIRED_HEADER_SIZE: Final = 16
BLACK_BOX_HEADER_SIZE: Final = 16
RING_HEADER_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Counter:
    """A number that only grows; with a `shape`, one for each element of a matrix."""

    name: str
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Cells of one element."""
        return 1


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that goes up and down, dropped when the worker ends. May be negative."""

    name: str
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Cells of one element."""
        return 1


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of observations by size, and their sum.

    `bounds` are the upper bounds of the buckets, inclusive and ascending, without the infinite
    one. They and the observations are integers of one unit, such as nanoseconds or bytes, so that
    the sum is exact.
    """

    name: str
    bounds: tuple[int, ...]
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Cells of one element: the buckets, the infinite one, the sum."""
        return len(self.bounds) + 2


Declaration = Counter | Gauge | Histogram


@dataclass(frozen=True, slots=True)
class Field:
    """Where the cells of a declaration are, counted from the first cell of a slot."""

    declaration: Declaration
    start: int

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def size(self) -> int:
        """Cells of all elements."""
        return math.prod(self.declaration.shape) * self.declaration.width

    def index(self, *element: int) -> int:
        """The first cell of an element; of a histogram that is its first bucket.

        Raises:
            IndexError: There is no such element.
        """
        shape = self.declaration.shape
        if len(element) != len(shape):
            raise IndexError(f"{self.name} has {len(shape)} dimensions, not {len(element)}")
        place = 0
        for i, length in zip(element, shape, strict=True):
            if not 0 <= i < length:
                raise IndexError(f"{self.name} has no element {element}: its shape is {shape}")
            place = place * length + i
        return self.start + place * self.declaration.width

    def elements(self) -> Iterator[tuple[tuple[int, ...], int]]:
        """Every element with its first cell, in the order of the cells."""
        elements = itertools.product(*map(range, self.declaration.shape))
        return zip(elements, itertools.count(self.start, self.declaration.width), strict=False)


@dataclass(frozen=True)
class Layout:
    """The layout of an arena, from what it is to hold. Equal declarations give equal layouts.

    Raises:
        ValueError: Two declarations have one name, or a number is out of range.
    """

    declarations: tuple[Declaration, ...]
    slots: int = 1
    """How many workers may exist at once, those that end included."""
    black_box_records: int = 0
    """Requests in flight that a worker can note at once."""
    black_box_size: int = 0
    """Bytes of text for each."""
    ring_records: int = 0
    ring_size: int = 0
    """Longest payload of a record in bytes."""

    _fields: dict[str, Field] = field(init=False, repr=False, compare=False)
    summed: int = field(init=False, repr=False, compare=False)
    """Cells of counters and histograms, the first ones of a slot."""
    cells: int = field(init=False, repr=False, compare=False)
    """Cells of a slot, with the gauges that follow."""

    def __post_init__(self) -> None:
        self._check()
        gauges = [each for each in self.declarations if isinstance(each, Gauge)]
        summed = [each for each in self.declarations if not isinstance(each, Gauge)]
        fields = dict(_placed(itertools.chain(summed, gauges)))
        object.__setattr__(self, "_fields", fields)
        object.__setattr__(self, "summed", sum(fields[each.name].size for each in summed))
        object.__setattr__(self, "cells", sum(each.size for each in fields.values()))

    def _check(self) -> None:
        names = [each.name for each in self.declarations]
        if len(set(names)) != len(names):
            raise ValueError("two declarations have one name")
        if not 1 <= self.slots < 1 << 15:
            raise ValueError("an arena has 1 to 32767 slots")
        if min(self.black_box_records, self.black_box_size, self.ring_records, self.ring_size) < 0:
            raise ValueError("numbers and sizes of records are not negative")
        if self.black_box_size >= 1 << 16:
            raise ValueError("a record of the black box has less than 64 KiB")
        for each in self.declarations:
            if any(length < 1 for length in each.shape):
                raise ValueError(f"{each.name}: every dimension has a length of at least 1")
            if isinstance(each, Histogram) and list(each.bounds) != sorted(set(each.bounds)):
                raise ValueError(f"{each.name}: bounds ascend")

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    @property
    def fields(self) -> Iterable[Field]:
        """All fields, in the order of their cells."""
        return self._fields.values()

    @cached_property
    def fingerprint(self) -> int:
        """A number that differs between layouts that differ in anything."""
        described = repr((LAYOUT_VERSION, sys.byteorder, self)).encode()
        digest = hashlib.blake2b(described, digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1  # fits into a signed cell

    @cached_property
    def black_box_stride(self) -> int:
        """Bytes from one record of the black box to the next."""
        return BLACK_BOX_HEADER_SIZE + _padded(self.black_box_size, CELL)

    @cached_property
    def ring_stride(self) -> int:
        """Bytes from one record of the ring to the next."""
        return RING_HEADER_SIZE + _padded(self.ring_size, CELL)

    @cached_property
    def black_box_start(self) -> int:
        """Offset of the black box in a slot."""
        return IDENTITY_SIZE + self.cells * CELL

    @cached_property
    def ring_start(self) -> int:
        """Offset of the ring in a slot."""
        return self.black_box_start + self.black_box_records * self.black_box_stride

    @cached_property
    def slot_size(self) -> int:
        """Bytes of a slot."""
        return _padded(self.ring_start + self.ring_records * self.ring_stride, LINE)

    @cached_property
    def retired_size(self) -> int:
        """Bytes of one copy of what ended workers have counted."""
        return _padded(RETIRED_HEADER_SIZE + self.summed * CELL, LINE)

    def retired_start(self, copy: int) -> int:
        """Offset of a copy, 0 or 1, in the arena."""
        return ARENA_HEADER_SIZE + copy * self.retired_size

    def slot_start(self, index: int) -> int:
        """Offset of a slot in the arena."""
        return ARENA_HEADER_SIZE + 2 * self.retired_size + index * self.slot_size

    @cached_property
    def size(self) -> int:
        """Bytes of the arena."""
        return self.slot_start(self.slots)


def _placed(declarations: Iterable[Declaration]) -> Iterator[tuple[str, Field]]:
    start = 0
    for declaration in declarations:
        placed = Field(declaration, start)
        yield placed.name, placed
        start += placed.size


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
