"""A process without file descriptors left: it waits for some, neither busily nor noisily."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.endpoint import Connection, Endpoint, get, serve
from tests.integration.pool_process import serving_pool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit")

WATCHED = 2.0
"""Seconds of which a process that tries again and again would use all."""


@contextlib.contextmanager
def no_descriptors_left(pid: int) -> Iterator[None]:
    """Those that are open stay so."""
    process = psutil.Process(pid)
    soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))


def assert_is_not_busy(pid: int) -> None:
    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(WATCHED)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < WATCHED / 4


# The master


def test_a_master_that_can_spawn_nobody_tries_again_later() -> None:
    with serving_pool() as pool:
        killed, left = pool.pids()
        with no_descriptors_left(pool.server.pid):
            os.kill(killed, signal.SIGKILL)
            pool.wait_for_log("could not be started: [Errno 24]", times=2)
            assert_is_not_busy(pool.server.pid)
            assert {int(pool.body()) for _ in range(5)} == {left}
            assert pool.server.stderr_text().count("could not be started") < 10
        assert pool.wait_for_workers(2, without={killed}) > {left}
        pool.served_by(2)


@pytest.mark.parametrize("strategy", ["reuseport", "shared"])
def test_a_pool_that_cannot_grow_does_later(strategy: str) -> None:
    with serving_pool("--socket-strategy", strategy) as pool:
        first = pool.pids()
        with no_descriptors_left(pool.server.pid):
            pool.signal(signal.SIGTTIN)
            pool.wait_for_log("could not be started", times=2)
            assert int(pool.body()) in first
        pids = pool.wait_for_workers(3)
        assert pids > first
        if strategy == "reuseport":
            pool.served_by(3)


def test_a_reload_that_cannot_spawn_changes_nothing() -> None:
    with serving_pool() as pool:
        first = pool.pids()
        with no_descriptors_left(pool.server.pid):
            pool.signal(signal.SIGHUP)
            pool.wait_for_log("generation 2 failed")
        assert pool.status()["last_reload"]["result"] == "failed"
        assert pool.wait_for_workers(2) == first
        assert pool.reload_and_wait()["result"] == "succeeded"


# Workers


@pytest.mark.parametrize("via", ["tcp", "tls", "unix"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_connections_wait_until_a_worker_has_descriptors(loop: str, via: str) -> None:
    with serving_pool("--supervise", "--loop", loop, workers=1, via=via) as pool:
        [pid] = pool.pids()
        with contextlib.ExitStack() as stack:
            kept = stack.enter_context(pool.connect())
            kept.ask(get("/"))
            with no_descriptors_left(pid):
                waiting = [stack.enter_context(plain(pool)) for _ in range(5)]
                pool.wait_for_log("out of file descriptors")
                assert_is_not_busy(pid)
                assert int(kept.ask(get("/")).body) == pid
                assert not select.select([each.sock for each in waiting], [], [], 0)[0]
            for each in waiting:
                assert int(secured(pool, each).ask(get("/")).body) == pid
        assert int(pool.body()) == pid
        assert pool.server.stderr_text().count("out of file descriptors") == 1
        assert "socket.accept()" not in pool.server.stderr_text()


def plain(endpoint: Endpoint) -> Connection:
    """A connection whose TLS handshake has not begun."""
    return Connection(endpoint.server.connect())


def secured(endpoint: Endpoint, connection: Connection) -> Connection:
    if endpoint.ssl_context is not None:
        connection.sock = endpoint.ssl_context.wrap_socket(
            connection.sock, server_hostname="localhost"
        )
    return connection


@pytest.mark.parametrize("via", ["tcp", "tls"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_more_connections_than_descriptors_are_served_in_their_turn(
    loop: str, via: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 100\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with (
        serve("--timeout-tls-handshake", "60s", loop=loop, via=via, python=str(python)) as endpoint,
        contextlib.ExitStack() as stack,
    ):
        for each in [stack.enter_context(plain(endpoint)) for _ in range(150)]:
            assert secured(endpoint, each).ask(get("/", "Connection: close")).status == 200
            each.sock.close()
        assert endpoint.ask(get("/")).status == 200
        assert endpoint.server.stderr_text().count("out of file descriptors") == 1


def test_a_worker_that_is_out_of_descriptors_stops() -> None:
    with serving_pool("--supervise", workers=1, allow_unhandled=True) as pool:
        [pid] = pool.pids()
        with no_descriptors_left(pid), plain(pool):
            pool.wait_for_log("out of file descriptors")
            pool.signal(signal.SIGTERM)
            # What the application and the loop need for an orderly end cannot be had.
            assert pool.server.wait() == 0
