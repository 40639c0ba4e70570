"""Memory of a writer whose stores become visible bit by bit, while a reader looks.

The writer sees its own stores at once, in `WriterMemory`. Others see them when `advance()` has
come past them: a cell at once, because it is one aligned store, and a copy of bytes one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

CELL = 8


class WriterMemory:
    """What a writer is given in place of a `memoryview` of bytes."""

    def __init__(self, size: int) -> None:
        self.seen = bytearray(size)
        """What others see."""
        self._own = bytearray(size)
        self._stores: deque[tuple[int, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._own)

    def __setitem__(self, place: slice, data: bytes) -> None:
        assert len(self._own[place]) == len(data)
        self._own[place] = data
        self._stores.extend((place.start + i, data[i : i + 1]) for i in range(len(data)))

    def cast(self, kind: str) -> WriterCells:
        assert kind == "q"
        return WriterCells(self)

    def read_cell(self, index: int) -> int:
        return memoryview(self._own).cast("q")[index]

    def store_cell(self, index: int, value: int) -> None:
        memoryview(self._own).cast("q")[index] = value
        start = index * CELL
        self._stores.append((start, bytes(self._own[start : start + CELL])))

    def advance(self, stores: int) -> None:
        """Make that many stores visible, if there are as many."""
        for _ in range(min(stores, len(self._stores))):
            start, data = self._stores.popleft()
            self.seen[start : start + len(data)] = data

    def advance_to_end(self) -> None:
        self.advance(len(self._stores))

    def lose_the_rest(self) -> None:
        """The writer was killed: what is not visible yet never was."""
        self._stores.clear()
        self._own[:] = self.seen


class WriterCells:
    """What `cast("q")` of a `WriterMemory` is."""

    def __init__(self, memory: WriterMemory, start: int = 0) -> None:
        self._memory = memory
        self._start = start

    def __len__(self) -> int:
        return len(self._memory) // CELL

    def __getitem__(self, index: int) -> int:
        return self._memory.read_cell(self._start + index)

    def __setitem__(self, index: int, value: int) -> None:
        self._memory.store_cell(self._start + index, value)


class ReaderMemory:
    """What a reader is given in place of a `memoryview`: `step` is called before every load."""

    def __init__(self, view: memoryview, step: Callable[[], None]) -> None:
        self._view = view
        self._step = step

    def __len__(self) -> int:
        return len(self._view)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def __getitem__(self, place: int | slice) -> object:
        self._step()
        found = self._view[place]
        return bytes(found) if isinstance(found, memoryview) else found

    def __bytes__(self) -> bytes:
        self._step()
        return bytes(self._view)

    def cast(self, kind: str) -> ReaderMemory:
        return ReaderMemory(self._view.cast(kind), self._step)  # type: ignore[call-overload]
