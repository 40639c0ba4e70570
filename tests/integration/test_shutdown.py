"""How the program ends: what is in flight finishes, nothing hangs, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.endpoint import Connection, Endpoint, get, new_key, post, serve
from tests.integration.server_process import ServerProcess
from tests.ports import quiet_port
from tests.waiting import PATIENCE, wait_until

TERM, INT = signal.SIGTERM, signal.SIGINT
DEADLINE = 100.0
"""Seconds of --timeout-graceful-shutdown where the end must not have to wait for it: longer than a
test waits for an end."""


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def serving(
    loop: str = "uvloop",
    graceful: float = DEADLINE,
    *options: str,
    via: str = "tcp",
    **more: Any,
) -> Iterator[Endpoint]:
    words = ("--timeout-graceful-shutdown", str(graceful), *options)
    with serve(*words, loop=loop, via=via, **more) as endpoint:
        yield endpoint


def stop(endpoint: Endpoint, number: signal.Signals = TERM) -> None:
    """Sends a signal and returns when the server has begun to stop."""
    endpoint.server.send_signal(number)
    wait_until(lambda: "shutting down" in endpoint.server.stderr_text(), "it shuts down")


def assert_refused(endpoint: Endpoint) -> None:
    wait_until(endpoint.is_refused, "no connection is accepted any more")


@pytest.mark.parametrize("number", [TERM, INT])
@pytest.mark.parametrize("via", ["tcp", "tls", "unix"])
def test_a_request_in_flight_finishes(loop: str, via: str, number: signal.Signals) -> None:
    key = new_key()
    with serving(loop, via=via) as endpoint:
        busy = endpoint.connect()
        idle = endpoint.connect()
        with busy, idle:
            idle.ask(get("/"))
            busy.send(get(f"/slow/{key}"))
            endpoint.wait_for(key, "started")
            gate = endpoint.connect()
            gate.send(get(f"/open/{key}")[:-1])
            stop(endpoint, number)
            assert idle.rest() == b""
            assert_refused(endpoint)
            assert busy.is_silent()
            # A request that had begun to arrive is served as well.
            opened = gate.ask(b"\n")
            assert (opened.body, opened.closes) == (b"opened", True)
            answer = busy.receive()[0]
            assert (answer.body, answer.closes) == (key.encode(), True)
            assert busy.rest() == gate.rest() == b""
            gate.sock.close()
        assert endpoint.server.wait() == 0
        if endpoint.server.uds is not None:
            assert not Path(endpoint.server.uds).exists()


def test_the_port_is_free_at_once() -> None:
    port = str(quiet_port())
    with (
        serving("uvloop", DEADLINE, "--port", port) as endpoint,
        endpoint.connect() as connection,
    ):
        connection.ask(get("/"))
        stop(endpoint)
        assert endpoint.server.wait() == 0
        with serving("uvloop", 1, "--port", port) as again:
            assert again.ask(get("/again")).body == b"/again"


def test_a_body_that_is_arriving_is_waited_for(loop: str) -> None:
    with serving(loop) as endpoint, endpoint.connect() as connection:
        request = post("/echo", bytes(1000))
        connection.send(request[:-500])
        stop(endpoint)
        assert connection.is_silent()
        answer = connection.ask(request[-500:], "POST")
        assert (len(answer.body), answer.closes) == (1000, True)
        assert connection.rest() == b""
        assert endpoint.server.wait() == 0


def test_an_ongoing_stream_is_waited_for(loop: str) -> None:
    key = new_key()
    with serving(loop) as endpoint, endpoint.connect() as connection:
        gate = endpoint.connect()
        connection.send(get(f"/stream/{key}/2"))
        while b"part 0" not in connection.sock.recv(65536):
            pass
        gate.send(get(f"/open/{key}")[:-1])
        stop(endpoint)
        gate.send(b"\n")
        assert connection.rest().endswith(b"part 1\n\r\n0\r\n\r\n")
        gate.sock.close()
        assert endpoint.server.wait() == 0


def test_pipelined_requests_behind_the_last_one_are_not_begun() -> None:
    keys = [new_key() for _ in range(2)]
    with serving() as endpoint, endpoint.connect() as connection:
        gate = endpoint.connect()
        connection.send(get(f"/slow/{keys[0]}") + get(f"/slow/{keys[1]}"))
        endpoint.wait_for(keys[0], "started")
        gate.send(get(f"/open/{keys[0]}")[:-1])
        stop(endpoint)
        gate.send(b"\n")
        response = connection.receive()[0]
        assert (response.body, response.closes) == (keys[0].encode(), True)
        assert connection.rest() == b""
        gate.sock.close()
        connection.sock.close()
        assert endpoint.server.wait() == 0


def test_what_hangs_is_cancelled_when_the_deadline_comes(loop: str) -> None:
    key = new_key()
    with serving(loop, 0.5) as endpoint, endpoint.connect() as connection:
        connection.send(get(f"/slow/{key}"))
        endpoint.wait_for(key, "started")
        begun = time.monotonic()
        endpoint.server.send_signal(TERM)
        response = connection.receive()[0]
        assert (response.status, response.closes) == (500, True)
        assert endpoint.server.wait() == 0
        assert time.monotonic() - begun >= 0.5
        errors = endpoint.server.stderr_text()
        assert "1 requests on 1 connections did not finish within 0.5 s" in errors
        assert f"cancelled GET /slow/{key} from 127.0.0.1:" in errors


def test_a_client_that_never_finishes_its_request_does_not_keep_the_server() -> None:
    with serving("uvloop", 0.5) as endpoint:
        begun = [post("/echo", b"12345")[:-1], get("/")[:-1], b""]
        connections = [endpoint.connect() for _ in begun]
        for connection, data in zip(connections, begun, strict=True):
            connection.send(data)
        endpoint.server.send_signal(TERM)
        assert endpoint.server.wait() == 0
        for connection in connections:
            connection.sock.close()


def test_a_silent_tls_client_does_not_keep_the_server(loop: str) -> None:
    patience = ("--timeout-tls-handshake", "600")
    with serving(loop, 600, *patience, via="tls") as endpoint:
        silent = [Connection(endpoint.server.connect()) for _ in range(3)]
        silent[0].send(b"\x16\x03\x01")
        endpoint.ask(get("/"))
        endpoint.server.send_signal(TERM)
        assert endpoint.server.wait() == 0
        for connection in silent:
            assert connection.rest() == b""
            connection.sock.close()


def test_a_client_that_reads_nothing_does_not_keep_the_server(loop: str) -> None:
    key = new_key()
    with serving(loop, 0.5) as endpoint, endpoint.connect(receive_buffer=4096) as connection:
        connection.send(get(f"/flood/{key}/100000"))
        wait_until(lambda: endpoint.events(key), "it sends")
        endpoint.server.send_signal(TERM)
        assert endpoint.server.wait() == 0


def test_an_application_that_refuses_to_end_does_not_keep_the_server(loop: str) -> None:
    key = new_key()
    with serving(loop, 0.5, allow_unhandled=True) as endpoint, endpoint.connect() as connection:
        connection.send(get(f"/stubborn/{key}"))
        endpoint.wait_for(key, "started")
        endpoint.server.send_signal(TERM)
        assert connection.rest() == b""
        assert endpoint.server.wait() == 0


def test_a_thread_that_refuses_to_end_does_not_keep_the_server(loop: str) -> None:
    with serving(loop, 0.5, allow_unhandled=True) as endpoint, endpoint.connect() as connection:
        key = new_key()
        connection.send(get(f"/thread/{key}"))
        endpoint.wait_for(key, "started")
        endpoint.server.send_signal(TERM)
        assert connection.receive()[0].status == 500
        assert endpoint.server.wait() == 0


def test_a_thread_that_nobody_waits_for_gets_the_time_that_is_left() -> None:
    for graceful, number in ((0.5, None), (600, TERM)):
        with serving("uvloop", graceful, allow_unhandled=True) as endpoint:
            assert endpoint.ask(get("/leave-thread")).body == b"left"
            begun = time.monotonic()
            stop(endpoint)
            wait_until(lambda: "stopped" in endpoint.server.stderr_text(), "it has stopped")
            if number is not None:
                assert endpoint.server.process.poll() is None
                endpoint.server.send_signal(number)
            assert endpoint.server.wait() == 0
            assert time.monotonic() - begun >= (0.5 if number is None else 0)


@pytest.mark.parametrize("numbers", [(TERM, TERM), (INT, INT), (TERM, INT)])
def test_a_second_signal_ends_it_at_once(numbers: tuple[signal.Signals, ...]) -> None:
    key = new_key()
    with serving("uvloop", 600) as endpoint, endpoint.connect() as connection:
        connection.send(get(f"/slow/{key}"))
        endpoint.wait_for(key, "started")
        stop(endpoint, numbers[0])
        endpoint.server.send_signal(numbers[1])
        assert endpoint.server.wait() == 0
        assert "ending at once" in endpoint.server.stderr_text()


def test_lifespan_shutdown_runs_after_the_last_request(tmp_path: Path, loop: str) -> None:
    key = new_key()
    log = tmp_path / "lifespan"
    with (
        serving(loop, env={"LIFESPAN_LOG": str(log)}) as endpoint,
        endpoint.connect() as connection,
    ):
        assert log.read_text() == "startup\n"
        connection.send(get(f"/background/{key}"))
        connection.receive()
        gate = endpoint.connect()
        gate.send(get(f"/open/{key}")[:-1])
        stop(endpoint)
        assert log.read_text() == "startup\n"
        gate.send(b"\n")
        gate.receive()
        gate.sock.close()
        assert endpoint.server.wait() == 0
        assert log.read_text() == "startup\nshutdown\n"


def test_lifespan_shutdown_runs_also_when_requests_were_cancelled(tmp_path: Path) -> None:
    key = new_key()
    log = tmp_path / "lifespan"
    with (
        serving("uvloop", 0.3, env={"LIFESPAN_LOG": str(log)}) as endpoint,
        endpoint.connect() as connection,
    ):
        connection.send(get(f"/slow/{key}"))
        endpoint.wait_for(key, "started")
        endpoint.server.send_signal(TERM)
        assert endpoint.server.wait() == 0
        assert log.read_text() == "startup\nshutdown\n"


HANGING_LIFESPAN = """
    import asyncio

    async def app(scope, receive, send):
        await receive()
        if {at!r} == "startup":
            await asyncio.sleep(3600)
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await asyncio.sleep(3600)
"""


def test_a_lifespan_shutdown_that_hangs_does_not_keep_the_server(loop: str) -> None:
    app = HANGING_LIFESPAN.format(at="shutdown")
    with serving(loop, 0.5, app=app) as endpoint:
        endpoint.server.send_signal(TERM)
        assert endpoint.server.wait() == 0
        assert "application shutdown did not finish within 2 s" in endpoint.server.stderr_text()


def test_a_signal_during_a_slow_startup_ends_it(loop: str) -> None:
    app = HANGING_LIFESPAN.format(at="startup")
    # Without `ServerProcess`, which waits until the server listens.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(textwrap.dedent(app))
        process = subprocess.Popen(
            [sys.executable, "-m", "pounce", "app:app", "--port", "0", "--loop", loop],
            cwd=folder,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        assert process.stderr is not None
        assert b"running app:app" in process.stderr.readline()
        process.send_signal(TERM)
        try:
            assert process.wait(PATIENCE) in (0, -TERM)
        finally:
            process.kill()
            process.stderr.close()


def test_many_connections_end_together() -> None:
    with serving() as endpoint:
        connections = [endpoint.connect() for _ in range(200)]
        for connection in connections:
            connection.send(get("/"))
        for connection in connections:
            connection.receive()
        endpoint.server.send_signal(TERM)
        for connection in connections:
            assert connection.rest() == b""
            connection.sock.close()
        assert endpoint.server.wait() == 0


def test_a_connection_that_waits_to_be_accepted_is_served() -> None:
    """Not one that connected before the signal is reset."""
    with serving() as endpoint:
        with endpoint.connect() as blocker:
            # While the application blocks the loop, nobody is accepted.
            blocker.send(get("/block/1"))
            waiting = [Connection(endpoint.server.connect()) for _ in range(5)]
            for connection in waiting:
                connection.send(get("/late"))
            endpoint.server.send_signal(TERM)
            for connection in waiting:
                assert connection.receive()[0].body == b"/late"
                connection.sock.close()
            assert blocker.receive()[0].body == b"unblocked"
        assert endpoint.server.wait() == 0


def test_a_stopped_unix_server_leaves_a_foreign_file_alone(short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    with ServerProcess("tests.integration.steered_app:app", "--uds", str(path)) as server:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            server.send_signal(TERM)
            assert server.wait() == 0
            assert path.exists()
        path.unlink()
