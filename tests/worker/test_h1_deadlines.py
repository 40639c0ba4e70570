"""Which deadlines a connection has, and which not, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.worker.worker import Worker
from tests.worker.h1_requests import (
    GET,
    POST,
    Gates,
    answer,
    in_a_worker,
    path_app,
)
from tests.worker.virtual_time import block, settle
from tests.worker.wire import Journal, Wire


@pytest.mark.parametrize(
    ("option", "begun"),
    [
        ("timeout_first_byte", b""),
        ("timeout_keep_alive", GET % 1),
        ("timeout_keep_alive", POST % (1, 3) + b"abc"),
        ("timeout_keep_alive", GET % 1 + b"\r\n"),
    ],
)
def test_an_idle_connection_is_closed_without_a_word(option: str, begun: bytes) -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        sent = await wire.exchange(begun)
        await asyncio.sleep(39)
        assert not wire.closed
        await asyncio.sleep(3)
        assert wire.transport.closed
        assert wire.sent == sent
        assert wire.connection.close_reason == "timeout"

    options = {"timeout_first_byte": 300, "timeout_keep_alive": 300, "timeout_request_head": 300}
    in_a_worker(test, Journal(), **(options | {option: 40}))


@pytest.mark.parametrize(
    ("option", "begun"),
    [
        ("timeout_first_byte", b""),
        ("timeout_keep_alive", GET % 1),
        ("timeout_request_head", b"GET / HT"),
        ("timeout_request_body", POST % (1, 3) + b"ab"),
    ],
)
def test_the_time_in_which_the_loop_was_blocked_is_not_the_client_s(
    option: str, begun: bytes
) -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        await wire.exchange(begun)
        block(60)
        await asyncio.sleep(30)
        assert not wire.closed
        await asyncio.sleep(13)
        assert wire.closed

    in_a_worker(test, Journal(), limit_request_body_rate=0, **{option: 40})


@pytest.mark.parametrize(
    ("option", "trickle"),
    [
        ("timeout_request_head", b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("timeout_request_head", b"\r\nGET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ],
)
def test_a_head_that_trickles_in_is_refused_in_time(option: str, trickle: bytes) -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        seconds = 0
        while not wire.closed:
            wire.send(trickle[seconds : seconds + 1])
            await asyncio.sleep(1)
            seconds += 1
        assert wire.responses()[0].status == 408
        assert wire.responses()[0].closes
        assert 39 <= seconds <= 44
        await asyncio.sleep(5)
        assert wire.transport.closed

    in_a_worker(test, path_app, **{option: 40})


def test_the_deadline_of_a_pipelined_head_begins_with_its_turn() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + b"GET /2 HT")
        await asyncio.sleep(3600)
        await app.open("/1")
        await asyncio.sleep(39)
        assert not wire.closed
        await asyncio.sleep(3)
        assert [response.status for response in wire.responses(["GET"] * 2)] == [200, 408]

    in_a_worker(test, app, timeout_request_head=40)


def test_a_body_may_take_long_but_not_pause_long() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10))
        for _ in range(9):
            await asyncio.sleep(39)
            wire.send(b"x")
        await settle()
        assert not wire.closed
        await asyncio.sleep(42)
        assert wire.responses(["POST"])[0].status == 408
        assert wire.responses(["POST"])[0].closes
        assert app.requests[0]["end"] == "disconnect"

    in_a_worker(test, app, timeout_request_body=40, limit_request_body_rate=0)


def test_a_body_that_trickles_is_cut() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10_000))
        seconds = 0
        while not wire.transport.sent and seconds < 100:
            await asyncio.sleep(1)
            wire.send(b"x" * 10)
            seconds += 1
        # 10 s, and a tenth of a second for each of the bytes that came meanwhile, of which there
        # are 10 a second where 100 are asked for.
        assert 10 <= seconds <= 14
        assert wire.responses(["POST"])[0].status == 408
        assert app.requests[0]["end"] == "disconnect"

    in_a_worker(test, app, limit_request_body_rate=100)


def test_a_body_that_is_fast_enough_may_take_its_time() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10_000))
        for _ in range(100):
            await asyncio.sleep(0.9)
            wire.send(b"x" * 100)
        await settle()
        assert wire.responses(["POST"])[0].status == 200

    in_a_worker(test, app, limit_request_body_rate=100)


def test_a_body_that_stops_in_the_middle_of_a_response_cuts_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        with pytest.raises(OSError, match="gone"):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10))
        await asyncio.sleep(42)
        assert wire.sent.endswith(b"\r\n4\r\npart\r\n")
        assert wire.closed

    in_a_worker(test, app, timeout_request_body=40)


def test_a_request_takes_as_long_as_its_application_wants() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 1) + b"x")
        await asyncio.sleep(24 * 3600)
        await app.open("/1")
        assert wire.responses(["POST"])[0].status == 200

    in_a_worker(test, app)


def big_response(more: bool) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(300_000), "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_a_reader_that_stops_is_cut_and_a_slow_one_is_not(more: bool, close: bytes) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % close

    async def test(worker: Worker) -> None:
        slow, stopped = Wire(worker), Wire(worker)
        for wire in (slow, stopped):
            wire.transport.room = 10_000
            wire.send(request)
        for _ in range(35):
            await asyncio.sleep(30)
            slow.transport.take(9_000)
        assert stopped.transport.aborted
        assert stopped.connection.close_reason == "write_timeout"
        assert len(slow.responses()[0].body) == 300_000
        assert not worker.in_flight

    in_a_worker(test, big_response(more), timeout_write=40)


def test_a_small_answer_that_is_never_taken_does_not_hold_the_connection() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        wire.send(GET % 1)
        await asyncio.sleep(100)
        assert wire.transport.closed

    in_a_worker(test, path_app)


def test_an_answer_to_one_who_still_sends_has_its_time_to_arrive() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(300_000))

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 10_000
        wire.send(POST % (1, 10_000_000))
        for _ in range(35):
            await asyncio.sleep(10)
            wire.transport.take(9_000)
        assert len(wire.responses(["POST"])[0].body) == 300_000
        await asyncio.sleep(5)
        assert wire.transport.closed

    in_a_worker(test, app)
