"""Messages both ways, control frames, back-pressure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.worker.request_cycle import ClientDisconnected
from pounce.worker.worker import Worker
from tests.protocol.ws_frames import CONT, PING, PONG, RSV1, TEXT, deflated, frame
from tests.worker.virtual_time import settle
from tests.worker.ws_wire import (
    ACCEPT,
    Member,
    SocketWire,
    closing,
    give,
    handshake,
    parse_frames,
    say,
    with_a_worker,
)


def note_writes(wire: SocketWire) -> list[bytes]:
    """What is written from now on, write by write."""
    writes: list[bytes] = []
    connection = wire.transport.connection
    write = connection.write

    def noted(data: bytes) -> None:
        writes.append(data)
        write(data)

    connection.write = noted
    return writes


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
def test_messages_come_back_whole(size: int) -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open()
        assert await wire.ask(say("x" * size)) == [(0x81, b"x" * size)]
        assert await wire.ask(give(b"\xff" * size)) == [(0x82, b"\xff" * size)]
        assert member.contents == ["x" * size, b"\xff" * size]

    member = Member()
    with_a_worker(test, member)


def test_fragments_are_joined() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open()
        assert await wire.ask(frame(TEXT, b"Hel", fin=False)) == []
        assert await wire.ask(frame(PING, b"!")) == [(0x8A, b"!")]
        assert await wire.ask(frame(CONT, b"lo")) == [(0x81, b"Hello")]

    with_a_worker(test, Member())


def test_many_messages_of_one_read_leave_in_one_write() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open()
        writes = note_writes(wire)
        answers = await wire.ask(b"".join(say(str(i)) for i in range(10)))
        assert answers == [(0x81, b"%d" % i) for i in range(10)]
        assert len(writes) == 1

    with_a_worker(test, Member())


def test_messages_of_one_turn_leave_in_two_writes() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open()
        writes = note_writes(wire)
        for i in range(100):
            await member.send({"type": "websocket.send", "text": str(i)})
        await settle()
        assert parse_frames(b"".join(writes)) == [(0x81, b"%d" % i) for i in range(100)]
        assert len(writes) == 2

    member = Member()
    with_a_worker(test, member)


def test_an_application_that_only_sends_lets_others_have_a_turn() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 1000})

    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        wire.send(handshake())
        await settle(20)
        assert len(wire.sent) > 100_000
        wire.transport.vanish()
        await settle()

    with_a_worker(test, app)


class TestMessagesOfTheApplication:
    @pytest.mark.parametrize("content", [bytearray(b"abc"), memoryview(b"abc")])
    def test_other_buffers_are_taken(self, content: Any) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await member.send({"type": "websocket.send", "bytes": content})
            await member.send({"type": "websocket.send", "bytes": None, "text": "é"})
            await settle()
            assert wire.frames == [(0x82, b"abc"), (0x81, "é".encode())]

        member = Member()
        with_a_worker(test, member)

    @pytest.mark.parametrize(
        ("message", "error"),
        [
            ({"type": "websocket.send"}, ValueError),
            ({"type": "websocket.send", "text": "\ud800"}, ValueError),
            ({"type": "websocket.send", "bytes": "text"}, TypeError),
            ({"type": "websocket.close", "code": 1006}, ValueError),
            ({"type": "websocket.close", "code": 99}, ValueError),
            ({"type": "websocket.accept"}, RuntimeError),
            ({"type": "http.response.start", "status": 200}, RuntimeError),
        ],
    )
    def test_what_is_wrong_is_not_sent(self, message: Any, error: type[Exception]) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            with pytest.raises(error):
                await member.send(message)
            assert await wire.ask(say("still open")) == [(0x81, b"still open")]

        member = Member()
        with_a_worker(test, member)


class TestControlFrames:
    def test_pings_are_answered_while_the_application_is_busy(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(say("x"))
            assert await wire.ask(frame(PING, b"1") + frame(PING, b"2")) == [
                (0x8A, b"1"),
                (0x8A, b"2"),
            ]
            assert await wire.ask(frame(PONG, b"nobody asked")) == []

        member = Member()
        with_a_worker(test, member)

    def test_a_client_that_does_not_read_gets_one_pong_for_many_pings(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            wire.transport.room = 0
            sending = asyncio.ensure_future(
                member.send({"type": "websocket.send", "bytes": bytes(70000)})
            )
            await settle()
            for i in range(1000):
                wire.send(frame(PING, b"%d" % i))
            assert len(wire.transport.buffer) < 71000
            wire.transport.take()
            await settle()
            assert sending.done()
            assert wire.frames == [(0x82, bytes(70000)), (0x8A, b"999")]

        member = Member()
        with_a_worker(test, member)


class TestBackPressure:
    def test_a_client_waits_for_a_slow_application(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(say("x"))  # received by what waited already
            for i in range(30):
                await wire.exchange(say(str(i)))
            assert not wire.transport.reading
            assert wire.transport.waiting > 0
            member.may_receive.set()
            await settle(100)
            assert wire.transport.reading
            assert member.contents == ["x", *map(str, range(30))]
            assert wire.frames == [(0x81, str(c).encode()) for c in member.contents]

        member = Member()
        with_a_worker(test, member, ws_max_queue=8)

    def test_a_large_read_waits_as_well(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(b"".join(say(str(i)) for i in range(1000)))
            assert not wire.transport.reading
            member.may_receive.set()
            await settle(50)
            assert member.contents == list(map(str, range(1000)))
            assert wire.transport.reading

        member = Member()
        with_a_worker(test, member, ws_max_queue=4)

    def test_the_application_waits_for_a_slow_client(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(ACCEPT)
            await receive()
            for _ in range(100):
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
                sent.append(1)
            await receive()

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            wire.transport.room = 0
            await wire.exchange(say("go"))
            await settle(200)
            assert len(sent) < 20
            wire.transport.take()
            await settle(400)
            assert len(sent) == 100
            assert wire.frames == [(0x82, bytes(10_000))] * 100

        sent: list[int] = []
        with_a_worker(test, app)

    def test_a_client_that_vanishes_ends_the_wait(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            try:
                while True:
                    await send({"type": "websocket.send", "bytes": bytes(10_000)})
            except ClientDisconnected:
                ended.append(1)
                raise

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            wire.transport.room = 0
            await settle(100)
            wire.transport.vanish()
            await settle()
            assert ended == [1]

        ended: list[int] = []
        with_a_worker(test, app)


class TestLimits:
    @pytest.mark.parametrize(
        ("data", "size"),
        [
            (give(b"x" * 101), {}),
            (frame(TEXT, b"x" * 60, fin=False) + frame(CONT, b"x" * 41), {}),
            (give(b"x" * 11), {"ws_max_frame_size": 10}),
        ],
    )
    def test_larger_messages_close_with_1009(self, data: bytes, size: dict[str, int]) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            assert await wire.ask(data) == [closing(1009, "message too big")]
            assert wire.transport.eof_written
            assert member.end == (1009, "message too big")

        member = Member()
        with_a_worker(test, member, ws_max_size=100, **size)

    def test_inflated_ones_too(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open(b"Sec-WebSocket-Extensions: permessage-deflate")
            await wire.exchange(frame(TEXT, deflated(b"x" * 1001), rsv=RSV1))
            assert member.end[0] == 1009

        member = Member()
        with_a_worker(test, member, ws_max_size=1000)


class TestCompression:
    def test_messages_are_compressed_for_who_offers_it(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open(b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
            assert (
                b"sec-websocket-extensions: permessage-deflate; server_max_window_bits=11; "
                b"client_max_window_bits=11" in wire.head
            )
            ((first, payload),) = await wire.ask(
                frame(TEXT, deflated(b"x" * 500, bits=11), rsv=RSV1)
            )
            assert first == 0xC1
            assert len(payload) < 50
            assert await wire.ask(say("short")) == [(0x81, b"short")]
            assert member.contents == ["x" * 500, "short"]

        member = Member()
        with_a_worker(test, member, ws_deflate_window_bits=11)

    @pytest.mark.parametrize(
        ("option", "answer"),
        [
            ({"ws_per_message_deflate": False}, b""),
            (
                {"ws_deflate_takeover": False, "ws_deflate_window_bits": 15},
                b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
        ],
    )
    def test_options(self, option: dict[str, Any], answer: bytes) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open(b"Sec-WebSocket-Extensions: permessage-deflate")
            _, _, rest = wire.head.partition(b"sec-websocket-extensions: ")
            assert rest.split(b"\r\n")[0] == answer
            if not answer:
                sent = await wire.ask(frame(TEXT, deflated(b"x" * 50), rsv=RSV1))
                assert sent == [closing(1002, "reserved bit set")]

        with_a_worker(test, Member(), **option)
