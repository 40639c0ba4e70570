"""The arena: the shared memory of a server and its workers."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from pounce.errors import SharedMemoryError
from pounce.shm.layout import ARENA_HEADER_SIZE, LAYOUT_VERSION, Layout
from pounce.shm.retired import Retired
from pounce.shm.segment import Segment, unlink_further
from pounce.shm.slot import Slot, SlotState

# Cells of the header
_VERSION: Final = 0
_FINGERPRINT: Final = 1
_FOLD_WORD: Final = 2
_SLOTS: Final = 3


class LayoutError(SharedMemoryError):
    """The arena was made by a program that lays it out otherwise, such as another version."""


class Arena:
    """Slots for workers, and the sums of those that have ended.

    The master creates one and workers attach to it by name; thread workers use the same object,
    and so may a server without a master. Everybody may read all of it at any moment. What is
    said to be the owner's is for one thread of the owner alone.
    """

    def __init__(self, segment: Segment, layout: Layout) -> None:
        content = segment.content
        self.layout = layout
        self._segment = segment
        self._header = content[:ARENA_HEADER_SIZE].cast("q")
        self.slots = tuple(Slot(content, layout, index) for index in range(layout.slots))
        word = self._header[_FOLD_WORD : _FOLD_WORD + 1]
        self._retired = Retired(content, layout, word, self.slots)

    def __repr__(self) -> str:
        in_use = len(self.slots_in_use())
        return f"<Arena {self.name or 'anonymous'}, {in_use} of {len(self.slots)} slots in use>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def create(cls, layout: Layout, *, share_with: tuple[int, int] | None = None) -> Self:
        """A new arena that this process owns.

        Args:
            layout: What it holds.
            share_with: User and group id that workers go on as, where that is not this user's.

        Raises:
            SharedMemoryError: There is no shared memory on this machine, or not enough.
        """
        return cls._initialised(Segment.create(layout.size, share_with=share_with), layout)

    @classmethod
    def anonymous(cls, layout: Layout) -> Self:
        """A new arena without a name, for a server without a master. It leaves nothing behind."""
        return cls._initialised(Segment.anonymous(layout.size), layout)

    @classmethod
    def _initialised(cls, segment: Segment, layout: Layout) -> Self:
        arena = cls(segment, layout)
        arena._retired.initialise()
        arena._header[_SLOTS] = layout.slots
        arena._header[_FINGERPRINT] = layout.fingerprint
        arena._header[_VERSION] = LAYOUT_VERSION
        return arena

    @classmethod
    def attach(cls, name: str, layout: Layout) -> Self:
        """The arena that another process has created.

        Raises:
            LayoutError: It is laid out otherwise; an upgrade then starts with a new one.
            SharedMemoryError: There is none of that name, or it belongs to another user.
        """
        segment = Segment.attach(name)
        if not _is_laid_out_as(segment.content, layout):
            segment.close()
            raise LayoutError(f"shared memory {name} was laid out by another version")
        return cls(segment, layout)

    @property
    def name(self) -> str | None:
        """What workers attach by; None: it is anonymous."""
        return self._segment.name

    @property
    def owner_pid(self) -> int:
        return self._segment.owner_pid

    @property
    def epoch(self) -> int:
        """Goes up twice for every worker that is retired, and is odd in between."""
        return self._retired.epoch

    def slots_in_use(self) -> list[Slot]:
        """The slots that are not free."""
        return [slot for slot in self.slots if slot.state is not SlotState.FREE]

    def totals(self) -> list[int]:
        """The sum of every counter and histogram over all workers, those that have ended included.
        Indexed like the cells of a slot, without the gauges; never falls.

        Raises:
            SharedMemoryError: The sums are damaged.
        """
        return self._retired.totals()

    # The owner's side

    def acquire(self, worker_id: int, generation: int, *, last: bool = False) -> Slot:
        """A slot for a worker that is about to start.

        Args:
            worker_id: Its number.
            generation: That of its configuration.
            last: Take the last free one, not the first: for a second process that acquires slots,
                which is about to become the owner.

        Raises:
            SharedMemoryError: All are in use.
        """
        for slot in reversed(self.slots) if last else self.slots:
            if slot.state is SlotState.FREE:
                slot.assign(worker_id, generation)
                return slot
        raise SharedMemoryError(f"all {len(self.slots)} slots of shared memory are in use")

    def retire(self, slot: Slot) -> None:
        """Keep what a worker that has ended has counted, drop its gauges, and free its slot.

        Where this process is no longer the owner, as a master that was followed by another one,
        the state becomes EXITED and the rest is the successor's.
        """
        slot.state = SlotState.EXITED
        if self._segment.is_owned:
            self._retired.fold(slot.index)

    def become_heir(self) -> None:
        """Say that this process may `adopt()` the arena. While it lives, neither the arena nor
        what belongs to it is a leftover, whatever becomes of the owner.

        Raises:
            SharedMemoryError: The name is gone.
        """
        self._segment.become_heir()

    def adopt(self) -> None:
        """Become the owner, and finish what the former one may have left half done.

        The former one, if it lives, must not be retiring a worker just then. It calls `close()` as
        ever, and what it retires from now on is found here with the state EXITED.

        Raises:
            SharedMemoryError: The name is gone.
        """
        self._segment.adopt()
        self._retired.recover()

    def close(self) -> None:
        """Stop using the arena. The owner removes its name and those of further segments that
        belong to it; a child of it by fork does not."""
        if self.name is not None and self._segment.is_owned:
            unlink_further(self.name)
        self._segment.close()


def _is_laid_out_as(content: memoryview, layout: Layout) -> bool:
    if len(content) != layout.size:
        return False
    header = content[:ARENA_HEADER_SIZE].cast("q")
    return header[_VERSION] == LAYOUT_VERSION and header[_FINGERPRINT] == layout.fingerprint
