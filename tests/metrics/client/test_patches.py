"""What an application sees of prometheus_client when its metrics are shared."""

from __future__ import annotations

import gc
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client.values
import pytest
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics import exposition, parser

from pounce.errors import SharedMemoryError
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.store import ClientStore
from pounce.metrics.client.worker import install
from pounce.shm.chain import ChainReader, ChainWriter
from tests.metrics.client.simulated import SimulatedWorker, exemplars, new_store, values

openmetrics: Any = exposition.generate_latest
parse_openmetrics: Any = parser.text_string_to_metric_families

Workers = list[SimulatedWorker]


def test_gauges_without_a_mode_have_no_pid_label(workers: Workers, reader: StoreReader) -> None:
    for place, worker in enumerate(workers):
        with worker.turn() as registry:
            in_progress = Gauge("in_progress", "Counted.", registry=registry)
            in_progress.set(0)
            in_progress.inc(place + 1)
            Gauge("untouched", "Never set.", registry=registry)
            Gauge("temperature", "Measured.", registry=registry).set(20 + place)
            Gauge("asked", "By name.", registry=registry, multiprocess_mode="all").set(1)
            Gauge("labelled", "Labelled.", ["x"], registry=registry).labels("y").inc()
    assert values(reader.families()) == {
        ("in_progress", ()): 3,
        ("untouched", ()): 0,
        ("temperature", ()): 21,
        ("asked", (("pid", "1000"),)): 1,
        ("asked", (("pid", "1001"),)): 1,
        ("labelled", (("x", "y"),)): 2,
    }


def test_gauges_without_a_mode_outlive_a_worker_if_they_are_measured(
    store: ClientStore, workers: Workers, reader: StoreReader
) -> None:
    one, other = workers
    with other.turn() as registry:
        Gauge("busy", "Counted.", registry=registry).inc()
        Gauge("temperature", "Measured.", registry=registry)
    with one.turn() as registry:
        Gauge("busy", "Counted.", registry=registry).inc()
        Gauge("temperature", "Measured.", registry=registry).set(21)
    one.die()
    store.retire(one.place)
    assert values(reader.families()) == {("busy", ()): 1, ("temperature", ()): 21}
    other.die()
    store.retire(other.place)
    assert values(reader.families()) == {("temperature", ()): 21}


def test_removed_label_sets_are_freed_and_their_memory_used_again(
    store: ClientStore, workers: Workers, reader: StoreReader
) -> None:
    worker = workers[0]
    with worker.turn() as registry:
        histogram = Histogram("wait", "Waits.", ["user"], registry=registry)
        counter = Counter("jobs", "Jobs.", ["user", "kind"], registry=registry)
        for user in map(str, range(200)):
            histogram.labels(user).observe(1, {"trace": user})
            counter.labels(user, "x").inc()
            counter.labels(user, "y").inc()
            histogram.remove(user)
            if hasattr(counter, "remove_by_labels"):
                counter.remove_by_labels({"user": user})
            else:
                counter.clear()
        histogram.labels("last").observe(1)
        histogram.labels("kept").observe(1)
        histogram.clear()
        histogram.labels("kept").observe(2)
    found = values(reader.families())
    assert found["wait_sum", (("user", "kept"),)] == 2
    assert {labels for name, labels in found if name == "wait_sum"} == {(("user", "kept"),)}
    assert not [name for name, _ in found if name == "jobs_total"]
    chain = ChainReader(store.chain_name(worker.place))
    assert len(chain.blocks()) == 1
    assert len(chain._segments) == 1
    chain.close()


def test_who_holds_a_removed_label_set_counts_for_himself(
    workers: Workers, reader: StoreReader
) -> None:
    with workers[0].turn() as registry:
        counter = Counter("jobs", "Jobs.", ["user"], registry=registry)
        held = counter.labels("a")
        held.inc(3)
        counter.remove("a")
        held.inc()
        assert held._value.get() == 4
        counter.labels("a").inc(10)
        held.inc()
    assert values(reader.families()) == {("jobs_total", (("user", "a"),)): 10}


