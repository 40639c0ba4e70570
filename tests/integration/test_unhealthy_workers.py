"""Applications that misbehave, and the workers that are replaced for it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from pounce.runtime import gil_enabled
from tests.integration.endpoint import Connection, get
from tests.integration.pool_process import Pool, serving_pool
from tests.waiting import wait_until

APP = """
import asyncio
import os
import resource
import time
from pathlib import Path

HERE = Path(__file__).parent
kept = []

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))


def work():
    while not (HERE / "go").exists():
        time.sleep(0.01)


def threads(library):
    if library == "asyncio":
        return asyncio.to_thread(work)
    if library == "anyio":
        import anyio.to_thread

        return anyio.to_thread.run_sync(work)
    import asgiref.sync

    return asgiref.sync.sync_to_async(work, thread_sensitive=True)()


async def app(scope, receive, send):
    assert scope["type"] == "http"
    status = 200
    match scope["path"].split("/")[1:]:
        case ["grow", size]:
            kept.append(b"x" * (int(size) * 1024**2))
        case ["open", number]:
            kept.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(int(number)))
        case ["error"]:
            status = 500
        case ["thread", library]:
            kept.append(asyncio.ensure_future(threads(library)))
    body = str(os.getpid()).encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

with_threads = pytest.mark.skipif(
    not gil_enabled(), reason="threads are not looked at where they run meanwhile"
)


@contextlib.contextmanager
def pool_with(*options: str) -> Iterator[Pool]:
    with serving_pool("--no-access-log", "--metrics", *options, app=APP) as pool:
        try:
            yield pool
        finally:
            (pool.folder / "go").touch()


def settle(pool: Pool) -> None:
    """Waits until all workers have been measured since they became ready."""
    began = pool.status()["uptime"]
    wait_until(lambda: pool.status()["uptime"] > began + 2.5, "workers are measured")
    for _ in range(3):
        pool.status()  # a measurement that was due by then comes before the next answer but one


def recycled(pool: Pool) -> dict[str, float]:
    """How many workers the metrics say were replaced, by reason."""
    text = pool.ask(get("/metrics", "Connection: close")).body.decode()
    found = re.findall(r'^pounce_worker_recycles_total\{reason="(\w+)"\} (\S+)$', text, re.M)
    return {reason: float(number) for reason, number in found if float(number)}


def ids_of(pool: Pool) -> dict[int, int]:
    """The numbers of the workers by their pids: to be asked for before one misbehaves."""
    return {worker["pid"]: worker["worker_id"] for worker in pool.workers()}


def expect_replacement(
    pool: Pool, before: dict[int, int], connection: Connection, pid: int, reason: str
) -> None:
    """The worker has a successor before it leaves, and the other one stays."""
    [other] = before.keys() - {pid}
    worker_id = before[pid]
    pool.wait_for_log(f"worker {worker_id} is replaced by worker 3: {reason}")
    (pool.folder / "go").touch()
    connection.sock.close()
    assert other in pool.wait_for_workers(2, without={pid})
    assert recycled(pool) == {reason: 1}
    assert f"worker {worker_id} (pid {pid}) exited with code 0" in pool.server.stderr_text()


@pytest.mark.parametrize(
    ("options", "requests", "reason"),
    [
        (["--max-rss", "200MB"], ["/grow/200"], "max_rss"),
        (["--max-rss-growth", "80MB", "--rss-settle-time", "0"], ["/grow/100"], "max_rss_growth"),
        (["--max-open-fds", "50"], ["/open/150"], "max_open_fds"),
        (
            ["--max-error-rate", "50", "--error-rate-min-requests", "10"],
            ["/"] * 4 + ["/error"] * 6,
            "max_error_rate",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_worker_that_misbehaves_is_replaced(
    options: list[str], requests: list[str], reason: str
) -> None:
    with pool_with(*options) as pool:
        settle(pool)
        before = ids_of(pool)
        connection = pool.connect()
        pids = {int(connection.ask(get(path)).body) for path in requests}
        [pid] = pids
        expect_replacement(pool, before, connection, pid, reason)


@with_threads
@pytest.mark.parametrize("library", ["asyncio", "anyio", "asgiref"])
def test_a_worker_whose_threads_are_stuck_is_replaced(library: str) -> None:
    if library != "asyncio":
        pytest.importorskip(library)
    with pool_with("--max-stuck-threads", "1", "--thread-stall-timeout", "1s") as pool:
        before = ids_of(pool)
        connection = pool.connect()
        pid = int(connection.ask(get(f"/thread/{library}")).body)
        pool.wait_for_log("has been in one call for too long")
        expect_replacement(pool, before, connection, pid, "max_stuck_threads")
        log = pool.server.stderr_text()
        assert f'app.py", line {APP.splitlines().index("        time.sleep(0.01)") + 1} in' in log


@with_threads
def test_stuck_threads_are_shown_where_nobody_is_replaced_for_them() -> None:
    with pool_with("--thread-stall-timeout", "1s") as pool:
        with pool.connect() as connection:
            pid = int(connection.ask(get("/thread/asyncio")).body)

        def stuck() -> dict[int, int]:
            return {w["pid"]: w["stuck_threads"] for w in pool.workers() if w["stuck_threads"]}

        assert wait_until(stuck, "the thread is found") == {pid: 1}
        assert len(pool.workers(None)) == 2
        (pool.folder / "go").touch()
        wait_until(lambda: not stuck(), "it has come back")


def test_a_limit_that_no_worker_keeps_does_not_empty_the_pool() -> None:
    with pool_with("--max-rss", "1MB") as pool:
        held = "should be replaced (max_rss), but has to wait"
        pool.wait_for_log(held)
        pool.wait_for_workers(2)
        pids = pool.pids()
        settle(pool)
        assert pool.pids() == pids
        assert recycled(pool) == {"max_rss": 2}
        assert pool.server.stderr_text().count(held) == 1
        assert pool.served_by(2) == pids


def test_policies_that_threads_cannot_have_are_said_to_have_no_effect() -> None:
    options = ["--worker-mode", "thread", "--max-rss", "1MB", "--max-stuck-threads", "1"]
    with serving_pool(*options) as pool:
        pool.wait_for_log("no effect of max_rss, max_stuck_threads")
