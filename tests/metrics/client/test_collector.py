"""What a scrape gets of the application's metrics, and what not."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pounce.metrics.client.collector import ClientCollector
from pounce.metrics.client.reader import StoreReader
from tests.metrics.client.simulated import SimulatedWorker, values


class Disk(Collector):
    """A collector of an application."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("disk_free_bytes", "Free.", value=7)


def fill(registry: CollectorRegistry) -> None:
    Counter("jobs", "Jobs.", registry=registry).inc()
    Gauge("queue", "Queue.", registry=registry).set_function(lambda: 3)
    by_name = Gauge("queues", "Queues.", ["name"], registry=registry)
    by_name.labels("a").set_function(lambda: 4)
    by_name.labels("b").inc()
    registry.register(Disk())


def test_collectors_and_functions_are_asked_in_the_worker_that_answers(
    workers: list[SimulatedWorker],
) -> None:
    for worker in workers:
        with worker.turn() as registry:
            fill(registry)
    one = workers[0]
    with one.turn():
        found = values(ClientCollector(one.reader, one.registry).collect())
    assert found == {
        ("jobs_total", ()): 2,
        ("queue", ()): 3,
        ("queues", (("name", "a"),)): 4,
        ("queues", (("name", "b"),)): 2,
        ("disk_free_bytes", ()): 7,
    }


def test_a_process_without_the_application_has_what_is_shared(
    workers: list[SimulatedWorker], reader: StoreReader
) -> None:
    with workers[0].turn() as registry:
        fill(registry)
    assert values(ClientCollector(reader).collect()) == {
        ("jobs_total", ()): 1,
        ("queues", (("name", "b"),)): 1,
    }


def test_a_single_process_has_all_in_its_registry() -> None:
    registry = CollectorRegistry()
    fill(registry)
    found = values(ClientCollector(None, registry).collect())
    assert found["jobs_total", ()] == 1
    assert found["queue", ()] == 3
    assert found["disk_free_bytes", ()] == 7


def test_what_is_of_one_process_alone_is_left_out(reader: StoreReader) -> None:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    names = {family.name for family in ClientCollector(reader, registry).collect()}
    assert names == {"python_info"}
