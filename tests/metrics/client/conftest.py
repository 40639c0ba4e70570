"""A store, and workers of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.store import ClientStore
from tests.metrics.client.simulated import SimulatedWorker, new_store


@pytest.fixture
def store() -> Iterator[ClientStore]:
    with new_store() as store:
        yield store


@pytest.fixture
def reader(store: ClientStore) -> Iterator[StoreReader]:
    reader = StoreReader(store)
    yield reader
    reader.close()


@pytest.fixture
def workers(store: ClientStore) -> Iterator[list[SimulatedWorker]]:
    """Two of them."""
    workers = [SimulatedWorker(store, place) for place in (0, 1)]
    yield workers
    for worker in workers:
        worker.die()
