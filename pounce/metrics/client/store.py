"""The shared memory of the application's metrics: who writes where, and what ended workers had.

Its segments belong to an arena and carry its name with numbers:

| name | content | written by |
| --- | --- | --- |
| arena-0 | control: the cells below | the owner |
| arena-0-0, arena-0-1 | what ended workers had: serial number, checksum, length, JSON | the owner |
| arena-1-0 ... | the chain of blocks of the worker in place 0, then of place 1 | that worker |

| cell | content |
| --- | --- |
| 0 | version |
| 1 | fold word |
| 2 | number of places |
| 3 | how many workers were given a place |
| 4 + 3 x place | number of its worker, state, pid |

A fold goes as in `pounce.shm.retired`: the other copy is written, one store of the fold word
makes it valid and the place skipped, the place is freed, one store of the fold word ends that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple, Self

from pounce.errors import SharedMemoryError
from pounce.metrics.client.retired import RetiredSeries
from pounce.metrics.client.totals import Totals
from pounce.metrics.client.worker_series import WorkerSeries
from pounce.shm import names
from pounce.shm.chain import remove_chain
from pounce.shm.fence import fence
from pounce.shm.layout import CELL
from pounce.shm.segment import Segment, unlink

logger = logging.getLogger("pounce.error")

VERSION: Final = 1
"""Raised when the format of control, blocks or retired series changes."""

_VERSION, _WORD, _PLACES, _GIVEN = range(4)
_FIRST: Final = 4
_WIDTH: Final = 3
_NUMBER, _STATE, _PID = range(_WIDTH)

_PENDING_BITS: Final = 16
_PENDING_MASK: Final = (1 << _PENDING_BITS) - 1


class State(IntEnum):
    """How it stands with the worker in a place."""

    FREE = 0
    IN_USE = 1
    ENDED = 2
    """What it counted waits to be folded."""


class Writer(NamedTuple):
    """A worker that has a place."""

    place: int
    number: int
    """Which no other worker of the store has had. The younger the worker, the higher."""
    state: State
    pid: int


class ClientStore:
    """The application's metrics of all workers, as everybody may read them.

    The master creates the store beside its arena. What is said to be the owner's is for one
    thread of the owner alone; what is said to be the worker's is for the one in that place.
    """

    def __init__(self, segment: Segment, base: str, share_with: tuple[int, int] | None) -> None:
        self.base = base
        self._segment = segment
        self._cells = segment.content.cast("q")
        self._share_with = share_with
        self._retired = RetiredSeries(self.control_name)
        self._known_writers: tuple[tuple[int, bytes], tuple[Writer, ...]] | None = None

    def __repr__(self) -> str:
        return f"<ClientStore of {self.base}, {len(self.writers())} workers>"

    @classmethod
    def create(cls, base: str, places: int, *, share_with: tuple[int, int] | None = None) -> Self:
        """A new store that this process owns.

        Args:
            base: The name of the arena.
            places: Workers that may exist at once; the number of slots of the arena.
            share_with: User and group id that workers go on as, where that is not this user's.

        Raises:
            SharedMemoryError: There is not enough shared memory, or the name is taken.
        """
        size = (_FIRST + _WIDTH * places) * CELL
        segment = Segment.create(size, _control_name(base), share_with=share_with)
        store = cls(segment, base, share_with)
        store._cells[_PLACES] = places
        store._cells[_VERSION] = VERSION
        return store

    @classmethod
    def attach(cls, base: str, *, share_with: tuple[int, int] | None = None) -> Self:
        """The store that another process has created.

        Raises:
            SharedMemoryError: There is none, or it is of another version.
        """
        segment = Segment.attach(_control_name(base))
        if segment.content.cast("q")[_VERSION] != VERSION:
            segment.close()
            raise SharedMemoryError(f"shared memory {segment.name} was laid out by another version")
        return cls(segment, base, share_with)

    @property
    def control_name(self) -> str:
        """Of the control segment; those of retired series begin with it."""
        return _control_name(self.base)

    @property
    def places(self) -> int:
        """Workers that may exist at once."""
        return self._cells[_PLACES]

    def chain_name(self, place: int) -> str:
        """Of the chain that the worker in a place writes."""
        return names.further_name(self.base, place + 1)

    def writers(self) -> Sequence[Writer]:
        """The workers whose series are to be read now, the oldest first. Where nothing has changed,
        the same object as the last time."""
        places = self._cells[_WORD] & _PENDING_MASK, self._cells[_FIRST:].tobytes()
        known = self._known_writers
        if known is None or known[0] != places:
            # One assignment: threads may share a store.
            self._known_writers = known = places, self._writers(*places)
        return known[1]

    def _writers(self, pending: int, places: bytes) -> tuple[Writer, ...]:
        cells = memoryview(places).cast("q").tolist()
        states = enumerate(cells[_STATE::_WIDTH])
        in_use = [place for place, state in states if state and place + 1 != pending]
        # A place that is being given has no number yet, and its worker has counted nothing.
        in_use = [place for place in in_use if cells[_WIDTH * place + _NUMBER]]
        in_use.sort(key=lambda place: cells[_WIDTH * place + _NUMBER])
        return tuple(_writer_in(cells, place) for place in in_use)

    def _writer(self, place: int) -> Writer:
        return _writer_in(self._cells[_FIRST:], place)

    def _set(self, place: int, cell: int, value: int) -> None:
        self._cells[_FIRST + _WIDTH * place + cell] = value

    @property
    def word(self) -> int:
        """Changes twice with every fold; what is read between two equal ones is one moment's."""
        return self._cells[_WORD]

    # The worker's side

    def start(self, place: int, pid: int | None = None) -> str:
        """Say that this process is the worker in a place; the name of its chain."""
        self._set(place, _PID, os.getpid() if pid is None else pid)
        return self.chain_name(place)

    # The owner's side

    def assign(self, place: int) -> None:
        """Give a place, which is free, to a worker that is about to start."""
        remove_chain(self.chain_name(place))
        self._cells[_GIVEN] += 1
        self._set(place, _PID, 0)
        self._set(place, _NUMBER, self._cells[_GIVEN])
        self._set(place, _STATE, State.IN_USE)

    def end(self, place: int) -> None:
        """Say that the worker in a place has ended: all that is left to an owner that was
        followed by another one. Gauges that are of live workers only are gone then."""
        if self._writer(place).state is State.IN_USE:
            self._set(place, _STATE, State.ENDED)

    def retire(self, place: int) -> None:
        """Keep what a worker that has ended had counted, and free its place. The worker must be
        gone. Where shared memory is full, its series stay as they are until the next call."""
        self.end(place)
        self.retire_ended()

    def retire_ended(self) -> None:
        """Fold all workers that have ended, such as those of a former owner. Where shared memory
        is full, that waits, and so does their place."""
        for writer in self.writers():
            if writer.state is State.ENDED:
                try:
                    self.fold(writer.place)
                except SharedMemoryError as error:
                    logger.warning("metrics of an ended worker cannot be folded yet: %s", error)

    def adopt(self) -> None:
        """Become the owner, and finish what the former one may have left half done.

        Raises:
            SharedMemoryError: The name is gone.
        """
        self._segment.adopt()
        self.recover()
        self.retire_ended()

    def close(self) -> None:
        """Stop using the store. Its names go with the arena, or by `remove()`."""
        self._cells.release()
        self._segment.close(keep_name=True)

    def remove(self) -> None:
        """Remove all names of the store, where no arena does it."""
        for name in names.existing_names():
            if names.base_of(name) == self.base:
                unlink(name)

    # A fold, step by step

    def fold(self, place: int) -> None:
        """Move what the worker in a place had into the retired series."""
        self.recover()
        self.write_copy(place)
        self.switch_to_copy(place)
        self.recover()

    def write_copy(self, place: int) -> None:
        """Step 1: nobody reads it yet."""
        totals = Totals()
        self._retired.add_to(totals, valid_copy(self.word))
        chain = WorkerSeries(self.chain_name(place))
        try:
            chain.add_to(totals, self._writer(place).pid, has_ended=True)
        finally:
            chain.close()
        self._retired.write(valid_copy(self.word) + 1, totals.retired(), self._share_with)

    def switch_to_copy(self, place: int) -> None:
        """Step 2: the copy is valid, the place is skipped."""
        fence()
        self._cells[_WORD] = ((self.word >> _PENDING_BITS) + 1) << _PENDING_BITS | place + 1

    def recover(self) -> None:
        """Steps 3 and 4: the place is freed, if an owner has left it there."""
        pending = self.word & _PENDING_MASK
        if pending:
            self._set(pending - 1, _STATE, State.FREE)
            self._set(pending - 1, _NUMBER, 0)
            remove_chain(self.chain_name(pending - 1))
            fence()
            self._cells[_WORD] = ((self.word >> _PENDING_BITS) + 1) << _PENDING_BITS


_STATES: Final = tuple(State)


def _writer_in(cells: Sequence[int], place: int) -> Writer:
    number, state, pid = cells[_WIDTH * place : _WIDTH * (place + 1)]
    return Writer(place, number, _STATES[state], pid)


def _control_name(base: str) -> str:
    return names.further_name(base, 0)


def valid_copy(word: int) -> int:
    """The number of the valid copy; 0: nothing was folded yet."""
    return ((word >> _PENDING_BITS) + 1) // 2
