"""What a request keeps of what the application gave it, and of calls that were cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pounce.asgi.types import Message, Receive, Scope, Send
from pounce.worker.h1_cycle import H1Cycle
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Wire, make_worker

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"20")]], ids=["chunked", "length"])
@pytest.mark.parametrize("view", [bytearray, memoryview])
def test_a_buffer_that_is_filled_again_after_send_does_not_change_what_was_sent(
    fields: list[tuple[bytes, bytes]], view: Any
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        buffer = bytearray(4)
        for part in (b"one ", b"two ", b"3rd ", b"4th ", b"last"):
            buffer[:] = part
            # A bytearray cannot be resized while it is exported; this only fills it again.
            body = buffer if view is bytearray else memoryview(buffer)
            more = part != b"last"
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def main() -> None:
        wire = Wire(make_worker(app))
        await wire.exchange(GET)
        assert [response.body for response in wire.responses()] == [b"one two 3rd 4th last"]

    run(main())


def test_the_length_of_a_view_is_counted_in_bytes() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = memoryview(b"8 bytes!").cast("Q")
        await send({"type": "http.response.body", "body": body})

    async def main() -> None:
        wire = Wire(make_worker(app))
        await wire.exchange(GET)
        assert [response.body for response in wire.responses()] == [b"8 bytes!"]

    run(main())


@pytest.mark.parametrize("body", ["text", 5, None, [1, 2]])
def test_a_body_that_is_no_bytes_is_an_error(body: object) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(TypeError):
            await send({"type": "http.response.body", "body": body})
        await send({"type": "http.response.body", "body": b"mended"})

    async def main() -> None:
        wire = Wire(make_worker(app))
        await wire.exchange(GET)
        assert [response.body for response in wire.responses()] == [b"mended"]

    run(main())


def test_cancelled_calls_of_receive_leave_nothing_behind() -> None:
    """Frameworks ask whether the client has left by a call of receive() that they cancel."""
    waiting: list[int] = []
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        cycle = receive.__self__  # type: ignore[attr-defined]
        assert isinstance(cycle, H1Cycle)
        other = asyncio.ensure_future(receive())
        for _ in range(10):
            call = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait({call})
        waiting.append(len(cycle.waiters or ()))
        told.append(await other)

    async def main() -> None:
        wire = Wire(make_worker(app))
        await wire.exchange(GET)
        while not waiting:
            await settle()
        wire.transport.vanish()
        await settle()

    run(main())
    assert waiting == [1]
    assert told == [{"type": "http.disconnect"}]