def test_infos_and_states_are_the_latest_of_all(
    store: ClientStore, workers: Workers, reader: StoreReader
) -> None:
    for version, worker in zip("12", workers, strict=True):
        with worker.turn() as registry:
            Info("app", "App.", registry=registry).info({"version": version, "name": "x"})
            Info("unset", "Unset.", registry=registry)
            state = Enum("phase", "Phase.", ["job"], states=["idle", "busy"], registry=registry)
            state.labels("a")
    with workers[1].turn():
        state.labels("a").state("busy")
    expected = {
        ("app_info", (("name", "x"), ("version", "2"))): 1,
        ("unset_info", ()): 1,
        ("phase", (("job", "a"), ("phase", "idle"))): 0,
        ("phase", (("job", "a"), ("phase", "busy"))): 1,
    }
    assert values(reader.families()) == expected
    for worker in workers:
        worker.die()
        store.retire(worker.place)
        assert values(reader.families()) == expected


def test_the_latest_exemplar_of_all_workers_is_told(workers: Workers, reader: StoreReader) -> None:
    for trace, worker in zip("ab", workers, strict=True):
        with worker.turn() as registry:
            Counter("jobs", "Jobs.", registry=registry).inc(2, {"trace": trace})
            histogram = Histogram("wait", "Waits.", registry=registry, buckets=(1, 2))
            histogram.observe(0.5, {"trace": trace})
    histogram.observe(1.5, {"trace": "é" * 100})
    histogram.observe(1.5, {"trace": "long", **{f"l{n:02}": "x" for n in range(29)}})
    found = exemplars(reader.families())
    assert found["jobs_total", ()].labels == {"trace": "b"}
    assert found["wait_bucket", (("le", "1.0"),)].labels == {"trace": "b"}
    assert found["wait_bucket", (("le", "2.0"),)].labels["trace"] == "long"
    assert found["wait_bucket", (("le", "1.0"),)].value == 0.5
    text = openmetrics(_registry(reader)).decode()
    assert list(parse_openmetrics(text))


def test_an_endpoint_of_the_application_shows_all_workers(workers: Workers) -> None:
    for place, worker in enumerate(workers):
        with worker.turn() as registry:
            jobs = Counter("jobs", "Jobs.", ["worker"], registry=registry)
            jobs.labels(place).inc()
            Summary("size", "Sizes.", unit="bytes", registry=registry).observe(3)
    for worker in workers:
        with worker.turn() as registry:
            text = generate_latest(registry).decode()
            assert 'jobs_total{worker="0"} 1.0\njobs_total{worker="1"} 1.0' in text
            assert "size_bytes_count 2.0\nsize_bytes_sum 6.0" in text
            assert registry.get_sample_value("size_bytes_sum") == 6
            assert b"jobs" not in generate_latest(registry.restricted_registry(["size_bytes_sum"]))


def test_units_are_known_to_everybody(workers: Workers, reader: StoreReader) -> None:
    with workers[0].turn() as registry:
        Histogram("wait", "Waits.", ["x"], unit="seconds", registry=registry).labels("y")
    assert [(family.name, family.unit) for family in reader.families()] == [
        ("wait_seconds", "seconds")
    ]


def test_functions_of_gauges_are_asked_where_the_scrape_is_answered(
    workers: Workers, reader: StoreReader
) -> None:
    for place, worker in enumerate(workers):
        with worker.turn() as registry:
            Gauge("queue", "Queue.", registry=registry).set_function(partial(float, place))
            by_name = Gauge("queues", "Queues.", ["name"], registry=registry)
            by_name.labels("a").set_function(partial(float, 10 + place))
            by_name.labels("b").set(5)
    assert values(reader.families()) == {("queues", (("name", "b"),)): 5}
    for place, worker in enumerate(workers):
        with worker.turn() as registry:
            assert values(registry.collect()) == {
                ("queue", ()): place,
                ("queues", (("name", "a"),)): 10 + place,
                ("queues", (("name", "b"),)): 5,
            }


def test_threads_lose_no_count(workers: Workers, reader: StoreReader) -> None:
    with workers[0].turn() as registry:
        counter = Counter("jobs", "Jobs.", ["kind"], registry=registry)

        def count() -> None:
            for number in range(3000):
                counter.labels(number % 3).inc()

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(values(reader.families()).values()) == 12000


def test_values_outside_of_metrics_are_counted_too(workers: Workers, reader: StoreReader) -> None:
    """As extensions of prometheus_client make them for metrics of their own."""
    for worker in workers:
        with worker.turn():
            value: Any = prometheus_client.values.ValueClass(
                "counter", "own", "own_total", ("a",), ("b",), "Own."
            )
            value.inc(2)
            assert value.get() == 2
            assert not value._multiprocess
    assert values(reader.families()) == {("own_total", (("a", "b"),)): 4}


