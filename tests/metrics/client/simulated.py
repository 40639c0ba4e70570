"""Workers of a store that all live in the test's own process, each with metrics of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

from pounce.metrics.client.patches import Patches
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.recorder import Recorder
from pounce.metrics.client.store import ClientStore
from pounce.shm.segment import Segment

Key = tuple[str, tuple[tuple[str, str], ...]]


@contextlib.contextmanager
def new_store(places: int = 8) -> Iterator[ClientStore]:
    """A store that leaves nothing behind."""
    # In place of the arena: without it, any server that starts takes the chains of workers that
    # were killed for what a dead one has left.
    with Segment.create(8) as base:
        assert base.name is not None
        store = ClientStore.create(base.name, places)
        try:
            yield store
        finally:
            store.close()
            store.remove()


class SimulatedWorker:
    """What a worker process has, which one process can only have in turns: see `turn()`."""

    def __init__(self, store: ClientStore, place: int, pid: int = 0) -> None:
        store.assign(place)
        self.store = store
        self.place = place
        self.reader = StoreReader(store)
        self.recorder = Recorder(store.start(place, pid or 1000 + place))
        self.patches = Patches(self.recorder, self.reader)
        self.registry = CollectorRegistry(auto_describe=True)

    @contextlib.contextmanager
    def turn(self) -> Iterator[CollectorRegistry]:
        """While this lasts, prometheus_client is that of this worker."""
        self.patches.apply()
        try:
            yield self.registry
        finally:
            self.patches.remove()

    def die(self) -> None:
        """End without a word."""
        self.recorder.close()
        self.reader.close()


def values(families: Iterable[Metric]) -> dict[Key, float]:
    """What every sample is at."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def exemplars(families: Iterable[Metric]) -> dict[Key, Exemplar]:
    """The exemplars, by their samples."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.exemplar
        for family in families
        for sample in family.samples
        if sample.exemplar is not None
    }
