"""Requests and responses over HTTP/2: what the application sees and the client gets."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.lifecycle import BufferedCollector
from pounce.protocol.h2.interface import ErrorCode
from pounce.sync_protocol import RawRequest, RawResponse
from pounce.worker.worker import Worker
from tests.protocol.h2_client import RawClient
from tests.waiting import PATIENCE
from tests.worker.h1_requests import Gates, answer, path_app
from tests.worker.h2_wire import ENGINES, H2Wire, over_h2
from tests.worker.virtual_time import settle
from tests.worker.wire import CLIENT, SERVER, Journal, names

pytestmark = pytest.mark.parametrize("engine", ENGINES)


def test_the_scope_of_a_request(engine: str) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))
        scope["headers"].append((b"mine", b""))
        scope["state"]["mine"] = True
        await answer(send, b"")

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        for _ in range(2):
            await wire.request(b"/a%20b?c=d", [(b"x", b"1"), (b"cookie", b"a"), (b"cookie", b"b")])

    over_h2(test, app, engine=engine, state={"db": 1}, root_path="/api")
    for scope in seen:
        assert scope["type"] == "http"
        assert scope["http_version"] == "2"
        assert scope["method"] == "GET"
        assert scope["path"] == "/api/a b"
        assert scope["raw_path"] == b"/api/a%20b"
        assert scope["query_string"] == b"c=d"
        assert scope["scheme"] == "http"
        assert scope["client"] == CLIENT
        assert scope["server"] == SERVER
        assert scope["headers"][:3] == [
            (b"host", b"example.org"),
            (b"x", b"1"),
            (b"cookie", b"a; b"),
        ]
        assert len(scope["headers"]) == 4, "what an application does to its scope stays there"
        assert scope["state"]["db"] == 1
        assert "http.response.push" not in scope["extensions"]


def test_forwarded_fields_of_trusted_proxies(engine: str) -> None:
    journal: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        journal.append((scope["client"], scope["scheme"]))
        await answer(send, b"")

    fields = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")]

    async def test(worker: Worker) -> None:
        await H2Wire(worker).request(fields=fields)

    over_h2(test, app, engine=engine, forwarded_allow_ips="192.0.2.0/24")
    over_h2(test, app, engine=engine, forwarded_allow_ips="")
    assert journal == [(("203.0.113.9", 0), "https"), (CLIENT, "http")]


def test_a_response_has_what_every_response_has(engine: str) -> None:
    async def test(worker: Worker) -> None:
        stream = await H2Wire(worker).request()
        assert stream.complete
        assert (stream.status, stream.body) == (200, b"/")
        assert stream.field(b"server") == b"pounce"
        assert stream.field(b"x-more") == b"1"
        assert (stream.field(b"date") or b"").endswith(b"GMT")

    over_h2(test, path_app, engine=engine, headers=(("X-More", "1"),))


def test_many_streams_are_answered_in_the_order_of_their_applications(engine: str) -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        first, second = wire.client.request(b"/1"), wire.client.request(b"/2")
        await wire.go()
        assert worker.in_flight == 2
        await app.open("/2")
        await wire.go()
        assert wire.client.streams[second].complete
        assert not wire.client.streams[first].status
        await app.open("/1")
        await wire.go()
        assert wire.client.streams[first].body == b"/1"

    over_h2(test, app, engine=engine)


def test_the_answers_of_one_turn_leave_in_one_write(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        await wire.go()
        writes: list[bytes] = []
        write = wire.connection.write

        def note(data: bytes) -> None:
            writes.append(data)
            write(data)

        wire.connection.write = wire.connection.write_uncounted = note
        ids = [wire.client.request() for _ in range(20)]
        await wire.go()
        assert all(wire.client.streams[stream_id].complete for stream_id in ids)
        assert len(writes) == 1

    over_h2(test, path_app, engine=engine)


def test_request_bodies(engine: str) -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        whole = await wire.request(method=b"POST", body=b"x" * 50000)
        assert whole.body == b"50000 /"
        stream_id = wire.client.request(method=b"POST", body=b"ab", ended=False)
        await wire.go()
        wire.client.data(stream_id, b"cd", ended=True)
        await wire.go()
        assert wire.client.streams[stream_id].body == b"4 /"

    over_h2(test, app, engine=engine)
    assert [entry["body"] for entry in app.requests] == [b"x" * 50000, b"abcd"]


def test_an_application_that_does_not_read_stops_the_client(engine: str) -> None:
    gate = asyncio.Event()
    got: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        while True:
            message = await receive()
            got.append(len(message["body"]))
            if not message["more_body"]:
                break
        await answer(send, b"")

    def granted(wire: H2Wire, stream_id: int) -> int:
        frames: list[Any] = [f for f in wire.client.frames if f.type == 8]
        return sum(f.window_increment for f in frames if f.stream_id == stream_id)

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request(method=b"POST", body=b"x" * 70000, ended=False)
        await wire.go()
        assert granted(wire, stream_id) == 0
        gate.set()
        await wire.go()
        assert granted(wire, stream_id) >= 32768
        wire.client.data(stream_id, b"", ended=True)
        await wire.go()
        assert wire.client.streams[stream_id].complete

    over_h2(test, app, engine=engine, http2_stream_window=70000)
    assert sum(got) == 70000


def test_a_body_that_nobody_reads_is_cut_behind_the_response(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream = await wire.request(method=b"POST", body=b"x" * 1000, ended=False)
        assert (stream.status, stream.ended, stream.reset) == (200, True, ErrorCode.NO_ERROR)
        assert wire.connection.engine.open_streams == 0
        assert (await wire.request()).complete

    over_h2(test, path_app, engine=engine)


def test_the_continuation_of_an_expected_body(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        fields = [(b"expect", b"100-continue"), (b"content-length", b"2")]
        stream_id = wire.client.request(b"/", fields, method=b"POST", ended=False)
        await wire.go()
        stream = wire.client.streams[stream_id]
        assert stream.informational == [(100, [])]
        wire.client.data(stream_id, b"ab", ended=True)
        await wire.go()
        assert stream.body == b"2 /"

    over_h2(test, Journal(), engine=engine)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_responses_in_parts(engine: str, method: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"three"})

    async def test(worker: Worker) -> None:
        stream = await H2Wire(worker).request(method=method)
        assert stream.complete
        assert stream.body == (b"onetwothree" if method == b"GET" else b"")

    over_h2(test, app, engine=engine)


def test_trailers_reach_a_client_that_takes_them(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
        await send(start)
        await send({"type": "http.response.body", "body": b"content"})
        await send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"7")]})

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        taking = await wire.request(fields=[(b"te", b"trailers")])
        other = await wire.request()
        assert (taking.body, taking.trailers, taking.complete) == (
            b"content",
            [(b"x-sum", b"7")],
            True,
        )
        assert (other.body, other.trailers, other.complete) == (b"content", [], True)

    over_h2(test, app, engine=engine)


def test_early_hints(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await answer(send, b"")

    async def test(worker: Worker) -> None:
        stream = await H2Wire(worker).request()
        assert stream.informational == [(103, [(b"link", b"</a.css>; rel=preload")])]
        assert stream.complete

    over_h2(test, app, engine=engine)


def test_pushes_are_no_message(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError):
            await send({"type": "http.response.push", "path": "/a", "headers": []})
        await answer(send, b"")

    async def test(worker: Worker) -> None:
        assert (await H2Wire(worker).request()).status == 200

    over_h2(test, app, engine=engine)


def test_files(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(range(256)) * 1000
    path.write_bytes(content)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/path":
            await send({"type": "http.response.pathsend", "path": str(path)})
            return
        with path.open("rb") as file:
            message: dict[str, Any] = {"type": "http.response.zerocopysend", "file": file}
            await send(message | {"offset": 10, "count": 100, "more_body": True})
            await send(message | {"offset": 110, "count": 200000})

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        ids = [wire.client.request(b"/path"), wire.client.request(b"/file")]
        end = time.monotonic() + PATIENCE
        while not all(wire.client.streams[stream_id].ended for stream_id in ids):
            assert time.monotonic() < end
            await wire.go()
            # Files are read by threads, which need real time; that of the loop is to stand still.
            time.sleep(0.001)  # noqa: ASYNC251
        by_path, by_file = (wire.client.streams[stream_id] for stream_id in ids)
        assert by_path.body == content
        assert by_path.field(b"content-length") == b"%d" % len(content)
        assert by_file.body == content[10:200110]

    over_h2(test, app, engine=engine)


@pytest.mark.parametrize("length", [b"3", b"7"])
def test_content_of_another_length_than_announced(
    engine: str, length: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fields = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        if scope["path"] == "/parts":
            await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        await send({"type": "http.response.body", "body": b"abcde"})

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        if length == b"3":
            assert (await wire.request()).status == 500
            assert (await wire.request(b"/parts")).reset == ErrorCode.INTERNAL_ERROR
        else:
            assert (await wire.request(b"/parts")).body == b"ababcde"

    over_h2(test, app, engine=engine)


# Failures


def test_an_application_that_fails(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/at-once":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if scope["path"] != "/falls-short":
            raise ValueError("on purpose")

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        at_once = await wire.request(b"/at-once")
        assert (at_once.status, at_once.complete) == (500, True)
        for path in (b"/late", b"/falls-short"):
            late = await wire.request(path)
            assert not late.ended
            assert late.reset == ErrorCode.INTERNAL_ERROR
        assert not wire.closed
        assert wire.connection.engine.open_streams == 0

    over_h2(test, app, engine=engine)
    assert "on purpose" in caplog.text


def test_a_client_that_resets_its_stream(engine: str) -> None:
    ends: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        ends.append((await receive())["type"])
        try:
            await send({"type": "http.response.body", "body": b"y", "more_body": True})
        except OSError:
            ends.append("OSError")
            raise

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request()
        await wire.go()
        wire.client.reset(stream_id)
        await wire.go()
        assert (await wire.request(b"/", method=b"HEAD")).status == 200
        assert worker.in_flight == 1

    over_h2(test, app, engine=engine)
    assert ends[:2] == ["http.disconnect", "OSError"]


def test_a_connection_that_is_lost(engine: str) -> None:
    ends: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        ends.append((await receive())["type"])

    collector = BufferedCollector()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        wire.client.request()
        wire.client.request()
        await wire.go()
        wire.transport.vanish()
        await settle()
        assert worker.in_flight == 0
        assert not worker.connections

    over_h2(test, app, engine=engine, collector=collector)
    assert ends == ["http.disconnect"] * 2
    assert names(collector.flush()) == [
        "ConnectionOpened",
        *["RequestStarted"] * 2,
        *["ClientDisconnected"] * 2,
        "ConnectionCompleted",
    ]


def test_lifecycle_events(engine: str) -> None:
    collector = BufferedCollector()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        await wire.request()
        wire.transport.vanish()
        await settle()

    over_h2(test, path_app, engine=engine, collector=collector)
    events: list[Any] = list(collector.flush())
    assert names(events) == [
        "ConnectionOpened",
        "RequestStarted",
        "ResponseCompleted",
        "ConnectionCompleted",
    ]
    assert events[0].protocol == "h2"
    assert events[1].http_version == "2"
    assert events[2].bytes_sent == 1
    assert events[3].requests_served == 1


def test_a_broken_rule_ends_the_connection(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        wire.client.request()
        await wire.go()
        wire.transport.arrive(b"\xff\xff\xff" + bytes(6))
        await wire.go()
        assert [code for _, code in wire.client.goodbyes] == [ErrorCode.FRAME_SIZE_ERROR]
        assert wire.closed
        assert worker.in_flight == 0

    over_h2(test, app, engine=engine)


# Limits


@pytest.mark.parametrize(
    ("fields", "path", "status"),
    [
        ([(b"x", b"y" * 600)], b"/", 431),
        ([(b"x%d" % n, b"") for n in range(6)], b"/", 431),
        ([], b"/" + b"x" * 100, 414),
        ([(b"content-length", b"1001")], b"/", 413),
    ],
)
def test_requests_that_are_too_large(
    engine: str, fields: list[tuple[bytes, bytes]], path: bytes, status: int
) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream = await wire.request(path, fields, method=b"POST", ended=False)
        assert stream.status == status
        assert stream.ended
        assert stream.reset == ErrorCode.NO_ERROR
        assert (await wire.request()).status == 200

    over_h2(
        test,
        path_app,
        engine=engine,
        http2_max_header_list_size=700,
        limit_request_fields=5,
        limit_request_line=90,
        limit_request_body=1000,
    )


def test_a_body_that_grows_too_large(engine: str) -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request(method=b"POST", body=b"x" * 600, ended=False)
        await wire.go()
        wire.client.data(stream_id, b"x" * 600)
        await wire.go()
        assert wire.client.streams[stream_id].status == 413
        assert wire.client.streams[stream_id].reset == ErrorCode.NO_ERROR

    over_h2(test, app, engine=engine, limit_request_body=1000)
    assert app.requests[0]["end"] == "disconnect"


def test_too_many_requests_in_progress(engine: str) -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        first = wire.client.request(b"/1")
        second = await wire.request(b"/2")
        assert (second.status, second.field(b"retry-after")) == (503, b"1")
        await app.open("/1")
        await wire.go()
        assert wire.client.streams[first].complete

    over_h2(test, app, engine=engine, limit_concurrency=1)


def test_refusals_are_logged_and_told(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    collector = BufferedCollector()

    async def test(worker: Worker) -> None:
        await H2Wire(worker).request(b"/" + b"x" * 100)

    with caplog.at_level(logging.INFO, logger="pounce.error"):
        over_h2(test, path_app, engine=engine, limit_request_line=90, collector=collector)
    assert "414 request target too long" in caplog.text
    completed = [e for e in collector.flush() if type(e).__name__ == "ResponseCompleted"]
    assert [getattr(e, "status", None) for e in completed] == [414]


# Back-pressure


def test_a_client_that_grants_no_window_stops_the_application(engine: str) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await send({"type": "http.response.body", "body": b"x" * 16384, "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker, RawClient(window=1000))
        stream = await wire.request()
        assert len(stream.body) == 1000
        assert sent <= 5
        wire.client.open_window(1, 1 << 20)
        await wire.go()
        assert len(stream.body) == 20 * 16384
        assert stream.complete

    over_h2(test, app, engine=engine)


def test_a_client_that_does_not_read_stops_the_application(engine: str) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 16384, "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        wire.transport.room = 2000
        stream = await wire.request()
        assert sent < 30
        wire.transport.take()
        await wire.go()
        assert stream.complete
        assert len(stream.body) == 1638400

    over_h2(test, app, engine=engine)


# SyncApp


class Sync:
    def handle_sync(self, request: RawRequest) -> RawResponse | None:
        if request.path == "/asgi":
            return None
        return RawResponse(
            200, ((b"x", b"sync"),), b"%b %b" % (request.method.encode(), request.body)
        )


def test_a_sync_app_is_asked_first(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        assert (await wire.request()).body == b"GET "
        assert (await wire.request(b"/asgi")).body == b"/asgi"
        fields = [(b"content-length", b"4")]
        stream_id = wire.client.request(b"/", fields, method=b"POST", body=b"ab", ended=False)
        await wire.go()
        assert not wire.client.streams[stream_id].status
        wire.client.data(stream_id, b"cd", ended=True)
        await wire.go()
        assert wire.client.streams[stream_id].body == b"POST abcd"

    over_h2(test, path_app, engine=engine, sync_app=Sync())
