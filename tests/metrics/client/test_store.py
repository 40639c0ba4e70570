"""Folds: totals are right at every moment of them, and stay when their owner is another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import pytest
from prometheus_client import Counter, Gauge, Histogram

from pounce.errors import SharedMemoryError
from pounce.metrics.client import store as store_module
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.store import ClientStore, State
from pounce.shm import names
from pounce.shm.segment import Segment
from tests.metrics.client.simulated import SimulatedWorker, new_store, values


def count(worker: SimulatedWorker, amount: float) -> None:
    with worker.turn() as registry:
        Counter("jobs", "Jobs.", registry=registry).inc(amount)
        Histogram("wait", "Waits.", registry=registry, buckets=(1, 2)).observe(amount)
        Gauge("busy", "Busy.", registry=registry, multiprocess_mode="livesum").set(amount)


def names_of(store: ClientStore) -> list[str]:
    return [name for name in names.existing_names() if names.base_of(name) == store.base]


@pytest.mark.parametrize("steps", range(4))
def test_totals_hold_at_every_step_of_a_fold(
    store: ClientStore, workers: list[SimulatedWorker], reader: StoreReader, steps: int
) -> None:
    one, other = workers
    count(one, 1.5)
    count(other, 4)
    store.end(one.place)
    before = values(reader.families())
    assert before["jobs_total", ()] == 5.5
    assert before["busy", ()] == 4
    one.die()
    in_order: list[Callable[[], None]] = [
        partial(store.write_copy, one.place),
        partial(store.switch_to_copy, one.place),
        store.recover,
    ]
    for step in in_order[:steps]:
        step()
        assert values(reader.families()) == before
        fresh = StoreReader(store)
        assert values(fresh.families()) == before
        fresh.close()
    successor = ClientStore.attach(store.base)
    successor.adopt()
    assert values(reader.families()) == before
    assert values(StoreReader(successor).families()) == before
    assert [writer.place for writer in successor.writers()] == [other.place]
    successor.close()


def test_a_reader_that_is_overtaken_by_folds_reads_again(
    store: ClientStore,
    workers: list[SimulatedWorker],
    reader: StoreReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = workers
    count(one, 1)
    count(other, 2)
    before = values(reader.families())["jobs_total", ()]
    writers = ClientStore.writers
    folds = iter(workers)

    def fold_meanwhile(self: ClientStore) -> object:
        found = writers(self)
        worker = next(folds, None)
        if worker is not None:
            monkeypatch.setattr(ClientStore, "writers", writers)
            worker.die()
            store.retire(worker.place)
            store.assign(worker.place)  # to somebody who has counted nothing yet
            monkeypatch.setattr(ClientStore, "writers", fold_meanwhile)
        return found

    monkeypatch.setattr(ClientStore, "writers", fold_meanwhile)
    assert values(reader.families())["jobs_total", ()] == before


def test_what_ended_workers_had_does_not_grow_with_their_number(store: ClientStore) -> None:
    sizes = set()
    reader = StoreReader(store)
    for generation in range(1, 31):
        worker = SimulatedWorker(store, 0, pid=generation)
        count(worker, 1)
        worker.die()
        store.retire(0)
        assert values(reader.families())["jobs_total", ()] == generation
        sizes.add(len(values(reader.families())))
    assert len(sizes) == 1
    copies = [name for name in names_of(store) if name.startswith(f"{store.base}-0-")]
    assert len(copies) == 2
    assert not [name for name in names_of(store) if name.startswith(f"{store.base}-1-")]


def test_a_fold_waits_for_shared_memory(
    store: ClientStore,
    workers: list[SimulatedWorker],
    reader: StoreReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = workers
    count(one, 1)
    count(other, 2)
    one.die()

    def fail(*args: object, **kwargs: object) -> None:
        raise SharedMemoryError("it is full")

    with monkeypatch.context() as full:
        full.setattr("pounce.shm.segment.Segment.create", fail)
        store.retire(one.place)
    assert "cannot be folded yet: it is full" in caplog.text
    assert store.writers()[0].state is State.ENDED
    now = values(reader.families())
    assert (now["jobs_total", ()], now["busy", ()]) == (3, 2)
    store.retire_ended()
    assert [writer.place for writer in store.writers()] == [other.place]
    assert values(reader.families()) == now


def test_a_place_that_is_given_again_has_nothing_of_before(store: ClientStore) -> None:
    first = SimulatedWorker(store, 0)
    count(first, 1)
    first.die()
    store.retire(0)
    reader = StoreReader(store)
    assert values(reader.families())["jobs_total", ()] == 1
    second = SimulatedWorker(store, 0)
    assert values(reader.families())["jobs_total", ()] == 1
    count(second, 1)
    assert values(reader.families())["jobs_total", ()] == 2
    second.die()


def test_the_youngest_worker_says_what_a_metric_is(store: ClientStore, reader: StoreReader) -> None:
    old, new = SimulatedWorker(store, 1), SimulatedWorker(store, 0)
    with old.turn() as registry:
        Gauge("size", "Old.", registry=registry, multiprocess_mode="max").set(5)
        Counter("jobs", "Old.", registry=registry).inc(2)
        Histogram("wait", "Old.", registry=registry, buckets=(1, 2)).observe(1.5)
    with new.turn() as registry:
        Counter("size", "New.", registry=registry).inc(3)
        Counter("jobs", "New.", registry=registry).inc(5)
        Histogram("wait", "New.", registry=registry, buckets=(1, 3)).observe(2.5)
    old.die()
    for _ in range(2):
        families = {family.name: family for family in reader.families()}
        assert {family.documentation for family in families.values()} == {"New."}
        assert families["size"].type == "counter"
        found = values(families.values())
        assert (found["size_total", ()], found["jobs_total", ()]) == (3, 7)
        buckets = {labels[0][1]: at for (name, labels), at in found.items() if "bucket" in name}
        assert buckets == {"1.0": 0, "2.0": 1, "3.0": 2, "+Inf": 2}
        assert found["wait_count", ()] == 2
        store.retire(old.place)
    new.die()


def test_arenas_take_the_store_with_them() -> None:
    """Its names begin with the arena's, and are as short as macOS wants them."""
    with new_store(3000) as store:
        worker = SimulatedWorker(store, 2999)
        count(worker, 1)
        assert len(names_of(store)) == 2
        assert max(map(len, names_of(store))) < names.LONGEST
        worker.die()
    assert not names_of(store)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with new_store() as store:
        monkeypatch.setattr(store_module, "VERSION", 99)
        with pytest.raises(SharedMemoryError, match="another version"):
            ClientStore.attach(store.base)


