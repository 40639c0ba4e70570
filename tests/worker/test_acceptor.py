"""Accepting with a table of file descriptors that is nearly full."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import cast

import pytest
import uvloop

from pounce.worker import acceptor
from pounce.worker.acceptor import RESERVE, Acceptor, Place
from tests.waiting import PATIENCE


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        writable = cast(asyncio.WriteTransport, transport)
        writable.write(b"hello")
        writable.close()


@contextlib.asynccontextmanager
async def accepting() -> AsyncIterator[tuple[Acceptor, socket.socket]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        sock.setblocking(False)
        it = Acceptor(100, lambda: 0)
        await it.start([Place(sock, Greeter)])
        try:
            yield it, sock
        finally:
            await it.stop()


async def greeted(sock: socket.socket, seconds: float) -> bool:
    """Whether a client is accepted within so much time."""
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    try:
        return await asyncio.wait_for(reader.read(), seconds) == b"hello"
    except TimeoutError:
        return False
    finally:
        writer.close()
        await writer.wait_closed()


def test_as_many_are_accepted_in_a_turn_as_come() -> None:
    turn = 0
    accepted: list[int] = []

    async def run() -> None:
        nonlocal turn

        class Noter(Greeter):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.append(turn)
                it.look_at_a_turn()
                Greeter.connection_made(self, transport)

        async def until_accepted(number: int) -> None:
            nonlocal turn
            give_up = time.monotonic() + PATIENCE
            while len(accepted) < number and time.monotonic() < give_up:
                await asyncio.sleep(0)
                turn += 1
            assert len(accepted) == number

        it = Acceptor(200, lambda: len(accepted))
        await it.start([Place(sock, Noter, at_once=4)])
        await until_accepted(100)
        assert max(Counter(accepted).values()) == 4
        assert len(it._servers) == 4
        # Now one comes at a time.
        number = 100
        while len(it._servers) > 1 and number < 200:
            number += 1
            stack.enter_context(socket.create_connection(sock.getsockname(), PATIENCE))
            await until_accepted(number)
        assert len(it._servers) == 1
        await it.stop()

    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(200)
        sock.setblocking(False)
        for _ in range(100):
            stack.enter_context(socket.create_connection(sock.getsockname(), PATIENCE))
        uvloop.run(run())


def test_what_may_come_in_a_turn_is_held_in_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "fd_limit", lambda: 1000)
    monkeypatch.setattr(acceptor, "_descriptors_in_use", lambda: 100)

    async def run() -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            sock.setblocking(False)
            it = Acceptor(100, lambda: 0)
            await it.start([Place(sock, Greeter, at_once=10)])
            try:
                assert it.look_for_room(0) == 1000 - 100 - RESERVE - 9
            finally:
                await it.stop()

    uvloop.run(run())


def test_it_stops_before_the_table_is_full_and_goes_on_when_there_is_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 10_000
    monkeypatch.setattr(acceptor, "fd_limit", lambda: limit)

    async def run() -> None:
        nonlocal limit
        async with accepting() as (it, sock):
            # A few are in use.
            assert limit - RESERVE - 1000 < it.look_for_room(0) < limit - RESERVE
            assert await greeted(sock, 60)
            limit = 8
            for _ in range(3):
                assert it.look_for_room(0) <= 0
            assert not await greeted(sock, 0.05)
            limit = 10_000
            it.look_for_room(0)
            it.look_for_room(0)
            assert await greeted(sock, 60)

    with caplog.at_level(logging.ERROR, "pounce.error"):
        uvloop.run(run())
    assert [record.getMessage() for record in caplog.records] == [
        "out of file descriptors (the limit is 8): new connections wait until some are closed"
    ]


def test_descriptors_that_were_closed_in_between_are_no_room_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lowest one that is free says nothing of those above it."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(200)]
        held[0].close()

        async def run() -> None:
            async with accepting() as (it, _):
                before = acceptor._descriptors_in_use()
                assert before >= 199
                monkeypatch.setattr(acceptor, "fd_limit", lambda: before + RESERVE + 1)
                assert it.look_for_room(0) <= 1
                assert it.look_for_room(50) <= 1

        uvloop.run(run())


def test_descriptors_are_counted_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [100]
    monkeypatch.setattr(acceptor, "fd_limit", lambda: 10_000 + RESERVE)
    monkeypatch.setattr(acceptor, "_descriptors_in_use", lambda: used[-1])

    async def run() -> None:
        async with accepting() as (it, _):
            it._next_count = 0
            it.look_for_room(10)
            used.append(5000)
            # What is not counted anew is known by the number of connections.
            rooms = [it.look_for_room(20) for _ in range(acceptor.COUNT_EVERY + 1)]
            assert rooms == [10_000 - 110] * acceptor.COUNT_EVERY + [5000]
            used.append(9990)
            assert it.look_for_room(4900) == 10_000 - (5000 - 20) - 4900
            # Hardly any is left: now it has to be exact.
            assert it.look_for_room(4970) == 10

    uvloop.run(run())


def test_asyncio_is_left_to_wait_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "fd_limit", lambda: 8)

    async def run() -> None:
        async with accepting() as (it, sock):
            assert it.look_for_room(0) == float("inf")
            assert await greeted(sock, 60)

    asyncio.run(run())


def test_other_errors_of_the_loop_are_told_as_before(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["message"]))
        async with accepting():
            loop.call_exception_handler({"message": "of the application"})
            for _ in range(100):
                loop.call_exception_handler({"message": "socket.accept() out of system resource"})

    with caplog.at_level(logging.ERROR, "pounce.error"):
        asyncio.run(run())
    assert told == ["of the application"]
    assert len(caplog.records) == 1


def test_workers_of_one_process_share_its_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "fd_limit", lambda: 120 + RESERVE + 100)
    monkeypatch.setattr(acceptor, "_descriptors_in_use", lambda: 100)

    async def run() -> None:
        async with accepting() as (one, _):
            assert one.look_for_room(0) == 120
            async with accepting() as (two, _), accepting() as (three, _):
                # If each takes as many before it looks again, that is all there are.
                assert [each.look_for_room(0) for each in (one, two, three)] == [40, 40, 40]
                three.abandon()
                assert one.look_for_room(0) == two.look_for_room(0) == 60
            assert one.look_for_room(0) == 120

    uvloop.run(run())
