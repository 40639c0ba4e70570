"""How HTTP/2 connections end when their worker does, and after their last request."""

from __future__ import annotations

import asyncio

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.protocol.h2.interface import ErrorCode
from pounce.worker.worker import Worker
from tests.worker.h1_requests import Gates, answer, path_app
from tests.worker.h2_wire import ENGINES, H2Wire, over_h2
from tests.worker.virtual_time import settle

pytestmark = pytest.mark.parametrize("engine", ENGINES)

FIRST = (2**31 - 1, 0)


@pytest.mark.parametrize("gentle", [False, True])
def test_what_is_under_way_is_served_and_what_comes_later_is_refused(
    engine: str, gentle: bool
) -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        wire.client.acks_pings = False
        first = wire.client.request(b"/1")
        await wire.go()
        draining = asyncio.ensure_future(worker.drain(60, gentle=gentle))
        await wire.go()
        assert wire.client.goodbyes == [FIRST]
        under_way = wire.client.request(b"/2")
        await wire.go()
        assert app.started == ["/1", "/2"]
        await asyncio.sleep(4)
        await wire.go()
        assert wire.client.goodbyes == [FIRST, (under_way, 0)]
        late = await wire.request(b"/3")
        assert late.reset == ErrorCode.REFUSED_STREAM
        assert app.started == ["/1", "/2"]
        await app.open("/1")
        await wire.go()
        assert wire.client.streams[first].complete
        assert not wire.closed
        await app.open("/2")
        await wire.go()
        assert wire.client.streams[under_way].complete
        assert wire.closed
        await asyncio.wait_for(draining, 5)

    over_h2(test, app, engine=engine)


def test_a_client_that_answers_the_ping_is_let_go_at_once(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        await wire.request()
        draining = asyncio.ensure_future(worker.drain(60))
        await wire.go()
        assert wire.client.goodbyes == [FIRST, (1, 0)]
        assert wire.closed
        wire.transport.vanish()
        await settle()
        assert draining.done()

    over_h2(test, path_app, engine=engine)


def test_a_fresh_connection_may_send_one_request(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire, silent = H2Wire(worker), H2Wire(worker)
        draining = asyncio.ensure_future(worker.drain(60))
        await settle()
        assert not wire.closed
        assert (await wire.request()).complete
        assert wire.client.goodbyes == [FIRST, (1, 0)]
        assert wire.closed
        await asyncio.sleep(3)
        await silent.go()
        assert silent.closed
        await asyncio.wait_for(draining, 10)

    over_h2(test, path_app, engine=engine)


def test_what_does_not_finish_in_time_is_cancelled(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1000)

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream = await wire.request()
        await worker.drain(5)
        await wire.go()
        assert stream.status == 500
        assert wire.transport.closed

    over_h2(test, app, engine=engine)


def test_the_last_request_of_a_connection(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        for _ in range(3):
            assert (await wire.request()).complete
        assert wire.client.goodbyes == [FIRST, (5, 0)]
        assert wire.closed

    over_h2(test, path_app, engine=engine, limit_keep_alive_requests=3)


def test_a_client_that_says_goodbye(engine: str) -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request(b"/1")
        wire.client.out += b"\0\0\x08\x07\0\0\0\0\0" + bytes(8)
        await wire.go()
        assert not wire.closed
        await app.open("/1")
        await wire.go()
        assert wire.client.streams[stream_id].complete
        assert wire.closed

    over_h2(test, app, engine=engine)


def test_a_client_that_ends_its_side(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await answer(send, b"behind it")

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream = await wire.request()
        wire.transport.half_close()
        await wire.go()
        assert stream.body == b"behind it"
        assert wire.closed

    over_h2(test, app, engine=engine)


def test_a_connection_that_is_aborted_at_any_moment(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wires = [H2Wire(worker) for _ in range(2)]
        await wires[0].request()
        await worker.abandon()
        assert all(wire.transport.closed for wire in wires)

    over_h2(test, path_app, engine=engine)
