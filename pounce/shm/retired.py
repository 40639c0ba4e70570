"""Totals over all workers, those that have ended included.

What a worker counted goes into the retired sums when it has ended, and its slot is used again. The
sums exist twice, and the fold word in the header says which copy is valid, and which slot is in it
already:

    fold word = epoch << 16 | pending slot + 1, or 0

1. The other copy is written: the valid sums and the slot's. Nobody reads it yet.
2. One store of the fold word makes it valid and the slot pending. The epoch becomes odd.
3. The slot is cleared. Readers skip it.
4. One store of the fold word ends that. The epoch becomes even.

So the totals are right at every moment, and a reader that finds the same fold word before and
after has seen one such moment: it never waits, not even for an owner that died half way. Its
successor carries on at step 3, or has to begin anew if step 2 was not reached.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Final
from zlib import crc32

from pounce.errors import SharedMemoryError
from pounce.shm.fence import fence
from pounce.shm.layout import CELL, RETIRED_HEADER_SIZE, Layout
from pounce.shm.slot import Slot, SlotState

_PENDING_BITS: Final = 16
_PENDING_MASK: Final = (1 << _PENDING_BITS) - 1
_PATIENCE: Final = 2.0
"""Seconds until a reader gives up; a fold takes some 0.0001."""


class Retired:
    """The sums of the workers that have ended, and the totals with those that have not.

    Args:
        content: The content of the arena.
        word: A view whose only cell is the fold word.
    """

    def __init__(
        self, content: memoryview, layout: Layout, word: memoryview, slots: Sequence[Slot]
    ) -> None:
        self._size = layout.summed * CELL
        self._word = word
        self._slots = slots
        self._copies = [
            content[start : start + RETIRED_HEADER_SIZE + self._size]
            for start in map(layout.retired_start, (0, 1))
        ]
        self._summed = [slot.cells[: layout.summed].cast("B") for slot in slots]

    @property
    def epoch(self) -> int:
        """How often the fold word was stored; odd while a slot is pending."""
        return self._word[0] >> _PENDING_BITS

    def initialise(self) -> None:
        """Make the first copy of a new arena valid."""
        self._store(0, bytes(self._size))

    def totals(self) -> list[int]:
        """The sum of every counter's and histogram's cell, indexed like the cells of a slot.

        They never fall from one call to the next, in any process.

        Raises:
            SharedMemoryError: The sums are damaged.
        """
        deadline = 0.0
        while True:
            word = self._word[0]
            fence()
            total = self._total(word)
            fence()
            if total is not None and self._word[0] == word:
                return self._unpack(total).tolist()
            now = time.monotonic()
            deadline = deadline or now + _PATIENCE
            if now > deadline:
                raise SharedMemoryError("the sums of ended workers are damaged")

    def fold(self, index: int) -> None:
        """Add the cells of a slot, whose worker has ended, to the sums, and clear the slot."""
        self.recover()
        self.write_copy(index)
        self.switch_to_copy(index)
        self.recover()

    def write_copy(self, index: int) -> None:
        """Step 1 of a fold."""
        sums = self._load(self._serial)
        if sums is None:
            raise SharedMemoryError("the sums of ended workers are damaged")
        total = int.from_bytes(sums, sys.byteorder)
        total += int.from_bytes(self._summed[index], sys.byteorder)
        self._store(self._serial + 1, self._pack(total))

    def switch_to_copy(self, index: int) -> None:
        """Step 2 of a fold."""
        fence()
        self._word[0] = (self.epoch + 1) << _PENDING_BITS | index + 1

    def recover(self) -> None:
        """Steps 3 and 4 of a fold, if an owner has left it there."""
        word = self._word[0]
        pending = word & _PENDING_MASK
        if pending:
            self._slots[pending - 1].clear()
            fence()
            self._word[0] = ((word >> _PENDING_BITS) + 1) << _PENDING_BITS

    @property
    def _serial(self) -> int:
        """The number of the valid copy, which is in place 0 if it is even, otherwise in 1."""
        return (self.epoch + 1) // 2

    def _total(self, word: int) -> int | None:
        """The total at that fold word as one number; None: the sums are not what was stored.

        All cells are added at once, as the digits of one number: this is some 20 times faster
        than one by one. Nothing carries over, since counters are not negative and no total
        comes near 2**64.
        """
        sums = self._load(((word >> _PENDING_BITS) + 1) // 2)
        if sums is None:
            return None
        from_bytes: Callable[..., int] = int.from_bytes
        in_use = [slot.state is not SlotState.FREE for slot in self._slots]
        pending = word & _PENDING_MASK
        if pending:
            in_use[pending - 1] = False
        total = from_bytes(sums, sys.byteorder)
        for cells in compress(self._summed, in_use):
            total += from_bytes(cells, sys.byteorder)
        return total

    def _load(self, serial: int) -> bytes | None:
        copy = self._copies[serial & 1]
        stored_serial, checksum = copy[:RETIRED_HEADER_SIZE].cast("q")
        sums = bytes(copy[RETIRED_HEADER_SIZE:])
        return sums if stored_serial == serial and crc32(sums) == checksum else None

    def _store(self, serial: int, sums: bytes) -> None:
        copy = self._copies[serial & 1]
        header = copy[:RETIRED_HEADER_SIZE].cast("q")
        copy[RETIRED_HEADER_SIZE:] = sums
        header[0], header[1] = serial, crc32(sums)

    def _pack(self, total: int) -> bytes:
        return total.to_bytes(self._size + CELL, sys.byteorder)[: self._size]

    def _unpack(self, total: int) -> memoryview:
        return memoryview(self._pack(total)).cast("q")
