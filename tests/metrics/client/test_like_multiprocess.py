"""The totals are those of prometheus_client's own multiprocess mode, whatever workers do and
whenever they die; only that the store forgets nothing and needs no files."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, Final
from unittest import mock

import prometheus_client.metrics
import prometheus_client.values
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, multiprocess

from pounce.metrics.client.reader import StoreReader
from tests.metrics.client.simulated import SimulatedWorker, new_store, values

multi_process_value: Any = prometheus_client.values.MultiProcessValue
multi_process_collector: Any = multiprocess.MultiProcessCollector
mark_dead: Any = multiprocess.mark_process_dead

PLACES: Final = 3
MODES: Final[Any] = tuple(sorted(Gauge._MULTIPROC_MODES))
LABELS: Final = ("", "a", "b")
NUMBERS: Final = st.integers(-8, 24).map(lambda number: number / 4)  # exact, in any order of sums


class Both:
    """The metrics of one worker."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self.counter = Counter("jobs", "Jobs.", ["kind"], registry=registry)
        self.plain = Counter("calls", "Calls.", registry=registry)
        self.summary = Summary("size_bytes", "Sizes.", ["kind"], registry=registry)
        self.histogram = Histogram(
            "wait", "Waits.", ["kind"], registry=registry, unit="seconds", buckets=(0.5, 1, 2.5)
        )
        self.gauges = {
            mode: Gauge(f"g_{mode}", "G.", ["kind"], registry=registry, multiprocess_mode=mode)
            for mode in MODES
        }


def close_files(value_class: Any) -> None:
    """Close what a worker of theirs has open; the oldest versions have no method for it."""
    for file in inspect.getclosurevars(value_class._MmapedValue__reset).nonlocals["files"].values():
        file.close()


class Times:
    """A clock by which no two things happen at the same time."""

    def __init__(self) -> None:
        self._now = 1000.0

    def time(self) -> float:
        self._now += 1
        return self._now


class Workers(RuleBasedStateMachine):
    """Workers that count in both ways."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.mkdtemp(prefix="pounce-")
        self._environment = mock.patch.dict(
            "os.environ", {"PROMETHEUS_MULTIPROC_DIR": self._folder}
        )
        self._environment.start()
        self._clock = Times()
        self._context = new_store(PLACES)
        self._store = self._context.__enter__()
        self._reader = StoreReader(self._store)
        self._pid = 0
        self._workers: dict[int, SimulatedWorker] = {}
        self._ours: dict[int, Both] = {}
        self._theirs: dict[int, tuple[Any, Both]] = {}

    def teardown(self) -> None:
        for worker in self._workers.values():
            worker.die()
        for value_class, _ in self._theirs.values():
            close_files(value_class)
        self._reader.close()
        self._context.__exit__(None, None, None)
        self._environment.stop()
        shutil.rmtree(self._folder)

    @initialize()
    def first(self) -> None:
        self.start()

    @precondition(lambda self: len(self._workers) < PLACES)
    @rule()
    def start(self) -> None:
        place = next(place for place in range(PLACES) if place not in self._workers)
        self._pid += 1
        pid = self._pid
        worker = self._workers[place] = SimulatedWorker(self._store, place, pid)
        with worker.turn() as registry:
            self._ours[place] = Both(registry)
        value_class = multi_process_value(lambda: pid)
        with mock.patch.object(prometheus_client.values, "ValueClass", value_class):
            self._theirs[place] = value_class, Both(None)

    @precondition(lambda self: self._workers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self._workers)))
        pid = next(writer.pid for writer in self._store.writers() if writer.place == place)
        self._workers.pop(place).die()
        del self._ours[place]
        close_files(self._theirs.pop(place)[0])
        self._store.retire(place)
        mark_dead(pid)

    @precondition(lambda self: self._workers)
    @rule(data=st.data(), kind=st.sampled_from(LABELS), number=NUMBERS, how=st.integers(0, 9))
    def count(self, data: st.DataObject, kind: str, number: float, how: int) -> None:
        place = data.draw(st.sampled_from(sorted(self._workers)))
        mode = data.draw(st.sampled_from(MODES)) if how >= 4 else ""
        now = self._clock.time()

        def act(metrics: Both) -> None:
            if how == 0:
                metrics.counter.labels(kind).inc(abs(number))
            elif how == 1:
                metrics.plain.inc()
            elif how == 2:
                metrics.summary.labels(kind).observe(number)
            elif how == 3:
                metrics.histogram.labels(kind).observe(number)
            elif how >= 7 and not mode.endswith("mostrecent"):
                metrics.gauges[mode].labels(kind).inc(number)
            else:
                metrics.gauges[mode].labels(kind).set(number)

        self._in_both(place, act, now)

    def _in_both(self, place: int, act: Callable[[Both], None], now: float) -> None:
        clock = mock.Mock()
        clock.time.return_value = now
        value_class, theirs = self._theirs[place]
        with mock.patch.object(prometheus_client.metrics, "time", clock):
            with self._workers[place].turn():
                act(self._ours[place])
            with mock.patch.object(prometheus_client.values, "ValueClass", value_class):
                act(theirs)

    @invariant()
    def totals_are_the_same(self) -> None:
        expected = values(multi_process_collector(CollectorRegistry()).collect())
        ours = values(self._reader.families())
        assert ours == pytest.approx(expected)
        for worker in self._workers.values():
            with worker.turn() as own:
                shown = values(own.collect())
            assert shown == ours


TestLikeMultiprocess = Workers.TestCase
TestLikeMultiprocess.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
