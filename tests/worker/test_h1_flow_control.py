"""Pipelined requests, slow readers, and applications that do not read."""

from __future__ import annotations

import asyncio

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
from tests.worker.virtual_time import settle
from tests.worker.wire import Wire

# Pipelining


def test_pipelined_requests_are_answered_in_order_when_the_first_is_slow() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + GET % 2 + GET % 3)
        await settle()
        assert app.started == ["/1"]
        await app.open("/2")
        assert wire.sent == b""
        await app.open("/1")
        assert app.started == ["/1", "/2", "/3"]
        assert [response.body for response in wire.responses(["GET"] * 2)] == [b"/1", b"/2"]
        await app.open("/3")
        assert len(wire.responses(["GET"] * 3)) == 3

    in_a_worker(test, app)


def test_what_arrives_before_a_pipelined_request_begins_is_not_lost() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        request = GET % 2
        wire.send(GET % 1 + request[:3])
        for _ in range(20):
            if not wire.sent:
                await asyncio.sleep(0)
        # uvloop reads sockets before it runs what was scheduled last; asyncio after it.
        wire.send(request[3:])
        await settle()
        assert [response.body for response in wire.responses(["GET"] * 2)] == [b"/1", b"/2"]

    in_a_worker(test, path_app)


@pytest.mark.parametrize("request_", [[GET % 1], [POST % (1, 1), b"x"]], ids=["whole", "unread"])
def test_a_client_that_pipelines_without_reading_is_not_served_without_bounds(
    request_: list[bytes],
) -> None:
    served = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal served
        served += 1
        await answer(send, bytes(10_000))

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        for _ in range(200):
            for part in request_:
                wire.send(part)
                await settle(4)
        assert served < 20
        assert len(wire.transport.buffer) < 200_000
        assert wire.transport.waiting > 100
        wire.transport.take()
        await settle(1000)
        assert len(wire.responses(["GET"] * 200)) == 200
        assert len(await wire.exchange(GET % 201)) > 10_000

    in_a_worker(test, app)


def test_a_client_that_pipelines_into_a_slow_request_is_paused() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        for _ in range(10):
            wire.send(GET % 2 * 1000)
        assert wire.transport.waiting > 100_000
        await app.open("/1")
        await app.open("/2")
        await settle(100_000)
        assert len(wire.responses(["GET"] * 10_001)) == 10_001

    in_a_worker(test, app, limit_keep_alive_requests=0)


# Flow control


def test_a_slow_reader_pauses_send() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        wire.send(GET % 1)
        await settle(500)
        assert sent < 20
        before = sent
        wire.transport.take(100_000)
        await settle(500)
        assert before < sent < 40
        wire.transport.take()
        await settle(500)
        assert len(wire.responses()[0].body) == 1_000_000

    in_a_worker(test, app)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_stream_to_a_fast_reader_leaves_turns_to_others(size: int) -> None:
    done = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal done
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000_000 // size):
            await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        done = True

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        turns = 0
        while not done:
            await settle(1)
            turns += 1
        assert turns > 10_000_000 / (3 * max(size, 65536))
        assert len(wire.responses()[0].body) == 10_000_000

    in_a_worker(test, app)


def test_an_application_that_does_not_read_pauses_the_client() -> None:
    go = asyncio.Event()
    received = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        await go.wait()
        while True:
            message = await receive()
            received += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, b"%d" % received)

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 1_000_000))
        for _ in range(100):
            wire.send(bytes(10_000))
            await settle(2)
        assert wire.transport.waiting > 800_000
        # The peer is not late while nobody listens to it.
        await asyncio.sleep(3600)
        assert wire.sent == b""
        go.set()
        await settle(200)
        assert wire.responses(["POST"])[0].body == b"1000000"

    in_a_worker(test, app)


def test_a_body_that_is_read_in_parts_resumes_the_client_each_time() -> None:
    step = asyncio.Semaphore(0)
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            await step.acquire()
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await answer(send, b"ok")

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 500_000))
        for _ in range(50):
            wire.send(bytes(10_000))
        while sum(sizes) < 500_000:
            step.release()
            await settle()
            assert sum(sizes) + wire.transport.waiting >= 500_000 - 2 * 65536
        assert max(sizes) < 2 * 65536
        step.release()
        await settle()
        assert wire.responses(["POST"])[0].status == 200

    in_a_worker(test, app)
