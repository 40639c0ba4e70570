"""What happens to a client over HTTP/2 that is late, or takes nothing."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hyperframe.frame import PingFrame

from pounce.asgi.types import Receive, Scope, Send
from pounce.protocol.h2.interface import ErrorCode
from pounce.worker.worker import Worker
from tests.protocol.h2_client import RawClient
from tests.worker.h1_requests import answer, path_app
from tests.worker.h2_wire import ENGINES, H2Wire, over_h2
from tests.worker.virtual_time import block
from tests.worker.wire import Journal

pytestmark = pytest.mark.parametrize("engine", ENGINES)


def test_a_client_that_says_nothing(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker, RawClient(greets=False))
        await asyncio.sleep(3)
        assert not wire.closed
        await asyncio.sleep(6)
        await wire.go()
        assert wire.closed

    over_h2(test, path_app, engine=engine, timeout_first_byte=4)


def test_an_idle_connection_is_told_goodbye(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        await wire.request()
        await asyncio.sleep(4)
        await wire.go()
        assert wire.client.goodbyes == []
        await asyncio.sleep(3)
        await wire.go()
        assert wire.client.goodbyes == [(2**31 - 1, 0), (1, 0)]
        assert wire.closed

    over_h2(test, path_app, engine=engine, timeout_keep_alive=5)


def test_pings_do_not_keep_an_idle_connection(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        await wire.request()
        for _ in range(9):
            wire.client.send(PingFrame(0, opaque_data=b"12345678"))
            await wire.go()
            await asyncio.sleep(1)
        assert wire.client.goodbyes
        assert wire.closed

    over_h2(test, path_app, engine=engine, timeout_keep_alive=5)


@pytest.mark.parametrize("body", [b"1", b"22"])
def test_a_connection_is_idle_from_its_last_response_on(engine: str, body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await answer(send, b"")

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        for _ in range(6):
            stream_id = wire.client.request(method=b"POST", ended=False)
            await wire.go()
            await asyncio.sleep(2)
            wire.client.data(stream_id, body, ended=True)
            await wire.go()
            assert wire.client.streams[stream_id].complete
            await asyncio.sleep(3)
        assert not wire.client.goodbyes

    over_h2(test, app, engine=engine, timeout_keep_alive=5)


def test_a_connection_with_a_request_in_progress_is_not_idle(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)
        await answer(send, b"at last")

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream = await wire.request()
        await asyncio.sleep(61)
        await wire.go()
        assert stream.body == b"at last"
        assert not wire.closed

    over_h2(test, app, engine=engine, timeout_keep_alive=5)


def test_a_body_that_stops_to_arrive(engine: str) -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request(method=b"POST", body=b"a", ended=False)
        await wire.go()
        for _ in range(3):
            await asyncio.sleep(4)
            wire.client.data(stream_id, b"a")
            await wire.go()
        assert not wire.client.streams[stream_id].status
        await asyncio.sleep(8)
        await wire.go()
        stream = wire.client.streams[stream_id]
        assert (stream.status, stream.reset) == (408, ErrorCode.NO_ERROR)
        assert not wire.client.goodbyes

    over_h2(test, app, engine=engine, timeout_request_body=5, limit_request_body_rate=0)
    assert app.requests[0]["end"] == "disconnect"


def test_the_time_in_which_the_loop_was_blocked_is_not_the_client_s(engine: str) -> None:
    async def test(worker: Worker) -> None:
        idle, late = H2Wire(worker), H2Wire(worker)
        await idle.request()
        stream_id = late.client.request(method=b"POST", body=b"a", ended=False)
        await late.go()
        await asyncio.sleep(10)
        block(100)
        await asyncio.sleep(25)
        for wire in (idle, late):
            await wire.go()
        assert idle.client.goodbyes == []
        assert not late.client.streams[stream_id].status
        await asyncio.sleep(10)
        for wire in (idle, late):
            await wire.go()
        assert idle.client.goodbyes
        assert late.client.streams[stream_id].status == 408

    options = {"timeout_keep_alive": 40, "timeout_request_body": 40}
    over_h2(test, Journal(), engine=engine, limit_request_body_rate=0, **options)


def test_a_body_that_drips(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request(method=b"POST", body=b"a", ended=False)
        for _ in range(20):
            await wire.go()
            if wire.client.streams[stream_id].status:
                break
            await asyncio.sleep(1)
            wire.client.data(stream_id, b"a")
        assert wire.client.streams[stream_id].status == 408

    over_h2(test, Journal(), engine=engine, limit_request_body_rate=100)


@pytest.mark.parametrize("window", [10_000, 100_000])
def test_a_client_is_not_late_while_the_application_does_not_read(engine: str, window: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)
        while (await receive())["more_body"]:
            pass
        await answer(send, b"read")

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        stream_id = wire.client.request(method=b"POST", body=b"x" * window, ended=False)
        await wire.go()
        await asyncio.sleep(61)
        await wire.go()
        wire.client.data(stream_id, b"", ended=True)
        await wire.go()
        assert wire.client.streams[stream_id].body == b"read"

    over_h2(test, app, engine=engine, timeout_request_body=5, http2_stream_window=window)


def test_a_stream_whose_window_stays_shut_is_reset(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b"x" * 5000
        if scope["path"] == "/whole":
            await answer(send, body)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await receive()
        await receive()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker, RawClient(window=1000))
        whole, parts = wire.client.request(b"/whole"), wire.client.request(b"/parts")
        slow = wire.client.request(b"/whole")
        for _ in range(8):
            await wire.go()
            wire.client.open_window(slow, 10)
            await asyncio.sleep(2)
        await wire.go()
        assert wire.client.streams[whole].reset == ErrorCode.CANCEL
        assert wire.client.streams[parts].reset == ErrorCode.CANCEL
        assert wire.client.streams[slow].reset is None
        assert worker.in_flight == 0
        assert not wire.closed

    with caplog.at_level(logging.INFO, logger="pounce.error"):
        over_h2(test, app, engine=engine, timeout_write=5)
    assert "timed out: write" in caplog.text


def test_a_client_that_does_not_read_is_cut(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        wire.transport.room = 10
        wire.client.request()
        await wire.go()
        await asyncio.sleep(20)
        assert not wire.transport.aborted  # it is small enough for the transport's buffer
        wire.client.request(b"/" + b"x" * 8000)
        for _ in range(30):
            wire.client.request(b"/" + b"x" * 8000)
        await wire.go()
        await asyncio.sleep(20)
        assert wire.transport.aborted

    over_h2(test, path_app, engine=engine, timeout_write=5, timeout_keep_alive=600)


def test_a_client_with_requests_in_progress_is_asked_whether_it_is_there(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()

    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        wire.client.request()
        for _ in range(12):
            await wire.go()
            await asyncio.sleep(2)
        assert not wire.transport.closed
        assert sum(frame.type == 6 for frame in wire.client.frames) >= 3
        wire.client.acks_pings = False
        for _ in range(8):
            await wire.go()
            await asyncio.sleep(2)
        assert wire.transport.aborted
        assert worker.in_flight == 0

    over_h2(test, app, engine=engine, http2_ping_interval=4)
