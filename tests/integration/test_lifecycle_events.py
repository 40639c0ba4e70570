"""What a lifecycle collector is told, from the first byte of a connection to its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from pounce import (
    BufferedCollector,
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleEvent,
    RequestStarted,
    ResponseCompleted,
    StreamClosed,
    StreamOpened,
)
from tests.integration.endpoint import Connection, get, new_key, post
from tests.integration.server_thread import ServerThread
from tests.integration.steered_app import app
from tests.waiting import wait_until


class Observed(ServerThread):
    """A server with a collector. Connections of the test are known by their port."""

    def __init__(self, **options: Any) -> None:
        self.collector = BufferedCollector()
        super().__init__(app, lifecycle_collector=self.collector, **options)
        self._events: list[LifecycleEvent] = []

    def of(self, connection: Connection, port: int | None = None) -> list[LifecycleEvent]:
        """All events of a connection, after it has ended."""
        if port is None:
            port = connection.sock.getsockname()[1]
            connection.sock.close()
        return wait_until(lambda: self._whole(port), "the connection has ended")

    def _whole(self, port: int) -> list[LifecycleEvent]:
        self._events += self.collector.flush()
        opened = [
            event
            for event in self._events
            if isinstance(event, ConnectionOpened) and event.client_port == port
        ]
        if not opened:
            return []
        number = opened[-1].connection_id
        mine = [event for event in self._events if event.connection_id == number]
        return mine if isinstance(mine[-1], ConnectionCompleted) else []


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest) -> Iterator[Observed]:
    with Observed(loop=request.param) as server:
        yield server


def kinds(events: list[LifecycleEvent]) -> list[type]:
    return [type(event) for event in events]


def test_a_request(server: Observed) -> None:
    before = time.monotonic_ns()
    connection = server.connect()
    connection.ask(post("/echo?a=b", b"12345"), "POST")
    port = connection.sock.getsockname()[1]
    opened, started, responded, completed = events = server.of(connection)
    after = time.monotonic_ns()
    assert isinstance(opened, ConnectionOpened)
    assert (opened.client_addr, opened.client_port) == ("127.0.0.1", port)
    assert (opened.server_addr, opened.server_port) == server.address
    assert opened.protocol == "h1"
    assert isinstance(started, RequestStarted)
    assert (started.method, started.path, started.http_version) == ("POST", "/echo", "1.1")
    assert isinstance(responded, ResponseCompleted)
    assert (responded.status, responded.bytes_sent) == (200, 5)
    assert (responded.method, responded.streaming) == ("POST", False)
    assert 0 < responded.duration_ms < (after - before) / 1e6
    assert isinstance(completed, ConnectionCompleted)
    assert (completed.requests_served, completed.total_bytes_sent) == (1, 5)
    assert completed.reason == "client_disconnect"
    assert completed.duration_ms >= responded.duration_ms
    stamps = [event.timestamp_ns for event in events]
    assert [before, *stamps, after] == sorted([before, *stamps, after])
    assert len({event.worker_id for event in events}) == 1


def test_several_requests_on_one_connection(server: Observed) -> None:
    connection = server.connect()
    connection.send(get("/1") + get("/22", "Connection: close"))
    assert len(connection.receive("GET", "GET")) == 2
    events = server.of(connection)
    assert kinds(events) == [
        ConnectionOpened,
        *[RequestStarted, ResponseCompleted] * 2,
        ConnectionCompleted,
    ]
    assert [event.path for event in events if isinstance(event, RequestStarted)] == ["/1", "/22"]
    completed = events[-1]
    assert isinstance(completed, ConnectionCompleted)
    assert (completed.requests_served, completed.total_bytes_sent) == (2, 5)
    assert completed.reason == "complete"


def test_connections_have_different_ids(server: Observed) -> None:
    connections = [server.connect() for _ in range(5)]
    ports = [connection.sock.getsockname()[1] for connection in connections]
    for connection in connections:
        connection.ask(get("/"))
    for connection in connections:
        connection.sock.close()
    assert len({server.of(connections[0], port)[0].connection_id for port in ports}) == 5


def test_a_stream(server: Observed) -> None:
    connection = server.connect()
    connection.ask(get("/stream/x/1"))
    events = server.of(connection)
    assert kinds(events) == [
        ConnectionOpened,
        RequestStarted,
        StreamOpened,
        ResponseCompleted,
        StreamClosed,
        ConnectionCompleted,
    ]
    opened, responded, closed = events[2:5]
    assert isinstance(opened, StreamOpened)
    assert (opened.method, opened.path) == ("GET", "/stream/x/1")
    assert isinstance(responded, ResponseCompleted)
    assert (responded.streaming, responded.bytes_sent) == (True, 7)
    assert isinstance(closed, StreamClosed)
    assert (closed.reason, closed.duration_ms > 0) == ("complete", True)


def test_an_error_of_the_application(server: Observed) -> None:
    connection = server.connect()
    connection.ask(get("/fail/before-head"))
    _, _, responded, completed = server.of(connection)
    assert isinstance(responded, ResponseCompleted)
    assert (responded.status, responded.bytes_sent) == (500, len("Internal Server Error"))
    assert isinstance(completed, ConnectionCompleted)
    assert completed.total_bytes_sent == responded.bytes_sent


def test_an_error_in_a_stream(server: Observed) -> None:
    connection = server.connect()
    connection.send(get("/fail/in-body"))
    connection.rest()
    events = server.of(connection)
    assert kinds(events) == [
        ConnectionOpened,
        RequestStarted,
        StreamOpened,
        StreamClosed,
        ConnectionCompleted,
    ]
    closed, completed = events[3:]
    assert isinstance(closed, StreamClosed)
    assert closed.reason == "error"
    assert isinstance(completed, ConnectionCompleted)
    assert (completed.reason, completed.total_bytes_sent) == ("error", 5)


def test_a_client_that_leaves(server: Observed) -> None:
    key = new_key()
    connection = server.connect()
    port = connection.sock.getsockname()[1]
    connection.send(get(f"/slow/{key}"))
    wait_until(lambda: server.ask(get(f"/events/{key}")).body != b"[]", "the request has begun")
    connection.reset()
    events = server.of(connection, port)
    server.ask(get(f"/open/{key}"))
    assert kinds(events) == [
        ConnectionOpened,
        RequestStarted,
        ClientDisconnected,
        ConnectionCompleted,
    ]
    assert isinstance(events[2], ClientDisconnected)
    assert not events[2].during_streaming
    assert isinstance(events[3], ConnectionCompleted)
    assert events[3].requests_served == 1


def test_a_client_that_leaves_a_stream(server: Observed) -> None:
    key = new_key()
    connection = server.connect()
    port = connection.sock.getsockname()[1]
    connection.send(get(f"/flood/{key}/100000"))
    connection.sock.recv(1000)
    connection.reset()
    events = server.of(connection, port)
    assert kinds(events)[2:] == [
        StreamOpened,
        ClientDisconnected,
        StreamClosed,
        ConnectionCompleted,
    ]
    gone, closed, completed = events[3:]
    assert isinstance(gone, ClientDisconnected)
    assert gone.during_streaming
    assert isinstance(closed, StreamClosed)
    assert closed.reason == "client_disconnect"
    assert isinstance(completed, ConnectionCompleted)
    assert completed.total_bytes_sent > 0


def test_a_connection_without_a_request(server: Observed) -> None:
    events = server.of(server.connect())
    assert kinds(events) == [ConnectionOpened, ConnectionCompleted]
    assert isinstance(events[1], ConnectionCompleted)
    assert (events[1].requests_served, events[1].reason) == (0, "client_disconnect")


def test_a_request_that_is_refused(server: Observed) -> None:
    connection = server.connect()
    response = connection.ask(b"GET / HTTP/1.1\r\n\r\n")
    events = server.of(connection)
    assert kinds(events) == [ConnectionOpened, ConnectionCompleted]
    assert isinstance(events[1], ConnectionCompleted)
    assert events[1].reason == "error"
    assert events[1].total_bytes_sent == len(response.body)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Observed]:
    """Every deadline comes soon but the one for the first byte: a busy machine may keep a client
    from sending it."""
    names = ("request_head", "request_body", "keep_alive", "write")
    options = {f"timeout_{name}": 0.2 for name in names}
    with Observed(**options, limit_concurrency=1, timeout_graceful_shutdown=0.2) as server:
        yield server


def test_a_client_that_sends_nothing() -> None:
    with Observed(timeout_first_byte=0.2) as server, server.connect() as connection:
        port = connection.sock.getsockname()[1]
        assert connection.rest() == b""
        events = server.of(connection, port)
    assert kinds(events) == [ConnectionOpened, ConnectionCompleted]
    assert isinstance(events[-1], ConnectionCompleted)
    assert events[-1].reason == "timeout"


@pytest.mark.parametrize(
    ("request_", "middle"),
    [
        (get("/"), [RequestStarted, ResponseCompleted]),
        (get("/")[:5], []),
        (post("/echo", b"12345")[:-1], [RequestStarted, ResponseCompleted]),
    ],
    ids=["idle", "head", "body"],
)
def test_a_client_that_is_late(impatient: Observed, request_: bytes, middle: list[type]) -> None:
    connection = impatient.connect()
    connection.send(request_)
    connection.rest()
    events = impatient.of(connection)
    assert kinds(events) == [ConnectionOpened, *middle, ConnectionCompleted]
    assert isinstance(events[-1], ConnectionCompleted)
    assert events[-1].reason == "timeout"


def test_a_client_that_does_not_read(impatient: Observed) -> None:
    connection = impatient.connect()
    port = connection.sock.getsockname()[1]
    connection.send(get("/flood/x/100000"))
    events = impatient.of(connection, port)
    connection.sock.close()
    assert kinds(events)[2:] == [StreamOpened, StreamClosed, ConnectionCompleted]
    assert isinstance(events[3], StreamClosed)
    assert events[3].reason == "error"
    assert isinstance(events[4], ConnectionCompleted)
    assert events[4].reason == "write_timeout"


def test_a_request_too_many(impatient: Observed) -> None:
    key = new_key()
    busy = impatient.connect()
    busy.send(get(f"/slow/{key}"))

    def refused() -> list[LifecycleEvent]:
        connection = impatient.connect()
        response = connection.ask(get("/"))
        events = impatient.of(connection)
        return events if response.status == 503 else []

    _, started, responded, completed = wait_until(refused, "the limit holds")
    assert isinstance(started, RequestStarted)
    assert isinstance(responded, ResponseCompleted)
    assert responded.status == 503
    assert isinstance(completed, ConnectionCompleted)
    busy.sock.close()


@pytest.mark.parametrize("action", ["/slow/{}", "/stream/{}/2"])
def test_what_the_end_of_the_server_cuts(action: str) -> None:
    path = action.format(new_key())
    with Observed(timeout_graceful_shutdown=0.2) as server:
        connection = server.connect()
        port = connection.sock.getsockname()[1]
        connection.send(get(path))
        wait_until(
            lambda: (
                server._whole(port) or any(isinstance(e, RequestStarted) for e in server._events)
            ),
            "the request has begun",
        )
        server.stop()
        events = server.of(connection, port)
        connection.sock.close()
    assert isinstance(events[-1], ConnectionCompleted)
    if path.startswith("/slow"):
        assert kinds(events)[1:] == [RequestStarted, ResponseCompleted, ConnectionCompleted]
    else:
        assert kinds(events)[2:] == [StreamOpened, StreamClosed, ConnectionCompleted]
        assert isinstance(events[3], StreamClosed)
        assert events[3].reason == "drain"


def test_a_collector_that_fails_hurts_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def record(self, event: LifecycleEvent) -> None:
            raise ValueError("broken collector")

    with ServerThread(app, lifecycle_collector=Broken()) as server:
        for _ in range(3):
            with server.connect() as connection:
                assert connection.ask(get("/1")).body == b"/1"
                assert connection.ask(get("/stream/x/1")).status == 200
    assert capfd.readouterr().err.count("ValueError: broken collector") == 1
