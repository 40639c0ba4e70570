"""A `SyncApp` beside an ASGI application: asked first, with all that any request has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce import BufferedCollector, RawRequest, RawResponse
from pounce.sync_protocol import MAX_SYNC_BODY, SyncApp
from tests.integration.endpoint import chunked, get, new_key, post
from tests.integration.responses import parse_response
from tests.integration.server_thread import ServerThread
from tests.integration.steered_app import app
from tests.waiting import wait_until

Handler = Callable[[RawRequest], RawResponse | None]


class Recording:
    """Notes each request, answers `/sync...`, and leaves the rest to ASGI."""

    def __init__(self) -> None:
        self.requests: list[RawRequest] = []
        self.threads: set[int] = set()

    def handle_sync(self, request: RawRequest) -> RawResponse | None:
        self.requests.append(request)
        self.threads.add(threading.get_ident())
        _, name, *_ = request.path.split("/")
        handler = HANDLERS.get(name)
        return handler(request) if handler is not None else None


def fail(request: RawRequest) -> RawResponse:
    raise ValueError("a bug in the sync app")


def leave(request: RawRequest) -> RawResponse:
    raise SystemExit(3)


HANDLERS: dict[str, Callable[[RawRequest], Any]] = {
    "sync": lambda request: RawResponse(200, ((b"x-by", b"sync"),), request.body or b"sync"),
    "sync-fail": fail,
    "sync-exit": leave,
    "sync-nonsense": lambda request: "nonsense",
    "sync-text": lambda request: RawResponse(200, (), "text"),  # type: ignore[arg-type]
    "sync-split": lambda request: RawResponse(200, ((b"a", b"b\r\nc: d"),), b""),
    "sync-length": lambda request: RawResponse(200, ((b"content-length", b"9"),), b"abc"),
    "sync-empty": lambda request: RawResponse(204),
    "sync-close": lambda request: RawResponse(200, ((b"connection", b"close"),), b"bye"),
    "sync-large": lambda request: RawResponse(200, (), bytes(5_000_000)),
}


@pytest.fixture
def sync() -> Recording:
    return Recording()


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, sync: Recording) -> Iterator[ServerThread]:
    with ServerThread(app, sync_app=sync, loop=request.param) as server:
        yield server


def test_it_is_a_sync_app(sync: Recording) -> None:
    assert isinstance(sync, SyncApp)


def test_the_request_is_whole(server: ServerThread, sync: Recording) -> None:
    with server.connect() as connection:
        request = post("/sync/%C3%A4?q=%20", b"body", "X-Y: z", "x-y: Z")
        assert connection.ask(request, "POST").body == b"body"
        local = connection.sock.getsockname()
    (seen,) = sync.requests
    assert seen == RawRequest(
        method="POST",
        path="/sync/ä",
        query_string=b"q=%20",
        headers=(
            (b"host", b"localhost"),
            (b"content-length", b"4"),
            (b"x-y", b"z"),
            (b"x-y", b"Z"),
        ),
        body=b"body",
        client=local,
        server=server.address,
        http_version="1.1",
    )


def test_the_response_is_framed_as_any_other(server: ServerThread) -> None:
    with server.connect() as connection:
        response = connection.ask(get("/sync"))
        assert response.body == b"sync"
        assert response.value(b"x-by") == b"sync"
        assert response.value(b"content-length") == b"4"
        assert response.value(b"server") == b"pounce"
        assert response.values(b"date")
        response = connection.ask(get("/sync", method="HEAD"), "HEAD")
        assert (response.body, response.value(b"content-length")) == (b"", b"4")
        assert connection.ask(get("/sync-empty")).status == 204
        assert len(connection.ask(get("/sync-large")).body) == 5_000_000
        assert connection.ask(get("/sync-close")).closes
        assert connection.rest() == b""
    with server.connect() as connection:
        response = connection.ask(get("/sync", version="1.0"))
        assert (response.body, response.closes) == (b"sync", True)
        assert connection.rest() == b""


def test_none_leaves_the_request_to_asgi(server: ServerThread, sync: Recording) -> None:
    with server.connect() as connection:
        assert connection.ask(get("/asgi")).body == b"/asgi"
        assert connection.ask(post("/echo", b"abc"), "POST").body == b"abc"
        assert connection.ask(get("/sync")).body == b"sync"
    assert [request.body for request in sync.requests] == [b"", b"abc", b""]


def test_pipelined_requests_of_both_kinds_stay_in_order(server: ServerThread) -> None:
    key = new_key()
    with server.connect() as connection:
        connection.send(
            get("/sync/1") + get(f"/slow/{key}") + get("/sync/3") + post("/sync", b"4") + get("/5")
        )
        assert connection.receive()[0].body == b"sync"
        assert connection.is_silent()
        assert server.ask(get(f"/open/{key}")).status == 200
        found = connection.receive("GET", "GET", "POST", "GET")
    assert [response.body for response in found] == [key.encode(), b"sync", b"4", b"/5"]


def test_a_body_that_comes_in_parts_is_waited_for(server: ServerThread, sync: Recording) -> None:
    body = bytes(range(256)) * (MAX_SYNC_BODY // 256)
    for path in ("/sync", "/echo"):
        request = post(path, body)
        with server.connect() as connection:
            for place in range(0, len(request), 7000):
                connection.send(request[place : place + 7000])
                connection.is_silent(0.002)
            assert connection.receive("POST")[0].body == body
            assert connection.ask(get("/sync")).body == b"sync"
    assert [len(request.body) for request in sync.requests] == [len(body), 0] * 2


def test_other_bodies_go_to_asgi_at_once(server: ServerThread, sync: Recording) -> None:
    large = bytes(MAX_SYNC_BODY + 1)
    expecting = get("/echo", "Expect: 100-continue", "Content-Length: 3", method="POST")
    with server.connect() as connection:
        assert connection.ask(chunked("/echo", b"ab", b"c"), "POST").body == b"abc"
        request = post("/echo", large)
        connection.send(request[:1000])
        connection.is_silent()
        assert connection.ask(request[1000:], "POST").body == large
        connection.send(expecting)
        connection.receive_exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.ask(b"abc", "POST").body == b"abc"
    assert all(len(request.body) <= MAX_SYNC_BODY for request in sync.requests)


@pytest.mark.parametrize("name", ["fail", "exit", "nonsense", "text", "split", "length"])
def test_a_fault_is_a_500_and_the_server_lives(
    server: ServerThread, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with server.connect() as connection:
        response = connection.ask(get(f"/sync-{name}") + get("/never"))
        assert (response.status, response.closes) == (500, True)
        assert connection.rest() == b""
    assert server.ask(get("/sync")).body == b"sync"
    errors = capfd.readouterr().err
    assert f"exception in the application, GET /sync-{name} from 127.0.0.1:" in errors
    assert ("ValueError: a bug in the sync app" in errors) is (name == "fail")


def test_limits_hold(sync: Recording) -> None:
    with ServerThread(
        app,
        sync_app=sync,
        limit_request_body=1000,
        limit_concurrency=1,
        limit_keep_alive_requests=2,
        timeout_request_body=0.3,
        timeout_graceful_shutdown=0.3,
    ) as server:
        assert server.ask(post("/sync", bytes(1001)), "POST").status == 413
        with server.connect() as connection:
            # A body that is waited for has its deadline.
            connection.send(post("/sync", b"abc")[:-1])
            response = parse_response(connection.rest())
            assert (response.status, response.closes) == (408, True)
        with server.connect() as connection:
            assert not connection.ask(get("/sync")).closes
            assert connection.ask(get("/sync")).closes
        key = new_key()
        with server.connect() as busy:
            busy.send(get(f"/slow/{key}"))
            wait_until(lambda: server.ask(get("/sync")).status == 503, "the limit holds")
            busy.reset()
    assert all(request.path != "/never" for request in sync.requests)


def test_a_truncated_body_is_never_handed_on(server: ServerThread, sync: Recording) -> None:
    with server.connect() as connection:
        connection.send(post("/sync", b"abc")[:-1])
        connection.is_silent()
    server.ask(get("/sync/after"))
    assert [request.path for request in sync.requests] == ["/sync/after"]


def test_requests_are_logged_and_observed(sync: Recording, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    collector = BufferedCollector()
    server = ServerThread(
        app,
        sync_app=sync,
        lifecycle_collector=collector,
        access_log=True,
        access_log_file=str(log),
        access_log_format="%(m)s %(U)s %(s)s %(B)s",
    )
    with server, server.connect() as connection:
        connection.ask(post("/sync", b"12345"), "POST")
        connection.ask(get("/asgi"))
        connection.ask(get("/sync-fail"))
    assert log.read_text().splitlines() == [
        "POST /sync 200 5",
        "GET /asgi 200 5",
        "GET /sync-fail 500 21",
    ]
    # The first connection showed that the server is up.
    kinds = [type(event).__name__ for event in collector.flush() if event.connection_id > 1]
    assert kinds == [
        "ConnectionOpened",
        *["RequestStarted", "ResponseCompleted"] * 3,
        "ConnectionCompleted",
    ]


def test_the_server_waits_for_no_sync_app(sync: Recording) -> None:
    """They run in the thread of the loop."""
    with ServerThread(app, sync_app=sync) as server:
        for _ in range(5):
            server.ask(get("/sync"))
    assert len(sync.threads) == 1
    assert threading.get_ident() not in sync.threads


def test_the_error_of_a_sync_app_is_logged_with_its_traceback(sync: Recording) -> None:
    records: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    with ServerThread(app, sync_app=sync) as server:
        # The server's end gives the logger its own handlers back.
        logging.getLogger("pounce.error").addHandler(Collect())
        server.ask(get("/sync-fail"))
    (record,) = records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)
