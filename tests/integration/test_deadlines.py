"""Slow clients are cut in time, and nobody else waits for them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.integration.endpoint import Connection, Endpoint, get, new_key, post, serve
from tests.integration.responses import IncompleteResponse, parse_response
from tests.integration.server_process import run_pounce
from tests.waiting import wait_until

SHORT = 0.4
OPTIONS = {
    "--timeout-first-byte": SHORT,
    "--timeout-request-head": SHORT,
    "--timeout-request-body": SHORT,
    "--timeout-keep-alive": SHORT,
    "--timeout-write": SHORT,
    "--timeout-tls-handshake": SHORT,
}
LONG = 600


def serve_with(*short: str, **more: str) -> contextlib.AbstractContextManager[Endpoint]:
    """A server where only the named deadlines can come."""
    words: list[str] = []
    for option in OPTIONS:
        words += [option, str(SHORT if option.removeprefix("--timeout-") in short else LONG)]
    return serve(*words, **more)


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def ends_in_time() -> Iterator[None]:
    """The deadline does not come early, and there is one at all."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun >= SHORT * 0.9


def test_a_connection_that_asks_nothing(loop: str) -> None:
    with serve_with("first-byte", loop=loop) as endpoint:
        with ends_in_time(), endpoint.connect() as silent:
            assert silent.rest() == b""
        with endpoint.connect_and_send(get("/")) as connection:
            connection.receive()
            # This deadline is for the first request only.
            assert connection.is_silent(2 * SHORT)
            assert connection.ask(get("/2")).body == b"/2"


def test_a_head_that_stops(loop: str) -> None:
    with serve_with("request-head", loop=loop) as endpoint, endpoint.connect() as connection:
        connection.ask(get("/"))
        with ends_in_time():
            connection.send(get("/")[:10])
            response = parse_response(connection.rest())
        assert (response.status, response.closes) == (408, True)


def test_a_slow_loris_is_cut_while_others_are_served(loop: str) -> None:
    with serve_with("request-head", loop=loop) as endpoint:
        lorises = [endpoint.connect() for _ in range(50)]
        for loris in lorises:
            loris.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        cut: set[Connection] = set()

        def feed_them() -> bool:
            assert endpoint.ask(get("/served")).body == b"/served"
            for loris in set(lorises) - cut:
                if loris.is_silent(0.001):
                    with contextlib.suppress(OSError):
                        loris.send(b"X-a: b\r\n")
                else:
                    cut.add(loris)
            return len(cut) == len(lorises)

        wait_until(feed_them, "all slow ones are cut")
        for loris in lorises:
            assert parse_response(loris.rest()).status == 408
            loris.sock.close()


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_body_that_stops(loop: str, framing: str) -> None:
    key = new_key()
    with serve_with("request-body", loop=loop) as endpoint:
        with endpoint.connect() as connection, ends_in_time():
            connection.send(get(f"/take/{key}", framing, method="POST") + b"4")
            response = parse_response(connection.rest())
        assert (response.status, response.closes) == (408, True)
        size = 1 if framing.startswith("Content") else 0
        endpoint.wait_for(key, f"disconnect after {size}")


def test_a_body_that_nobody_reads_is_not_waited_for() -> None:
    with (
        serve_with("request-body") as endpoint,
        endpoint.connect() as connection,
        ends_in_time(),
    ):
        response = connection.ask(post("/ignore", b"12345")[:-1], "POST")
        assert response.body == b"ignored"
        assert connection.rest() == b""


def test_an_idle_connection(loop: str) -> None:
    with (
        serve_with("keep-alive", loop=loop) as endpoint,
        endpoint.connect() as connection,
        ends_in_time(),
    ):
        connection.send(get("/") * 2)
        connection.receive("GET", "GET")
        assert connection.rest() == b""


def test_a_slow_application_is_not_cut() -> None:
    key = new_key()
    short = ("first-byte", "request-head", "request-body", "keep-alive", "write")
    with (
        serve_with(*short) as endpoint,
        endpoint.connect_and_send(post(f"/slow/{key}", b"x")) as connection,
    ):
        assert connection.is_silent(3 * SHORT)
        with endpoint.connect_and_send(get(f"/open/{key}")) as gate:
            gate.receive()
        assert connection.receive("POST")[0].body == key.encode()


@pytest.mark.parametrize("via", ["tcp", "tls", "unix"])
@pytest.mark.parametrize("path", ["/flood/{}/1000", "/large/600"])
def test_a_reader_that_stops(loop: str, via: str, path: str) -> None:
    key = new_key()
    with (
        serve_with("write", loop=loop, via=via) as endpoint,
        endpoint.connect(receive_buffer=4096) as stopped,
    ):
        stopped.send(get(path.format(key), "Connection: close"))
        if "flood" in path:
            # Its memory is given back, too: the application is not kept waiting.
            endpoint.wait_for(key, "OSError")
        else:
            wait_until(lambda: "timed out: write" in endpoint.server.stderr_text(), "it is cut")
        assert len(stopped.rest()) < 600 * 65536


def test_a_reader_that_is_slow_is_not_cut(loop: str) -> None:
    with serve("--timeout-write", "3s", loop=loop) as endpoint:
        # Below a third of what the kernel buffers, so that the loop sees no progress for long. On
        # a busy machine the reader itself may stand still for some of the three seconds.
        with endpoint.connect(receive_buffer=4096) as slow:
            slow.send(get("/large/100", "Connection: close"))
            received = 0
            begun = time.monotonic()
            # Thrice as long: the first look only notes what is left, the second would cut.
            while time.monotonic() - begun < 9:
                received += len(slow.sock.recv(1024))
                time.sleep(0.02)
            slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            received += len(slow.rest())
        assert received > 100 * 65536
        assert "timed out" not in endpoint.server.stderr_text()


def is_served(endpoint: Endpoint) -> bool:
    """Whether a client is, unless it is late itself."""
    try:
        return endpoint.ask(get("/served")).body == b"/served"
    except (OSError, IncompleteResponse):
        return False


def test_a_silent_tls_client_stalls_nobody(loop: str) -> None:
    with serve_with("tls-handshake", loop=loop, via="tls") as endpoint, ends_in_time():
        silent = [Connection(endpoint.server.connect()) for _ in range(20)]
        silent[0].send(b"\x16\x03\x01")
        wait_until(lambda: is_served(endpoint), "somebody else is served")
        for connection in silent:
            assert connection.rest() == b""
            connection.sock.close()


def test_a_tls_client_that_asks_nothing(loop: str) -> None:
    with (
        serve_with("first-byte", loop=loop, via="tls") as endpoint,
        ends_in_time(),
        endpoint.connect() as silent,
    ):
        assert silent.rest() == b""


def test_the_defaults_are_on() -> None:
    """Not shown by waiting: what `check` says."""
    shown = run_pounce("check", "tests.integration.steered_app:app", "--port", "0").stdout
    for option in OPTIONS:
        name = option.removeprefix("--").replace("-", "_")
        (line,) = [line for line in shown.splitlines() if name in line]
        assert any(value in line for value in ("5s", "10s", "30s")), line
