"""Workers that are killed while they count: nothing that was counted is lost, or counted twice."""

from __future__ import annotations

import mmap
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.store import ClientStore
from tests.metrics.client.simulated import Key, values

ROOT = Path(__file__).resolve().parent.parent.parent.parent

WORKER = """
import itertools, mmap, sys
from pounce.metrics.client.worker import install

base, place, tally_path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
assert install(base, place) is not None
from prometheus_client import Counter, Gauge, Histogram

with open(tally_path, "r+b") as file:
    tally = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
jobs = Counter("jobs", "Jobs.", ["kind"])
waits = Histogram("waits", "Waits.", ["kind"], buckets=(1, 2, 3))
busy = Gauge("busy", "Busy.")
print("ready", flush=True)
for number in itertools.count():
    kind = str(number % 5)
    busy.inc()
    jobs.labels(kind).inc()
    tally[place] += 1
    waits.labels(kind).observe(number % 4)
    if number % 50 == 49:
        waits.remove("4")  # frees a block, which the next kind takes
    busy.dec()
"""


def test_totals_are_what_killed_workers_counted(store: ClientStore, tmp_path: Path) -> None:
    rng = random.Random(5)
    path = tmp_path / "tally"
    path.write_bytes(bytes(8 * store.places))
    with path.open("r+b") as file:
        tally = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
    reader = StoreReader(store)
    watcher = Watcher(store)
    running: dict[int, subprocess.Popen[str]] = {}
    killed = 0
    try:
        for _ in range(12):
            for place in range(3):
                if place not in running:
                    running[place] = start(store, place, path)
            time.sleep(rng.uniform(0.0, 0.05))  # it may be killed at any moment
            place = rng.choice(sorted(running))
            process = running.pop(place)
            process.send_signal(signal.SIGKILL)
            close(process)
            killed += 1
            store.retire(place)
    finally:
        for process in running.values():
            process.kill()
            close(process)
    for place in running:
        killed += 1
        store.retire(place)
    watcher.stop()
    counted = sum(tally)
    found = values(reader.families())
    jobs = sum(at for (name, _), at in found.items() if name == "jobs_total")
    # Each may have been killed between its increment and the tally's.
    assert counted <= jobs <= counted + killed
    for kind in "0123":
        assert found["jobs_total", (("kind", kind),)] >= found["waits_count", (("kind", kind),)]
    assert ("busy", ()) not in found
    assert watcher.scrapes > 10
    reader.close()


def start(store: ClientStore, place: int, tally: Path) -> subprocess.Popen[str]:
    store.assign(place)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, store.base, str(place), str(tally)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def close(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)


class Watcher:
    """Scrapes all the time, and has it noted when a counter falls."""

    def __init__(self, store: ClientStore) -> None:
        self.scrapes = 0
        self._fallen: list[tuple[Key, float, float]] = []
        self._error: BaseException | None = None
        self._store = ClientStore.attach(store.base)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(60)
        self._store.close()
        assert self._error is None
        assert not self._fallen

    def _run(self) -> None:
        reader = StoreReader(self._store)
        last: dict[Key, float] = {}
        try:
            while not self._stopped.is_set():
                now = values(reader.families())
                for key, value in last.items():
                    if key[0] == "jobs_total" and now.get(key, 0) < value:
                        self._fallen.append((key, value, now.get(key, 0)))
                last = now
                self.scrapes += 1
        except BaseException as error:
            self._error = error
        reader.close()
