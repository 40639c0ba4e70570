"""What metrics cost: ``python -m bench.metrics [--parts cost,increment,scrape]``.

- cost: CPU time for each request with metrics and the black box on, against off in the same rounds.
- increment: one increment of a counter of the application, against the multiprocess mode of
  prometheus_client.
- scrape: one scrape of many workers, from their shared memory or files to the text, against
  prometheus_client's MultiProcessCollector with generate_latest; after the first generation of
  workers and after many.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from unittest import mock

import prometheus_client.values
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.metrics_core import Metric

from bench.environment import choose_cores, only_one_benchmark, prepare, require_tools
from bench.errors import BenchError
from bench.report import ratios as ratios_of
from bench.run import Plan, exit_on_term, run_workload
from bench.workloads import WORKLOADS
from pounce.metrics.client.patches import Patches
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.recorder import Recorder
from pounce.metrics.client.store import ClientStore
from pounce.metrics.encoder import encoder_for
from pounce.shm import names

INCREMENTS: Final = 20_000
ROUNDS: Final = 30


def use_metrics(registry: CollectorRegistry | None) -> Counter:
    """150 time series, as an application has them: most are buckets of the histograms of its
    routes; some counters and gauges."""
    wait = Histogram("wait_seconds", "Waits.", ["method", "path"], registry=registry)
    for number in range(7):
        wait.labels("GET", f"/items/{number}").observe(0.2)
    jobs = Counter("jobs", "Jobs.", ["kind"], registry=registry)
    for kind in range(20):
        jobs.labels(str(kind)).inc()
    for number in range(10):
        gauge = Gauge(f"size_{number}", "Sizes.", registry=registry, multiprocess_mode="livesum")
        gauge.set(number)
    return Counter("calls", "Calls.", registry=registry)


class Worker:
    """One worker of the store, in this process."""

    def __init__(self, store: ClientStore, place: int) -> None:
        store.assign(place)
        self.reader = StoreReader(store)
        self.recorder = Recorder(store.start(place))
        patches = Patches(self.recorder, self.reader)
        patches.apply()
        self.registry = CollectorRegistry()
        self.counter = use_metrics(self.registry)
        patches.remove()

    def close(self) -> None:
        self.recorder.close()
        self.reader.close()


@contextlib.contextmanager
def new_store(places: int) -> Iterator[ClientStore]:
    store = ClientStore.create(names.new_name(), places)
    try:
        yield store
    finally:
        store.close()
        store.remove()


def their_counters(workers: int) -> list[Counter]:
    """The counters of workers in multiprocess mode, whose files are in the folder that the
    environment names."""
    counters = []
    for pid in range(1, workers + 1):
        make: Any = prometheus_client.values.MultiProcessValue
        # The increments are measured with the identifier that workers have.
        value_class = make() if workers == 1 else make(lambda pid=pid: pid)
        with mock.patch.object(prometheus_client.values, "ValueClass", value_class):
            counters.append(use_metrics(None))
    return counters


def microseconds(call: Callable[[], object], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times * 1e6


def in_turns(calls: dict[str, Callable[[], object]], times: int) -> dict[str, float]:
    """The best of many rounds, taken in turns, so that a noisy machine treats all alike."""
    best = dict.fromkeys(calls, math.inf)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            best[name] = min(best[name], microseconds(call, times))
    return best


def compare_increments() -> None:
    [theirs] = their_counters(1)
    with new_store(1) as store:
        worker = Worker(store, 0)
        took = in_turns({"theirs": theirs.inc, "ours": worker.counter.inc}, INCREMENTS)
        worker.close()
    theirs_took, ours_took = took["theirs"], took["ours"]
    print(f"an increment: {ours_took:.3f} us, multiprocess mode {theirs_took:.3f} us:")
    print(f"  {theirs_took / ours_took:.1f} times faster")


def compare_scrapes(workers: int, generations: int) -> None:
    counters = their_counters(workers)
    with new_store(workers) as store:
        running = [Worker(store, place) for place in range(workers)]
        reader = StoreReader(store)
        samples = sum(len(family.samples) for family in reader.families())
        theirs = Page(collect_files)

        def page() -> bytes:
            return encoder_for("").encode((), reader.families())

        first = in_turns({"theirs": theirs.text, "ours": page}, 1)
        size, their_size = len(page()), len(theirs.text())
        folds = []
        for generation in range(generations):
            place = generation % workers
            running[place].close()
            begin = time.perf_counter()
            store.retire(place)
            folds.append(time.perf_counter() - begin)
            running[place] = Worker(store, place)
        last = in_turns({"ours": page}, 1)
        grown = len(page()) - size
        reader.close()
        for worker in running:
            worker.close()
    del counters
    print(f"a scrape of {workers} workers with {samples} series each:")
    print(f"  multiprocess mode: {first['theirs'] / 1e3:.2f} ms, {their_size} bytes")
    for name, took in (("the first workers", first), (f"{generations} more", last)):
        took_ours, ratio = took["ours"] / 1e3, first["theirs"] / took["ours"]
        print(f"  after {name}: {took_ours:.2f} ms, {ratio:.0f} times faster")
    print(f"  the text of {size} bytes has grown by {grown}, as its numbers have")
    print(f"  a fold: {statistics.median(folds) * 1e3:.2f} ms")


def collect_files() -> Iterable[Metric]:
    """As an application in multiprocess mode is told to do it: a collector for each scrape."""
    collector: Any = multiprocess.MultiProcessCollector
    found: Iterable[Metric] = collector(CollectorRegistry()).collect()
    return found


class Page:
    """Metrics as prometheus_client writes them."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        return generate_latest(self._registry)


def compare_cost(python: str, rounds: int, seconds: int) -> None:
    """With the load of the workload `plain`, where a request costs least."""
    require_tools()
    server_cpu, client_cpu = choose_cores(None)
    plan = Plan(
        workloads=[WORKLOADS["plain"]],
        servers=["pounce-metrics", "pounce"],
        rounds=rounds,
        seconds=seconds,
        server_cpu=server_cpu,
        client_cpu=client_cpu,
        baseline=None,
        pounce_args=(),
        restart=True,
    )
    with only_one_benchmark():
        environment = prepare(python)
        outcome = run_workload(plan, environment, plan.workloads[0])
    for name, fault in outcome.faults.items():
        raise BenchError(f"{name}: {fault}")
    ratios = ratios_of(outcome.rounds, "pounce-metrics", "pounce", "cpu_us")
    cost = {name: statistics.median(s.cpu_us for s in at) for name, at in outcome.rounds.items()}
    print(f"CPU for each request, {environment.interpreter['version']}:")
    print(f"  off {cost['pounce']:.2f} us, on {cost['pounce-metrics']:.2f} us,", end=" ")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def main() -> int:
    signal.signal(signal.SIGTERM, exit_on_term)
    parser = argparse.ArgumentParser(prog="python -m bench.metrics")
    parser.add_argument("--parts", default="cost,increment,scrape")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of `cost`")
    parser.add_argument("--rounds", type=int, default=9, help="of `cost`")
    parser.add_argument("--seconds", type=int, default=3, help="of load in each")
    parser.add_argument("--workers", type=int, default=64, help="of `scrape`")
    parser.add_argument("--generations", type=int, default=1000)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if "cost" in parts:
        try:
            compare_cost(options.python, options.rounds, options.seconds)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    for part, compare in (
        ("increment", compare_increments),
        ("scrape", lambda: compare_scrapes(options.workers, options.generations)),
    ):
        if part in parts:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
                compare()
    return 0


if __name__ == "__main__":
    sys.exit(main())
