"""A slot: what one worker at a time writes, and everybody may read.

It begins with its identity, in cells:

| cell | content | written by |
| --- | --- | --- |
| 0 | state | the owner of the arena, the worker while it runs |
| 1 | pid | the worker |
| 2 | worker id | the owner |
| 3 | generation | the owner |
| 4 | start time, nanoseconds since 1970 | the worker |
| 5 | heartbeat, nanoseconds of the monotonic clock, which all processes share | the worker |
| 6 | times the black box was full | the worker |
| 7 | records written into the ring, since the arena was made | the worker |
| 8 | records of those that the owner has read or missed | the owner |
| 9 | records of those that the owner has missed | the owner |
| 10 | the time up to which the black box has nothing that is as good as over | the worker |
"""

from __future__ import annotations

import os
import time
from enum import IntEnum
from typing import Final

from pounce.shm.black_box import (
    BlackBoxRecord,
    BlackBoxWriter,
    clear_black_box,
    count_black_box,
    read_black_box,
)
from pounce.shm.layout import CELL, IDENTITY_SIZE, Layout
from pounce.shm.ring import RingReader, RingWriter

STATE: Final = 0
PID: Final = 1
WORKER_ID: Final = 2
GENERATION: Final = 3
STARTED: Final = 4
HEARTBEAT: Final = 5
BLACK_BOX_MISSED: Final = 6
RING_WRITTEN: Final = 7
RING_READ: Final = 8
RING_MISSED: Final = 9
BLACK_BOX_SETTLED: Final = 10


class SlotState(IntEnum):
    """How far the worker in a slot has come."""

    FREE = 0
    """There is none, and all cells are 0."""
    STARTING = 1
    READY = 2
    DRAINING = 3
    EXITED = 4
    """It has ended, and what it counted waits to be retired."""


_STATES: Final = tuple(SlotState)


class Slot:
    """One slot of an arena.

    `cells` is for the hot path: `cells[i] += 1`, where `i` comes from the layout, is all that
    counting takes. There must be one writer at a time, so no lock is needed anywhere.
    """

    def __init__(self, content: memoryview, layout: Layout, index: int) -> None:
        self.index = index
        start = layout.slot_start(index)
        whole = content[start : start + layout.slot_size]
        self.identity = whole[:IDENTITY_SIZE].cast("q")
        """The cells of the table above."""
        self.cells = whole[IDENTITY_SIZE : IDENTITY_SIZE + layout.cells * CELL].cast("q")
        """Signed 64-bit cells: counters, histograms, gauges."""
        self._layout = layout
        box_end = layout.ring_start
        self._black_box = whole[layout.black_box_start : box_end]
        self._ring = whole[box_end : box_end + layout.ring_records * layout.ring_stride]

    def __repr__(self) -> str:
        return f"<Slot {self.index} {self.state.name}, worker {self.worker_id}, pid {self.pid}>"

    @property
    def state(self) -> SlotState:
        return _STATES[self.identity[STATE]]

    @state.setter
    def state(self, state: SlotState) -> None:
        self.identity[STATE] = state

    @property
    def pid(self) -> int:
        """0: the worker has not started."""
        return self.identity[PID]

    @property
    def worker_id(self) -> int:
        return self.identity[WORKER_ID]

    @property
    def generation(self) -> int:
        return self.identity[GENERATION]

    @property
    def started_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self.identity[STARTED]

    @property
    def heartbeat_ns(self) -> int:
        """Of `time.monotonic_ns()`; 0: there was none."""
        return self.identity[HEARTBEAT]

    @property
    def black_box_missed(self) -> int:
        """How often the worker found no free record in its black box."""
        return self.identity[BLACK_BOX_MISSED]

    @property
    def ring_missed(self) -> int:
        """Records that were overwritten before `drain_ring()` got them, since the arena was
        made."""
        return self.identity[RING_MISSED]

    # The worker's side

    def start(self) -> None:
        """Say that this process is the worker in the slot."""
        self.identity[PID] = os.getpid()
        self.identity[STARTED] = time.time_ns()
        self.beat()

    def beat(self) -> None:
        """Say that the event loop turns; it must be the loop that calls this."""
        self.identity[HEARTBEAT] = time.monotonic_ns()

    def black_box_writer(self) -> BlackBoxWriter:
        """The black box for writing, empty."""
        missed = self.identity[BLACK_BOX_MISSED : BLACK_BOX_MISSED + 1]
        layout = self._layout
        return BlackBoxWriter(
            self._black_box, layout.black_box_stride, layout.black_box_size, missed
        )

    def ring_writer(self) -> RingWriter:
        """The ring for writing, where the last writer has ended."""
        written = self.identity[RING_WRITTEN : RING_WRITTEN + 1]
        return RingWriter(self._ring, self._layout.ring_stride, self._layout.ring_size, written)

    # Everybody's side

    def read_black_box(self) -> list[BlackBoxRecord]:
        """What the worker is doing, or was doing when it ended; the oldest first."""
        settled = self.identity[BLACK_BOX_SETTLED]
        return read_black_box(self._black_box, self._layout.black_box_stride, settled)

    def count_black_box(self) -> int:
        """How many records of the black box are of something that is not over."""
        return count_black_box(self._black_box, self._layout.black_box_stride)

    def ring_reader(self, position: int = 0) -> RingReader:
        """The ring for reading from a position on; see `drain_ring()` for the owner."""
        written = self.identity[RING_WRITTEN : RING_WRITTEN + 1]
        layout = self._layout
        return RingReader(self._ring, layout.ring_stride, layout.ring_size, written, position)

    # The owner's side

    def assign(self, worker_id: int, generation: int) -> None:
        """Give the slot, which is free, to a worker that is about to start."""
        self.identity[WORKER_ID] = worker_id
        self.identity[GENERATION] = generation
        self.state = SlotState.STARTING

    def drain_ring(self, limit: int | None = None) -> list[bytes]:
        """The records since the last call, which may have been a former owner's; at most `limit`.
        What was overwritten before is added to `ring_missed`."""
        reader = self.ring_reader(self.identity[RING_READ])
        records = reader.read(limit)
        self.identity[RING_MISSED] += reader.missed
        self.identity[RING_READ] = reader.position
        return records

    def clear(self) -> None:
        """Make the slot free, its cells 0. The ring stays: what is in it may still be read."""
        self.cells.cast("B")[:] = bytes(self.cells.nbytes)
        clear_black_box(self._black_box, self._layout.black_box_stride)
        self.identity[BLACK_BOX_SETTLED] = 0
        self.identity[STATE : BLACK_BOX_MISSED + 1] = _NO_IDENTITY


_NO_IDENTITY: Final = memoryview(bytes(CELL * (BLACK_BOX_MISSED + 1))).cast("q")
