"""Blocks of bytes that one process hands out and others read, in as many segments as it takes.

A chain has a name of its own below that of an arena, and its segments have numbers, so whoever
reads it finds new ones by trying the next number. A segment begins with 128 bytes:

| cell | content |
| --- | --- |
| 0 | version: goes up when a block is published or freed, and when a further segment is made |
| 1 | bytes in use for blocks, those that are free again included |

Blocks follow, one after the other, and stay where they are. Each is

| cell | content |
| --- | --- |
| 0 | bytes of content |
| 1 | 0: free; otherwise a number that no other use of the block has had |
| 2 | content |

All is written by one process. What is read between two equal versions belongs together: a freed
block is used for something else only after the version has gone up.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from pounce.shm import names
from pounce.shm.fence import fence
from pounce.shm.layout import CELL
from pounce.shm.segment import Segment, SegmentNotFoundError, unlink

SEGMENT_SIZE: Final = 1 << 16

_HEADER_SIZE: Final = 128
_VERSION, _USED = 0, 1
_BLOCK_HEADER_SIZE: Final = 2 * CELL
_LEAST: Final = 2 * CELL
_ATTEMPTS: Final = 100


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Bytes that stay in one place, aligned for cells."""

    content: memoryview
    """Writable; `content.cast("q")` and `content.cast("d")` make cells of it."""
    _cells: memoryview
    """Of the whole segment."""
    _use: int
    """The cell of the block that has the number of its use."""

    @property
    def segment(self) -> memoryview:
        """The segment that it is part of, for who reads many blocks at once."""
        return self._cells

    @property
    def start(self) -> int:
        """Where the content begins in the segment, in bytes."""
        return (self._use + 1) * CELL


class ChainWriter:
    """The side that hands blocks out. There is one in the life of a chain.

    Args:
        name: The chain's; that of an arena with a number is removed with the arena.
        segment_size: Bytes of each segment, unless a block needs more.
    """

    def __init__(self, name: str, *, segment_size: int = SEGMENT_SIZE) -> None:
        self.name = name
        self._segment_size = segment_size
        self._segments: list[Segment] = []
        self._content = self._cells = memoryview(b"")
        """Of the last segment, out of which new blocks are carved."""
        self._free: defaultdict[int, list[Block]] = defaultdict(list)
        self._uses = 0

    def __repr__(self) -> str:
        return f"<ChainWriter {self.name}, {len(self._segments)} segments>"

    def allocate(self, size: int) -> Block:
        """A block of at least `size` bytes, all zero, which nobody sees before `publish()`.

        Sizes are rounded up to powers of two, so that what is freed fits again.

        Raises:
            SharedMemoryError: There is not enough shared memory.
        """
        rounded = max(_LEAST, 1 << (size - 1).bit_length())
        free = self._free[rounded]
        if free:
            block = free.pop()
            block.content[:] = bytes(rounded)
            return block
        return self._carve(rounded)

    def publish(self, block: Block) -> None:
        """Let readers see a block, when what they need to know it by has been written."""
        self._uses += 1
        fence()
        block._cells[block._use] = self._uses
        block._cells[_VERSION] += 1

    def free(self, block: Block) -> None:
        """Take a block back, published or not. Nothing may be written into it any more."""
        block._cells[block._use] = 0
        block._cells[_VERSION] += 1
        fence()
        self._free[len(block.content)].append(block)

    def close(self) -> None:
        """Stop writing. What was published stays, until somebody calls `remove_chain()`."""
        self._free.clear()
        for segment in self._segments:
            segment.close(keep_name=True)

    def _carve(self, size: int) -> Block:
        needed = _BLOCK_HEADER_SIZE + size
        if not self._segments or self._cells[_USED] + needed > self._cells.nbytes - _HEADER_SIZE:
            self._add_segment(needed)
        cells = self._cells
        start = _HEADER_SIZE + cells[_USED]
        cells[start // CELL] = size
        fence()
        cells[_USED] += needed
        return _block_at(self._content, cells, start, size)

    def _add_segment(self, needed: int) -> None:
        segment = Segment.create(
            _HEADER_SIZE + -(-max(self._segment_size, needed) // CELL) * CELL,
            names.further_name(self.name, len(self._segments)),
        )
        self._segments.append(segment)
        if len(self._segments) > 1:
            fence()
            self._cells[_VERSION] += 1  # so that readers look for the new one
        self._content = segment.content
        self._cells = self._content.cast("q")


class ChainReader:
    """A side that reads. Any number of them may exist, and none holds up the writer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._segments: list[_Read] = []
        self._blocks: list[Block] = []

    def __repr__(self) -> str:
        return f"<ChainReader {self.name}, {len(self._segments)} segments>"

    def blocks(self) -> list[Block]:
        """The blocks that are published now, in the order of their places; each is the same
        object as the time before, as long as it is in the same use. Where nothing has changed,
        the list is the same object, too."""
        if not self._segments or not self.is_current():
            self._attach_new_ones()
            found = (read.blocks() for read in self._segments)
            self._blocks = list(itertools.chain.from_iterable(found))
        return self._blocks

    def is_current(self) -> bool:
        """Whether the blocks of the last call are still in the same use, so that what was read
        from them since belongs to them. There may be new ones in further segments."""
        fence()
        for read in self._segments:  # noqa: SIM110 - a generator takes twice as long
            if not read.is_current():
                return False
        return True

    def close(self) -> None:
        """Stop reading."""
        segments, self._segments = self._segments, []
        self._blocks = []
        for read in segments:
            read.segment.close()

    def _attach_new_ones(self) -> None:
        with contextlib.suppress(SegmentNotFoundError):
            while True:
                name = names.further_name(self.name, len(self._segments))
                self._segments.append(_Read(Segment.attach(name)))


class _Read:
    """A segment that is read, and its blocks as of the last version that was seen."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._content = segment.content
        self._cells = self._content.cast("q")
        self._version = 0
        self._blocks: dict[tuple[int, int], Block] = {}
        """By place and use."""

    def is_current(self) -> bool:
        return self._cells[_VERSION] == self._version

    def blocks(self) -> list[Block]:
        for _ in range(_ATTEMPTS):
            if self.is_current():
                break
            version = self._cells[_VERSION]
            fence()
            self._blocks = self._walk()
            fence()
            self._version = version
        return list(self._blocks.values())

    def _walk(self) -> dict[tuple[int, int], Block]:
        found = {}
        cells = self._cells
        start, end = _HEADER_SIZE, _HEADER_SIZE + cells[_USED]
        while start < end:
            size, use = cells[start // CELL], cells[start // CELL + 1]
            if use:
                found[start, use] = self._blocks.get((start, use)) or _block_at(
                    self._content, cells, start, size
                )
            start += _BLOCK_HEADER_SIZE + size
        return found


def remove_chain(name: str) -> None:
    """Remove the segments of a chain whose writer has ended. Who reads them still can."""
    for number in itertools.count():
        if not unlink(names.further_name(name, number)):
            return


def _block_at(content: memoryview, cells: memoryview, start: int, size: int) -> Block:
    begin = start + _BLOCK_HEADER_SIZE
    return Block(content[begin : begin + size], cells, start // CELL + 1)