def test_a_subclass_that_makes_further_values(workers: Workers, reader: StoreReader) -> None:
    class Timed(Counter):
        def _metric_init(self) -> None:
            super()._metric_init()
            self._last: Any = prometheus_client.values.ValueClass(
                "gauge", "jobs_last", "jobs_last", (), (), "Last.", multiprocess_mode="max"
            )

    for place, worker in enumerate(workers):
        with worker.turn() as registry:
            timed = Timed("jobs", "Jobs.", registry=registry)
            timed.inc()
            timed._last.set(place)
    assert values(reader.families()) == {("jobs_total", ()): 2, ("jobs_last", ()): 1}


def test_a_full_shared_memory_does_not_fail_the_application(
    workers: Workers,
    reader: StoreReader,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(self: ChainWriter, size: int) -> None:
        raise SharedMemoryError("it is full")

    with workers[0].turn() as registry:
        Counter("before", "Before.", registry=registry).inc()
        monkeypatch.setattr(ChainWriter, "allocate", fail)
        for name in "abc":
            counter = Counter(name, "After.", registry=registry)
            counter.inc(1, {"trace": "x"})
            assert counter._value.get() == 1
        Info("info", "Info.", registry=registry).info({"a": "b"})
    assert values(reader.families()) == {("before_total", ()): 1}
    assert caplog.text.count("left out of the totals: it is full") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_the_application_counts_for_itself(
    workers: Workers, reader: StoreReader
) -> None:
    with workers[0].turn() as registry:
        counter = Counter("jobs", "Jobs.", ["kind"], registry=registry)
        counter.labels("a").inc(2)
        child = os.fork()
        if not child:
            counter.labels("a").inc(40)
            counter.labels("b").inc()
            os._exit(0 if counter.labels("a")._value.get() == 42 else 1)
        assert os.waitpid(child, 0)[1] == 0
        counter.labels("a").inc()
    assert values(reader.families()) == {("jobs_total", (("kind", "a"),)): 3}


@pytest.mark.parametrize("is_forked", [False, True])
def test_metrics_that_were_made_before_are_moved(is_forked: bool) -> None:
    registry = CollectorRegistry()
    counter = Counter("jobs", "Jobs.", ["kind"], registry=registry)
    counter.labels("a").inc(2)
    plain = Histogram("wait", "Waits.", registry=registry, buckets=(1, 2))
    plain.observe(1.5)
    gauge = Gauge("size", "Size.", registry=registry)
    gauge.set(7)
    asked = Gauge("asked", "Asked.", registry=registry, multiprocess_mode="max")
    Info("app", "App.", registry=registry).info({"version": "1"})
    state = Enum("phase", "Phase.", states=["idle", "busy"], registry=registry)
    state.state("busy")
    called = Gauge("called", "Called.", registry=registry)
    called.set_function(lambda: 3)
    gc.collect()
    with new_store() as store:
        store.assign(0)
        metrics = install(store.base, 0, is_forked=is_forked)
        assert metrics is not None
        with metrics:
            counter.labels("a").inc()
            asked.set(4)
            reader = StoreReader(store)
            found = values(reader.families())
            everything = values(registry.collect())
            reader.close()
        counter.labels("a").inc()  # goes on without the store
    before = 0 if is_forked else 1
    assert found["jobs_total", (("kind", "a"),)] == 1 + 2 * before
    assert found["wait_sum", ()] == 1.5 * before
    assert found["wait_count", ()] == before
    assert found["size", ()] == 7
    assert found["asked", ()] == 4
    assert found["app_info", (("version", "1"),)] == 1
    assert found["phase", (("phase", "busy"),)] == 1
    assert everything["called", ()] == 3
    assert ("called", ()) not in found


def test_prometheus_client_is_as_it_was_afterwards(workers: Workers) -> None:
    def state() -> list[object]:
        kinds = (MetricWrapperBase, Counter, Gauge, Summary, Histogram, Info, Enum)
        return [
            prometheus_client.values.ValueClass,
            Gauge.__init__.__defaults__,
            *[vars(kind).copy() for kind in kinds],
        ]

    before = state()
    with workers[0].turn():
        assert state() != before
    assert state() == before


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_a_directory_in_the_environment_is_the_users_choice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path))
    before = prometheus_client.values.ValueClass
    assert install("pounce-none", 0) is None
    assert prometheus_client.values.ValueClass is before


def _registry(reader: StoreReader) -> CollectorRegistry:
    registry = CollectorRegistry()

    class All:
        def collect(self) -> object:
            return reader.families()

    registry.register(All())  # type: ignore[arg-type]
    return registry
