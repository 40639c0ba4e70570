"""What a worker writes into its chain of shared memory: the format of the blocks.

| cell | of a series | of an exemplar |
| --- | --- | --- |
| 0 | 1 | 2 |
| 1 | how many numbers follow | the series' own number |
| 2 | bytes of text | place of the number that it is an exemplar of |
| 3 | a number of its own, as a double; 0: it is freed | the same |
| 4 | the numbers, doubles | sequence, odd while the text is written |
| 5 | | bytes of text |
| | text, see `series.encode()` | text: labels, value and time in JSON |

A block's own number is set last and cleared first, so whoever finds it before and after has read
what belongs to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from prometheus_client.samples import Exemplar

from pounce.metrics.client.series import Series, decode
from pounce.shm.chain import Block
from pounce.shm.fence import fence
from pounce.shm.layout import CELL

SERIES: Final = 1
EXEMPLAR: Final = 2

_KIND, _COUNT, _LENGTH, _OWN = range(4)
_FIRST: Final = 4
_SERIES_NUMBER, _PLACE = 1, 2
_SEQUENCE, _EXEMPLAR_LENGTH = 4, 5
_EXEMPLAR_TEXT: Final = 6 * CELL

EXEMPLAR_SIZE: Final = 1024
"""Bytes of an exemplar's block; its labels have at most 128 characters."""


def series_size(numbers: int, text: bytes) -> int:
    """Bytes that a series takes."""
    return (_FIRST + numbers) * CELL + len(text)


def write_series(block: Block, own: int, values: Sequence[float], text: bytes) -> memoryview[float]:
    """Fill a new block; the view that the numbers are written through from now on."""
    count = len(values)
    cells = block.content.cast("q")
    cells[_KIND], cells[_COUNT], cells[_LENGTH] = SERIES, count, len(text)
    begin = (_FIRST + count) * CELL
    block.content[begin : begin + len(text)] = text
    doubles = block.content.cast("d")
    numbers = doubles[_FIRST : _FIRST + count]
    for place, value in enumerate(values):
        numbers[place] = value
    doubles[_OWN] = own
    return numbers


def write_exemplar_block(block: Block, own: int, series: int, place: int) -> None:
    """Fill a new block, which has no exemplar yet."""
    cells = block.content.cast("q")
    cells[_KIND], cells[_SERIES_NUMBER], cells[_PLACE] = EXEMPLAR, series, place
    block.content.cast("d")[_OWN] = own


def write_exemplar(block: Block, exemplar: Exemplar) -> None:
    """Replace what was there before. One that does not fit is left out."""
    text = json.dumps(exemplar).encode()
    if len(text) > len(block.content) - _EXEMPLAR_TEXT:
        return
    cells = block.content.cast("q")
    cells[_SEQUENCE] += 1
    fence()
    block.content[_EXEMPLAR_TEXT : _EXEMPLAR_TEXT + len(text)] = text
    cells[_EXEMPLAR_LENGTH] = len(text)
    fence()
    cells[_SEQUENCE] += 1


def own_number(block: Block) -> float:
    """The block's own number; 0: it is freed."""
    return block.content.cast("d")[_OWN]


def disown(block: Block) -> None:
    """Say that what is in the block is no longer valid, before it is freed."""
    block.content.cast("d")[_OWN] = 0.0


class SeriesBlock:
    """A series as others read it."""

    __slots__ = ("_own_cell", "numbers", "own", "segment", "series", "start")

    def __init__(self, block: Block) -> None:
        self.own = own_number(block)
        count, length = block.content.cast("q")[_COUNT : _LENGTH + 1]
        begin = (_FIRST + count) * CELL
        doubles = block.content.cast("d")
        self._own_cell = doubles[_OWN : _OWN + 1]
        self.segment = block.segment
        self.start = block.start + _FIRST * CELL
        """Where the numbers begin in the segment."""
        self.series: Series = decode(bytes(block.content[begin : begin + length]))
        self.numbers = doubles[_FIRST : _FIRST + self.series.width]
        """Those that are needed. They hold if `is_valid()` says so after they were read."""

    def is_valid(self) -> bool:
        return bool(self._own_cell[0] == self.own)


class ExemplarBlock:
    """An exemplar as others read it."""

    __slots__ = ("_content", "own", "place", "series_number")

    def __init__(self, block: Block) -> None:
        self.own = own_number(block)
        self._content = block.content
        self.series_number, self.place = block.content.cast("q")[_SERIES_NUMBER : _PLACE + 1]

    def exemplar(self) -> Exemplar | None:
        """None: there is none, or it is being written."""
        cells = self._content.cast("q")
        sequence = cells[_SEQUENCE]
        fence()
        length = cells[_EXEMPLAR_LENGTH]
        text = bytes(self._content[_EXEMPLAR_TEXT : _EXEMPLAR_TEXT + length])
        fence()
        is_whole = sequence and not sequence & 1 and cells[_SEQUENCE] == sequence
        if not is_whole or self._content.cast("d")[_OWN] != self.own:
            return None
        return Exemplar(*json.loads(text))


def read_block(block: Block) -> SeriesBlock | ExemplarBlock | None:
    """What is in a block that was published; None: it is freed just now."""
    own = own_number(block)
    if not own:
        return None
    try:
        is_series = block.content.cast("q")[_KIND] == SERIES
        return SeriesBlock(block) if is_series else ExemplarBlock(block)
    except (ValueError, TypeError):
        if own_number(block) == own:
            raise
        return None  # it changed while it was read
