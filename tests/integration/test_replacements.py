"""Workers that are replaced in time: never too many at once, each after its successor serves, and
no request is lost."""

from __future__ import annotations

import concurrent.futures
import re
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.endpoint import get
from tests.integration.pool_process import APP, Pool, serving_pool
from tests.waiting import wait_until

# Long enough to be seen by somebody who looks often.
SLOW_START = "import time\ntime.sleep(0.3)\n" + APP
GATED = "import os, time\nwhile not os.path.exists('gate'):\n    time.sleep(0.01)\n" + SLOW_START


@dataclass
class Watcher:
    """Looks at the pool again and again, and asks it for something each time."""

    pool: Pool
    seen: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    answers: int = 0

    def watch(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.look()

    def look(self) -> None:
        self.seen.append(self.pool.status())
        self.ask()

    def ask(self) -> None:
        try:
            with self.pool.connect() as connection:
                response = connection.ask(get("/", "Connection: close"))
        except OSError as error:
            self.failures.append(repr(error))
            return
        if response.status != 200:
            self.failures.append(repr(response))
        self.answers += 1

    def counts(self, *states: str) -> list[int]:
        """How many workers were in these states, each time."""
        return [
            sum(worker["state"] in states for worker in status["workers"]) for status in self.seen
        ]


def watched(pool: Pool, condition: Any, what: str, watcher: Watcher | None = None) -> Watcher:
    """What was seen until a condition holds."""
    watcher = watcher or Watcher(pool)
    ended = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as executor:
        watching = executor.submit(watcher.watch, ended)
        try:
            wait_until(condition, what)
        finally:
            ended.set()
        watching.result()
    assert watcher.failures == []
    assert watcher.answers > 0
    return watcher


def assert_successors_served_first(log: str, reason: str) -> int:
    """And in the log, before their predecessors were told to leave; returns how many there were."""
    replaced = re.findall(rf"worker (\d+) is replaced by worker (\d+): {reason}", log)
    for old, new in replaced:
        begin = log.index(f"worker {old} is replaced by worker {new}:")
        assert log.index(f"worker {new} is ready") < begin
        gone = re.search(rf"worker {old} \(pid \d+\) (.*)", log)
        assert gone is None or (gone.start() > begin and gone[1] == "exited with code 0")
    return len(replaced)


def assert_at_most(watcher: Watcher, limit: int, workers: int) -> None:
    assert max(watcher.counts("starting", "prepared", "opening")) <= limit
    assert min(watcher.counts("ready")) >= workers


@pytest.mark.parametrize("limit", [1, 2])
def test_lifetimes_end_one_after_the_other(limit: int) -> None:
    options = ("--max-lifetime", "3s", "--max-concurrent-replacements", str(limit))
    with serving_pool(*options, workers=3, app=SLOW_START) as pool:
        first = pool.pids()
        watcher = watched(pool, lambda: not pool.pids() & first, "all were replaced")
        # All three were due at about the same time.
        assert_at_most(watcher, limit, workers=3)
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert assert_successors_served_first(pool.server.stderr_text(), "max_lifetime") >= 3


def test_jitter_keeps_lifetimes_apart() -> None:
    options = ("--max-lifetime", "1s", "--max-lifetime-jitter", "3s")
    with serving_pool(*options, "--max-concurrent-replacements", "4", workers=4) as pool:
        ready: dict[int, float] = {}
        left: dict[int, float] = {}

        def all_gone() -> bool:
            now = time.monotonic()
            for worker in pool.workers(None):
                if worker["reason"] is None:
                    ready.setdefault(worker["worker_id"], now - worker["age"])
                else:
                    assert worker["reason"] in ("max_lifetime", "stop")
                    left.setdefault(worker["worker_id"], now)
            return len(left) >= 4

        wait_until(all_gone, "four were replaced")
        lifetimes = sorted(left[each] - ready[each] for each in left if each in ready)
        assert lifetimes[0] >= 1
        # Four draws from three seconds are not alike.
        assert lifetimes[-1] - lifetimes[0] > 0.1


def test_requests_with_jitter_and_a_limit_of_replacements() -> None:
    options = ("--max-requests", "20", "--max-requests-jitter", "20")
    with serving_pool(*options, workers=3, app=SLOW_START) as pool:
        first = pool.pids()
        watcher = watched(pool, lambda: not pool.pids() & first, "all were replaced")
        assert_at_most(watcher, 1, workers=3)
        served: dict[int, int] = {}
        for status in watcher.seen:
            for worker in status["workers"]:
                served[worker["pid"]] = max(worker["requests"], served.get(worker["pid"], 0))
        assert all(served[pid] >= 20 for pid in first)
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert assert_successors_served_first(pool.server.stderr_text(), "max_requests") >= 3


@pytest.mark.parametrize("limit", [1, 3])
def test_a_reload_starts_so_many_at_once_and_no_more(limit: int) -> None:
    options = ("--max-concurrent-replacements", str(limit))
    with serving_pool(*options, workers=3, app=SLOW_START) as pool:
        first = pool.pids()
        pool.write_app(GATED)
        pool.signal(signal.SIGHUP)
        watcher = Watcher(pool)

        def all_start() -> bool:
            watcher.look()
            return watcher.counts("starting")[-1] == limit

        wait_until(all_start, f"{limit} start at once")
        for _ in range(10):
            watcher.look()
        (pool.folder / "gate").touch()
        watched(pool, lambda: not pool.pids() & first, "all were replaced", watcher)
        # Those that are prepared wait for the others.
        assert max(watcher.counts("starting")) == limit
        assert min(watcher.counts("ready")) >= 3
        pool.wait_for_workers(3, without=first)
        assert assert_successors_served_first(pool.server.stderr_text(), "reload") == 3


def test_a_successor_that_does_not_start_leaves_the_old_worker_in_its_place() -> None:
    with serving_pool("--max-lifetime", "1s", workers=2) as pool:
        pool.write_app("raise RuntimeError('not now')\n")
        first = pool.pids()
        pool.wait_for_log("not now", 3)
        assert {int(pool.body()) for _ in range(5)} <= first | pool.pids()
        assert len(pool.pids()) == 2
        pool.write_app(APP)
        old = pool.pids()
        wait_until(lambda: not pool.pids() & old, "both are replaced")
