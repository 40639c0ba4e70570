"""How a WebSocket ends, and its deadlines, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pounce.asgi.types import Message, Receive, Scope, Send
from pounce.worker.request_cycle import ClientDisconnected
from pounce.worker.worker import Worker
from tests.protocol.ws_frames import PING, PONG, RSV2, TEXT, close, frame
from tests.worker.virtual_time import block, settle
from tests.worker.ws_wire import (
    ACCEPT,
    DISCONNECT,
    Member,
    SocketWire,
    closing,
    give,
    say,
    with_a_worker,
)


class TestByTheClient:
    @pytest.mark.parametrize(
        ("sent", "answer", "end"),
        [
            (close(1000, b"bye"), (0x88, b"\x03\xe8"), (1000, "bye")),
            (close(4321), (0x88, b"\x10\xe1"), (4321, "")),
            (close(), (0x88, b""), (1005, "")),
        ],
    )
    def test_the_application_is_told_code_and_reason(
        self, sent: bytes, answer: tuple[int, bytes], end: tuple[int, str]
    ) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            assert await wire.ask(sent) == [answer]
            assert member.end == end
            assert wire.transport.closed
            assert not wire.transport.aborted
            with pytest.raises(OSError, match="closed"):
                await member.send({"type": "websocket.send", "text": "late"})
            await member.send({"type": "websocket.close"})  # which it is

        member = Member()
        with_a_worker(test, member)

    def test_messages_before_it_are_received(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(say("1"))
            await wire.exchange(say("2") + say("3") + close(1001))
            member.may_receive.set()
            await settle()
            assert member.contents == ["1", "2", "3"]
            assert member.end == (1001, "")

        member = Member(echoes=False)
        with_a_worker(test, member)

    @pytest.mark.parametrize("how", ["vanish", "half_close"])
    def test_without_a_close_frame_it_is_1006(self, how: str) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            getattr(wire.transport, how)()
            await settle()
            assert member.end == (1006, "")
            assert wire.transport.closed
            with pytest.raises(OSError, match="closed"):
                await member.send({"type": "websocket.send", "text": "late"})

        member = Member()
        with_a_worker(test, member)

    def test_disconnect_is_told_again(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(ACCEPT)
            ends.extend([await receive(), await receive()])

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await wire.exchange(close(1000))
            assert ends == [{"type": DISCONNECT, "code": 1000, "reason": ""}] * 2

        ends: list[Message] = []
        with_a_worker(test, app)

    def test_an_error_of_send_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(ACCEPT)
            while True:
                await receive()
                await send({"type": "websocket.send", "text": "x"})

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await wire.exchange(close(1000))
            assert not worker.tasks
            assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []

        with_a_worker(test, app)


class TestByTheApplication:
    def test_it_waits_for_the_client(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await member.send({"type": "websocket.close", "code": 3000, "reason": "bye"})
            await settle()
            assert wire.frames == [closing(3000, "bye")]
            assert member.end == (3000, "bye")
            assert not wire.closed
            await wire.exchange(say("dropped") + frame(PING))
            with pytest.raises(OSError, match="closed"):
                await member.send({"type": "websocket.send", "text": "late"})
            assert await wire.ask(close(3000)) == []
            assert wire.transport.closed

        member = Member()
        with_a_worker(test, member)

    def test_but_not_for_long(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await member.send({"type": "websocket.close"})
            await asyncio.sleep(39)
            assert not wire.transport.closed
            await asyncio.sleep(3)
            assert wire.transport.aborted

        member = Member()
        with_a_worker(test, member, ws_close_timeout=40)

    def test_a_client_that_waits_itself_is_read_again(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(b"".join(say(str(i)) for i in range(100)))
            await wire.exchange(close(1000))
            assert not wire.transport.reading
            await member.send({"type": "websocket.close"})
            await settle()
            assert wire.transport.closed
            member.may_receive.set()
            await settle()
            assert member.contents == ["0"]

        member = Member(echoes=False)
        with_a_worker(test, member, ws_max_queue=8)

    @pytest.mark.parametrize(
        ("raises", "code", "records"),
        [(None, 1000, []), (LookupError("lost"), 1011, [logging.ERROR])],
    )
    def test_its_end_closes(
        self,
        raises: Exception | None,
        code: int,
        records: list[int],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            await receive()
            await receive()
            if raises is not None:
                raise raises

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            assert await wire.ask(say("x")) == [closing(code)]
            await wire.exchange(close(code))
            assert wire.transport.closed
            assert [record.levelno for record in caplog.records] == records

        with_a_worker(test, app)


class TestFailures:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (frame(TEXT, b"x", rsv=RSV2), 1002),
            (frame(TEXT, b"\xff"), 1007),
            (frame(TEXT, b"x", mask=False), 1002),
            (close(1006), 1002),
        ],
    )
    def test_the_client_is_told_and_cut(self, data: bytes, code: int) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            ((first, payload),) = await wire.ask(data)
            assert (first, payload[:2]) == (0x88, code.to_bytes(2, "big"))
            assert wire.transport.eof_written
            await wire.exchange(say("ignored") * 100)
            assert member.end[0] == code
            assert member.contents == []
            await asyncio.sleep(4)
            assert wire.transport.closed

        member = Member()
        with_a_worker(test, member)

    def test_messages_before_it_may_be_answered(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            answers = await wire.ask(say("good") + frame(3))
            assert answers == [(0x81, b"good"), closing(1002, "reserved opcode")]

        with_a_worker(test, Member())

    @pytest.mark.parametrize("closes", [False, True])
    def test_but_not_for_long(self, closes: bool) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(say("received"))
            assert await wire.ask(say("waits") + frame(3)) == []
            if closes:
                await member.send({"type": "websocket.close"})
                assert wire.frames == [closing(1000)]
            else:
                await asyncio.sleep(32)
                assert wire.frames == [closing(1002, "reserved opcode")]
            assert wire.transport.eof_written
            await asyncio.sleep(4)
            assert wire.transport.closed

        member = Member(echoes=False)
        with_a_worker(test, member, ws_close_timeout=30)


class TestDeadlines:
    def test_a_silent_client_is_pinged_and_cut(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "pounce.error")

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await asyncio.sleep(19)
            assert wire.frames == []
            await asyncio.sleep(3)
            assert wire.frames == [(0x89, b"")]
            await asyncio.sleep(28)
            assert not wire.closed
            await asyncio.sleep(4)
            assert wire.frames == [(0x89, b""), closing(1011, "no pong in time")]
            assert member.end == (1006, "no pong in time")
            await asyncio.sleep(4)
            assert wire.transport.closed

        member = Member()
        with_a_worker(test, member, ws_ping_interval=20, ws_ping_timeout=30)

    @pytest.mark.parametrize("before", [10, 30], ids=["the ping", "the pong"])
    def test_the_time_in_which_the_loop_was_blocked_is_not_the_client_s(self, before: int) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await asyncio.sleep(before)
            block(100)
            await asyncio.sleep(45 - before)
            assert wire.frames == [(0x89, b"")]
            await asyncio.sleep(10)
            assert wire.frames[1:] == [closing(1011, "no pong in time")]

        silence = {"ws_ping_interval": 20, "ws_ping_timeout": 30, "ws_idle_timeout": 60}
        with_a_worker(test, Member(), **silence)

    @pytest.mark.parametrize("sign", [frame(PONG), say("x")])
    def test_any_sign_of_life_will_do(self, sign: bytes) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            for _ in range(20):
                await asyncio.sleep(23)
                await wire.exchange(sign)
            assert not wire.closed
            assert wire.frames.count((0x89, b"")) == 20

        with_a_worker(test, Member(echoes=False), ws_ping_interval=20, ws_ping_timeout=20)

    def test_who_talks_is_not_pinged(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            for _ in range(20):
                await asyncio.sleep(15)
                await wire.exchange(say("x"))
            assert wire.frames == []

        with_a_worker(test, Member(echoes=False), ws_ping_interval=20, ws_ping_timeout=20)

    @pytest.mark.parametrize("options", [{"ws_ping_interval": None}, {"ws_ping_timeout": 0}])
    def test_without_them_nobody_is_cut(self, options: dict[str, Any]) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await asyncio.sleep(100_000)
            assert not wire.closed

        with_a_worker(test, Member(), **options)

    def test_a_client_whose_messages_wait_is_not_thought_dead(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(say("x") * 10)
            await asyncio.sleep(200)
            assert not wire.closed
            member.may_receive.set()
            await settle(20)
            assert len(member.contents) == 10

        member = Member(echoes=False)
        with_a_worker(test, member, ws_max_queue=2, ws_idle_timeout=50)

    def test_a_client_that_reads_slowly_is_not_thought_dead(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            wire.transport.room = 0
            await wire.exchange(give(bytes(200_000)))
            for _ in range(30):
                await asyncio.sleep(10)
                wire.transport.take(1000)
            assert not wire.closed
            wire.transport.take()
            await settle()
            assert wire.frames == [(0x82, bytes(200_000))]

        with_a_worker(test, Member(), ws_ping_interval=20, ws_ping_timeout=20)

    def test_an_idle_one_is_closed(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await asyncio.sleep(55)
            await wire.exchange(say("x"))
            await asyncio.sleep(55)
            await member.send({"type": "websocket.send", "text": "y"})
            await asyncio.sleep(55)
            wire.send(frame(PONG))
            assert wire.frames == [(0x81, b"y")]
            await asyncio.sleep(10)
            assert wire.frames == [(0x81, b"y"), closing(1000, "idle for too long")]
            assert member.end == (1000, "idle for too long")

        member = Member(echoes=False)
        with_a_worker(test, member, ws_idle_timeout=60, ws_ping_interval=0)

    def test_a_client_that_does_not_read_is_cut(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            wire.transport.room = 0
            await wire.exchange(give(bytes(200_000)))
            assert not wire.transport.closed
            await asyncio.sleep(45)
            assert wire.transport.closed
            assert member.received[-1]["type"] == "websocket.receive"

        member = Member()
        with_a_worker(test, member, timeout_write=40, ws_ping_interval=0)


class TestDraining:
    @pytest.mark.parametrize("gentle", [False, True])
    def test_every_one_is_closed_with_1012(self, gentle: bool) -> None:
        async def test(worker: Worker) -> None:
            wires = [SocketWire(worker) for _ in range(3)]
            for wire in wires:
                await wire.open()
            member.may_receive.clear()
            draining = asyncio.ensure_future(worker.drain(60, gentle=gentle))
            await settle()
            assert [wire.frames for wire in wires] == [[closing(1012)]] * 3
            for wire in wires:
                await wire.exchange(close(1012))
                assert wire.transport.closed
            member.may_receive.set()
            await draining
            assert member.end == (1012, "")

        member = Member()
        with_a_worker(test, member)

    def test_who_does_not_answer_is_cut(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            draining = asyncio.ensure_future(worker.drain(60))
            await asyncio.sleep(12)
            assert wire.transport.aborted
            await draining
            assert member.ended

        member = Member()
        with_a_worker(test, member)

    def test_an_application_that_does_not_end_is_cancelled(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            await asyncio.Event().wait()

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            await worker.drain(5)
            assert wire.transport.closed
            assert not worker.tasks

        with_a_worker(test, app)

    def test_messages_that_came_before_are_received(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.open()
            member.may_receive.clear()
            await wire.exchange(say("1") + say("2"))
            draining = asyncio.ensure_future(worker.drain(60))
            await settle()
            member.may_receive.set()
            await settle()
            assert member.contents == ["1", "2"]
            assert member.end == (1012, "")
            wire.transport.vanish()
            await draining

        member = Member(echoes=False)
        with_a_worker(test, member)


def test_errors_of_send_are_of_one_kind() -> None:
    assert issubclass(ClientDisconnected, OSError)
