"""What becomes of connections when their worker drains."""

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
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Wire, make_worker


def test_draining_closes_idle_connections_and_lets_busy_ones_finish() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        fresh, idle, busy, arriving, sending = (Wire(worker) for _ in range(5))
        await idle.exchange(GET % 0)
        await app.open("/0")
        busy.send(GET % 1 + GET % 2)
        arriving.send((GET % 3)[:9])
        sending.send(POST % (4, 3) + b"a")
        await settle()
        draining = asyncio.ensure_future(worker.drain(60))
        await settle()
        assert idle.transport.closed
        for wire in (busy, arriving, sending):
            assert not wire.closed
        arriving.send((GET % 3)[9:])
        sending.send(b"bc")
        for path in ("/1", "/3", "/4"):
            await app.open(path)
        for wire in (busy, arriving, sending):
            response = wire.responses()[0]
            assert response.status == 200
            assert response.closes
            assert wire.closed
        await asyncio.wait_for(draining, 5)
        assert fresh.transport.closed
        assert app.started == ["/0", "/1", "/4", "/3"]

    in_a_worker(test, app)


def test_a_gentle_drain_closes_a_connection_only_after_a_response_that_says_so() -> None:
    app = Gates()
    gate = asyncio.Event()

    async def begun_or_gated(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/begun":
            return await app(scope, receive, send)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"2")],
            }
        )
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await gate.wait()
        return await send({"type": "http.response.body", "body": b"b"})

    async def test(worker: Worker) -> None:
        fresh, idle, busy, begun = (Wire(worker) for _ in range(4))
        await app.open("/0")
        await idle.exchange(GET % 0)
        busy.send(GET % 1)
        begun.send(b"GET /begun HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle()
        draining = asyncio.ensure_future(worker.drain(60, gentle=True))
        await app.open("/1")
        gate.set()
        await asyncio.sleep(2)
        assert busy.responses()[0].closes
        assert busy.closed
        # The head of this one was out before: its client may be sending the next request.
        assert not begun.responses()[0].closes
        for wire, asked in ((fresh, 1), (idle, 2), (begun, 2)):
            assert not wire.closed
            await wire.exchange(GET % 0)
            assert wire.responses(["GET"] * asked)[-1].closes
            assert wire.closed
        await asyncio.wait_for(draining, 5)

    in_a_worker(test, begun_or_gated)


def test_a_gentle_drain_can_be_hastened() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        idle, busy = Wire(worker), Wire(worker)
        await app.open("/0")
        await idle.exchange(GET % 0)
        busy.send(GET % 1)
        await settle()
        draining = asyncio.ensure_future(worker.drain(60, gentle=True))
        await settle()
        assert not idle.closed
        worker.close_idle_connections()
        assert idle.closed
        await app.open("/1")
        assert busy.responses()[0].closes
        await asyncio.wait_for(draining, 5)

    in_a_worker(test, app)


async def over_tls(worker: Worker, count: int) -> list[Wire]:
    """Connections that had a response already."""
    wires = [Wire(worker) for _ in range(count)]
    for wire in wires:
        wire.connection.is_tls = True
        await wire.exchange(GET % 0)
    return wires


async def ask_all(wires: list[Wire]) -> int:
    """Asks once on each that is open; how many of the responses were the last."""
    closed = 0
    for wire in wires:
        if not wire.closed:
            sent = await wire.exchange(GET % 0)
            assert sent.startswith(b"HTTP/1.1 200 ")
            assert wire.closed == (b"connection: close" in sent)
            closed += wire.closed
    return closed


@pytest.mark.parametrize(
    ("count", "seconds", "told_by_then", "told_after"),
    [(30, 60, 6, 3.0), (100, 4, 51, 1.0), (0, 60, 0, 0.0)],
    ids=["paced", "faster when there are many", "none"],
)
def test_a_gentle_drain_sends_tls_connections_away_one_after_another(
    count: int, seconds: float, told_by_then: int, told_after: float
) -> None:
    async def test(worker: Worker) -> None:
        wires = await over_tls(worker, count)
        plain = Wire(worker)
        await plain.exchange(GET % 0)
        draining = asyncio.ensure_future(worker.drain(seconds, gentle=True))
        await asyncio.sleep(0.5)
        told = await ask_all(wires)
        assert abs(told - told_by_then) <= 1
        await asyncio.sleep(told_after)
        assert await ask_all([*wires, plain]) == count - told + 1
        await asyncio.wait_for(draining, 1)

    in_a_worker(test, path_app)


def test_sending_tls_connections_away_ends_when_the_drain_is_hastened() -> None:
    async def test(worker: Worker) -> None:
        wires = await over_tls(worker, 100)
        draining = asyncio.ensure_future(worker.drain(60, gentle=True))
        await asyncio.sleep(0.5)
        worker.close_idle_connections()
        assert all(wire.closed for wire in wires)
        await asyncio.wait_for(draining, 0.1)

    in_a_worker(test, path_app)


def test_sending_tls_connections_away_is_part_of_the_time_for_draining() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        await app.open("/0")
        busy, *_ = await over_tls(worker, 3000)
        begun = worker.loop.time()
        busy.send(GET % 1)
        await worker.drain(60, gentle=True)
        assert 60 <= worker.loop.time() - begun < 60 + 2
        assert busy.responses(["GET", "GET"])[-1].status == 500

    in_a_worker(test, app)


def test_draining_cancels_what_does_not_finish_and_answers_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        await asyncio.wait_for(worker.drain(60), 61)
        assert wire.responses()[0].status == 500
        assert wire.responses()[0].closes
        assert not worker.connections

    in_a_worker(test, app)
    assert "1 requests on 1 connections did not finish within 60 s" in caplog.text
    assert "cancelled GET /1 from 192.0.2.7:50000" in caplog.text


def test_draining_ends_although_an_application_ignores_its_cancellation() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(100):
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError:
                continue

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        await asyncio.wait_for(worker.drain(60), 65)
        assert wire.transport.closed
        assert not worker.connections
        for task in worker.tasks:
            task.cancel()

    async def main() -> None:
        await test(make_worker(app))

    run(main())


def test_draining_waits_for_work_after_the_response() -> None:
    done = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal done
        await answer(send, b"")
        await asyncio.sleep(20)
        done = True

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        await wire.exchange(GET % 1)
        await worker.drain(60)
        assert done

    in_a_worker(test, app)
