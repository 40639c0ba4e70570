"""Reading the store: the totals over all workers, at one moment."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric

from pounce.errors import SharedMemoryError
from pounce.metrics.client.retired import RetiredSeries
from pounce.metrics.client.store import ClientStore, State, Writer, valid_copy
from pounce.metrics.client.totals import Totals
from pounce.metrics.client.worker_series import WorkerSeries
from pounce.shm.fence import fence
from pounce.shm.segment import SegmentNotFoundError

_PATIENCE: Final = 2.0
"""Seconds until a reader gives up; a fold takes some milliseconds."""


class StoreReader:
    """Reads a store; any number may exist, in any process. Threads may share one."""

    def __init__(self, store: ClientStore) -> None:
        self._store = store
        self._retired = RetiredSeries(store.control_name)
        self._workers: dict[int, WorkerSeries] = {}
        self._writers: Sequence[Writer] = ()
        """Of which nobody else is in there."""
        self._lock = threading.Lock()
        _readers.add(self)

    def families(self, name: str | None = None) -> list[Metric]:
        """The metric families of all workers, those that have ended included; or the one of that
        name.

        Raises:
            SharedMemoryError: Shared memory is damaged.
        """
        with self._lock:
            return self._totals(name).families()

    def close(self) -> None:
        """Stop reading."""
        with self._lock:
            self._keep(())
            self._writers = ()

    def _totals(self, family: str | None) -> Totals:
        deadline = 0.0
        while True:
            word = self._store.word
            fence()
            totals = self._totals_at(word, family)
            fence()
            if totals is not None and self._store.word == word:
                return totals
            now = time.monotonic()
            deadline = deadline or now + _PATIENCE
            if now > deadline:
                raise SharedMemoryError("the metrics of ended workers are damaged")

    def _totals_at(self, word: int, family: str | None) -> Totals | None:
        totals = Totals()
        try:
            self._retired.add_to(totals, valid_copy(word), family)
        except SegmentNotFoundError:
            return None
        writers = self._store.writers()
        if writers is not self._writers:
            self._keep(writers)
            self._writers = writers
        for writer in writers:
            worker = self._workers.get(writer.number)
            if worker is None:
                worker = WorkerSeries(self._store.chain_name(writer.place))
                self._workers[writer.number] = worker
            has_ended = writer.state is State.ENDED
            worker.add_to(totals, writer.pid, has_ended=has_ended, family=family)
        return totals

    def _keep(self, writers: Iterable[Writer]) -> None:
        """Drop the chains of all other workers. They have ended; and their names may mean
        somebody else by now, which is why nothing read since the last fold counts."""
        numbers = {writer.number for writer in writers}
        for number in self._workers.keys() - numbers:
            self._workers.pop(number).close()

    def _unlock_in_child(self) -> None:
        self._lock = threading.Lock()


_readers: weakref.WeakSet[StoreReader] = weakref.WeakSet()


def _after_fork() -> None:
    for reader in list(_readers):
        reader._unlock_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
