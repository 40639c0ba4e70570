"""What a scrape gets of the application's metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from pounce.metrics.client.callbacks import add_callbacks
from pounce.metrics.client.reader import StoreReader

_OF_ONE_PROCESS = (ProcessCollector, GCCollector)
"""What they say of the one worker that happens to answer would jump from scrape to scrape."""


class ClientCollector:
    """The application's metrics over all workers.

    Args:
        reader: Of the workers' series; None: there is one process, and its registry has all.
        registry: Its collectors and callbacks are asked in this process, which therefore must be
            one that runs the application; None: it is not, and they are left out.
    """

    def __init__(
        self,
        reader: StoreReader | None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._reader = reader
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """The metric families, each name once.

        Raises:
            SharedMemoryError: Shared memory is damaged.
            Exception: Of a collector of the application.
        """
        families = {} if self._reader is None else self._of_all_workers(self._reader)
        for collector in self._collectors():
            if self._reader is not None and isinstance(collector, MetricWrapperBase):
                self._add_callbacks(collector, families)
                continue
            for family in collector.collect():
                families.setdefault(family.name, family)
        yield from families.values()

    def _of_all_workers(self, reader: StoreReader) -> dict[str, Metric]:
        return {family.name: family for family in reader.families()}

    def _collectors(self) -> Iterator[Collector]:
        if self._registry is None:
            return
        for collector in list(self._registry._collector_to_names):
            if not isinstance(collector, _OF_ONE_PROCESS):
                yield collector

    def _add_callbacks(self, metric: MetricWrapperBase, families: dict[str, Metric]) -> None:
        family = families.get(metric._name)
        if family is None:
            family = metric._get_metric()  # type: ignore[no-untyped-call]
        add_callbacks(metric, family)
        if family.samples:
            families[metric._name] = family
