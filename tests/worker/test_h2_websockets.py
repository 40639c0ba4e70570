"""WebSockets over HTTP/2: extended CONNECT, frames in DATA, and how they end (RFC 8441)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.lifecycle import BufferedCollector
from pounce.protocol.h2.interface import ErrorCode
from pounce.worker.worker import Worker
from tests.protocol.h2_client import RawClient, Stream
from tests.worker.h2_wire import ENGINES, H2Wire, over_h2
from tests.worker.virtual_time import block, settle
from tests.worker.wire import names

pytestmark = pytest.mark.parametrize("engine", ENGINES)

ASKS = [(b"sec-websocket-version", b"13")]
MASK = b"\1\2\3\4"


def masked(payload: bytes, first: int = 0x81) -> bytes:
    """A frame of a client."""
    body = bytes(byte ^ MASK[index % 4] for index, byte in enumerate(payload))
    size = len(payload)
    head = bytes([first, 0x80 | size]) if size < 126 else bytes([first, 0xFE]) + size.to_bytes(2)
    return head + MASK + body


CLOSE = masked((1000).to_bytes(2), 0x88)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-mine", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def open_one(wire: H2Wire, path: bytes = b"/chat", **more: Any) -> tuple[int, Stream]:
    fields = [*ASKS, *more.pop("fields", [])]
    asked: dict[str, Any] = {"method": b"CONNECT", "protocol": b"websocket", "ended": False} | more
    stream_id = wire.client.request(path, fields, **asked)
    await wire.go()
    return stream_id, wire.client.streams[stream_id]


def test_messages_go_both_ways(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id, stream = await open_one(wire)
        assert wire.client.frames[0].settings[8] == 1  # type: ignore[attr-defined]
        assert stream.status == 200
        assert stream.field(b"x-mine") == b"1"
        assert stream.field(b"sec-websocket-accept") is None
        wire.client.data(stream_id, masked(b"hello") + masked(b"you")[:3])
        await wire.go()
        wire.client.data(stream_id, masked(b"you")[3:])
        await wire.go()
        assert stream.body == b"\x81\x05hello\x81\x03you"
        # Beside it, requests go on.
        assert (await wire.request(method=b"GET")).status == 500
        wire.client.data(stream_id, CLOSE, ended=True)
        await wire.go()
        assert stream.body.endswith(b"\x88\x02\x03\xe8")
        assert stream.complete
        assert worker.in_flight == 0
        assert wire.connection.engine.open_streams == 0
        assert not wire.closed

    over_h2(test, echo, engine=engine)


def test_a_pong_that_the_client_does_not_take_is_late_beside_a_request(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await asyncio.Event().wait()
        await echo(scope, receive, send)

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker, RawClient(window=0))
        stream_id, stream = await open_one(wire)
        wire.client.request(b"/waits")
        await wire.go()
        wire.client.data(stream_id, masked(b"ping", 0x89))
        await wire.go()
        await asyncio.sleep(11)
        await wire.go()
        assert stream.reset == ErrorCode.CANCEL
        assert len(wire.connection.cycles) == 1

    over_h2(test, app, engine=engine, timeout_write=5, http2_ping_interval=0, ws_ping_interval=0)


def test_the_scope_of_a_websocket(engine: str) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "websocket.accept", "subprotocol": "b"})

    async def test(worker: Worker) -> None:
        fields = [(b"sec-websocket-protocol", b"a, b")]
        _, stream = await open_one(H2Wire(worker), b"/chat?x", fields=fields)
        assert stream.field(b"sec-websocket-protocol") == b"b"

    over_h2(test, app, engine=engine)
    scope = seen[0]
    assert (scope["type"], scope["scheme"], scope["http_version"]) == ("websocket", "ws", "2")
    assert (scope["path"], scope["query_string"]) == ("/chat", b"x")
    assert scope["subprotocols"] == ["a", "b"]
    assert "method" not in scope


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"protocol": b"other"}, 501),
        ({"ended": True}, 400),
        ({"fields": [(b"sec-websocket-version", b"8")]}, 400),
    ],
)
def test_handshakes_that_are_refused(engine: str, change: dict[str, Any], status: int) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        assert (await open_one(wire, **change))[1].status == status
        assert wire.connection.engine.open_streams == 0

    over_h2(test, echo, engine=engine)


def test_applications_that_refuse(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/close":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        assert (await open_one(wire, b"/close"))[1].status == 403
        _, stream = await open_one(wire)
        assert (stream.status, stream.body, stream.complete) == (401, b"no", True)

    over_h2(test, app, engine=engine)


def test_without_websockets_extended_connect_is_not_offered(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        await wire.go()
        assert not wire.client.frames[0].settings.get(8)  # type: ignore[attr-defined]
        assert (await open_one(wire))[1].reset == ErrorCode.PROTOCOL_ERROR

    over_h2(test, echo, engine=engine, ws="none")


@pytest.mark.parametrize("how", ["reset", "lost"])
def test_clients_that_go_away(engine: str, how: str) -> None:
    ends: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        ends.append(await receive())
        with pytest.raises(OSError):  # noqa: PT011
            await send({"type": "websocket.send", "text": "late"})

    collector = BufferedCollector()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id, _ = await open_one(wire)
        if how == "reset":
            wire.client.reset(stream_id)
            await wire.go()
        else:
            wire.transport.vanish()
            await settle()
        assert worker.in_flight == 0
        if how == "reset":
            wire.transport.vanish()
            await settle()

    over_h2(test, app, engine=engine, collector=collector)
    assert [(end["type"], end["code"]) for end in ends] == [("websocket.disconnect", 1006)]
    events = collector.flush()
    told = names(events)
    assert told.index("StreamClosed") > told.index("StreamOpened")
    assert told[-1] == "ConnectionCompleted"
    assert getattr(events[-1], "total_bytes_sent", None) == len("hello")


def test_a_client_that_does_not_read_stops_the_application(engine: str) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "websocket.accept"})
        for _ in range(50):
            await send({"type": "websocket.send", "bytes": b"x" * 20000})
            sent += 1

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker, RawClient(window=1000))
        stream_id, stream = await open_one(wire)
        assert sent < 8
        wire.client.open_window(stream_id, 1 << 24)
        await wire.go()
        assert len(stream.body) > 50 * 20000

    over_h2(test, app, engine=engine, ws_per_message_deflate=False)
    assert sent == 50


def test_an_application_that_does_not_receive_stops_the_client(engine: str) -> None:
    gate = asyncio.Event()
    got: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await gate.wait()
        while (message := await receive())["type"] == "websocket.receive":
            got.append(message["text"])

    def granted(wire: H2Wire, stream_id: int) -> int:
        frames: list[Any] = [f for f in wire.client.frames if f.type == 8]
        return sum(f.window_increment for f in frames if f.stream_id == stream_id)

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id, _ = await open_one(wire)
        for _ in range(11):
            wire.client.data(stream_id, masked(b"x" * 10000))
            await wire.go()
        before = granted(wire, stream_id)
        assert before < 60_000
        gate.set()
        await wire.go()
        assert len(got) == 11
        assert granted(wire, stream_id) > before

    over_h2(test, app, engine=engine, ws_max_queue=4, http2_stream_window=120_000)


def test_a_drain_closes_websockets(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id, stream = await open_one(wire)
        draining = asyncio.ensure_future(worker.drain(60))
        await wire.go()
        assert stream.body == b"\x88\x02\x03\xf4"
        assert not wire.closed
        wire.client.data(stream_id, masked(b"\x03\xf4", 0x88), ended=True)
        await wire.go()
        assert wire.closed
        assert stream.complete
        wire.transport.vanish()
        await asyncio.wait_for(draining, 5)

    over_h2(test, echo, engine=engine)


def test_the_time_in_which_the_loop_was_blocked_is_not_the_client_s(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        _, stream = await open_one(wire)
        await asyncio.sleep(25)
        await wire.go()
        block(100)
        await asyncio.sleep(20)
        await wire.go()
        assert stream.body == b"\x89\x00"
        await asyncio.sleep(10)
        await wire.go()
        assert stream.body.startswith(b"\x89\x00\x88")

    silence = {"ws_ping_interval": 20, "ws_ping_timeout": 30, "ws_idle_timeout": 60}
    over_h2(test, echo, engine=engine, **silence)


def test_a_silent_client_is_asked_and_given_up(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        _, stream = await open_one(wire)
        await asyncio.sleep(8)
        await wire.go()
        assert stream.body == b"\x89\x00"
        await asyncio.sleep(8)
        await wire.go()
        assert stream.body.startswith(b"\x89\x00\x88")
        assert worker.in_flight == 0

    over_h2(test, echo, engine=engine, ws_ping_interval=5, ws_ping_timeout=5)