def test_damage_is_an_error(store: ClientStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pounce.metrics.client.reader._PATIENCE", 0.05)
    worker = SimulatedWorker(store, 0)
    count(worker, 1)
    worker.die()
    store.retire(0)
    name = next(name for name in names_of(store) if name.startswith(f"{store.base}-0-"))
    with Segment.attach(name) as segment:
        segment.content[-3:-2] = b"?"
    with pytest.raises(SharedMemoryError, match="damaged"):
        StoreReader(store).families()


def test_sums_never_fall_by_rounding(store: ClientStore, reader: StoreReader) -> None:
    """A fall by the last bit would be a reset to Prometheus, which then adds the whole again."""
    rng = random.Random(3)
    workers = {place: SimulatedWorker(store, place) for place in range(3)}
    counters: dict[int, Counter] = {}
    total, exact = 0.0, Fraction()
    for step in range(600):
        place = rng.randrange(3)
        worker = workers[place]
        with worker.turn() as registry:
            if place not in counters:
                counters[place] = Counter("seconds", "Seconds.", registry=registry)
            counter = counters[place]
            before = counter._value.get()
            counter.inc(rng.choice([0.1, 1e-9, 1e9, 0.3, 12345.678]) * rng.random())
            exact += Fraction(counter._value.get()) - Fraction(before)
        if step % 7 == 0:
            worker.die()
            store.retire(place)
            del counters[place]
            workers[place] = SimulatedWorker(store, place)
        now = values(reader.families())["seconds_total", ()]
        assert now >= total
        assert now == float(exact)
        total = now
    for worker in workers.values():
        worker.die()


def test_infinite_sums_are_infinite(store: ClientStore, reader: StoreReader) -> None:
    for generation in range(3):
        worker = SimulatedWorker(store, 0)
        with worker.turn() as registry:
            Counter("much", "Much.", registry=registry).inc(math.inf if generation else 1)
            Counter("sum", "Sum.", registry=registry).inc(1e308)
        worker.die()
        store.retire(0)
    found = values(reader.families())
    assert found == {("much_total", ()): math.inf, ("sum_total", ()): math.inf}


def test_a_place_that_is_being_given_is_not_the_last_ones(
    store: ClientStore, reader: StoreReader
) -> None:
    """A reader may see the stores of `assign()` one by one, in any order."""
    worker = SimulatedWorker(store, 0)
    count(worker, 2)
    before = values(reader.families())
    assert before.pop(("busy", ())) == 2
    worker.die()
    store.retire(0)
    state_cell = 1
    store._set(0, state_cell, State.IN_USE)
    assert values(reader.families()) == before
    store._set(0, state_cell, State.FREE)
