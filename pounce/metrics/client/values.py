"""The numbers that `prometheus_client` counts with, in cells that others may read."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterable

from prometheus_client.samples import Exemplar

_SET, _INCREMENTED = 1, 2
"""Numbers of a gauge besides its value, see `series`."""

ExemplarWriter = Callable[[int, Exemplar], None]


class Record:
    """The numbers of one metric object: in shared memory, until they are told to be elsewhere.

    The lock is for the threads of this process; no other process writes. It may be taken again by
    the thread that has it: a signal handler may count as well.
    """

    __slots__ = ("__weakref__", "cells", "lock", "write_exemplar")

    def __init__(
        self, cells: memoryview[float], write_exemplar: ExemplarWriter | None = None
    ) -> None:
        self.cells = cells
        """Doubles."""
        self.write_exemplar = write_exemplar
        self.lock = threading.RLock()

    def detach(self) -> None:
        """Go on in memory of this process alone, with the numbers as they are. What was shared
        is not written any more when this returns."""
        with self.lock:
            self.cells = local_cells(self.cells.tolist())
            self.write_exemplar = None

    def unlock_in_child(self) -> None:
        """Forget that another thread had the lock when the process was forked."""
        self.lock = threading.RLock()


class SharedValue:
    """One of the numbers; what `prometheus_client.values.MutexValue` is without Pounce."""

    __slots__ = ("_exemplar", "_place", "_record")
    _multiprocess = False

    def __init__(self, record: Record, place: int) -> None:
        self._record = record
        self._place = place
        self._exemplar: Exemplar | None = None

    def inc(self, amount: float) -> None:
        record = self._record
        lock = record.lock
        # `with` takes half as long again. Wherever the handler of a signal raises, that of another
        # one may raise at the next call of a function of Python: there is none up to `release`.
        try:
            lock.acquire()
            record.cells[self._place] += amount
        except BaseException:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:
                pass  # the exception came before this thread had the lock
            raise
        lock.release()

    def set(self, value: float, timestamp: float | None = None) -> None:
        record = self._record
        with record.lock:
            record.cells[self._place] = value

    def get(self) -> float:
        """What this worker has counted."""
        return self._record.cells[self._place]

    def set_exemplar(self, exemplar: Exemplar) -> None:
        record = self._record
        with record.lock:
            self._exemplar = exemplar
            if record.write_exemplar is not None:
                record.write_exemplar(self._place, exemplar)

    def get_exemplar(self) -> Exemplar | None:
        return self._exemplar


class GaugeValue(SharedValue):
    """The number of a gauge that has a mode."""

    __slots__ = ()

    def set(self, value: float, timestamp: float | None = None) -> None:
        record = self._record
        with record.lock:
            cells = record.cells
            cells[self._place] = value
            cells[_SET] = timestamp or 0.0


class AutoGaugeValue(SharedValue):
    """The number of a gauge that has none, for which it counts how it is used."""

    __slots__ = ()

    def inc(self, amount: float) -> None:
        record = self._record
        with record.lock:
            cells = record.cells
            cells[_INCREMENTED] = 1.0
            cells[self._place] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        record = self._record
        with record.lock:
            cells = record.cells
            cells[self._place] = value
            cells[_SET] = time.time()


def local_cells(values: Iterable[float]) -> memoryview[float]:
    """Cells that nobody else sees."""
    return memoryview(array("d", values)).cast("B").cast("d")
