"""A WebSocket of a real worker on a transport that only remembers what is done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pounce.asgi.types import Message, Receive, Scope, Send
from pounce.worker.worker import Worker
from tests.protocol.ws_frames import CLOSE, frame
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Wire, make_worker

KEY: Final = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE: Final = (
    b"GET /chat?x=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
)
ACCEPT: Final[Message] = {"type": "websocket.accept"}
DISCONNECT: Final = "websocket.disconnect"


def handshake(*fields: bytes) -> bytes:
    return UPGRADE + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def parse_frames(data: bytes) -> list[tuple[int, bytes]]:
    """First bytes and payloads of frames from the server, which must be whole and not masked."""
    found = []
    while data:
        first, size, at = data[0], data[1], 2
        assert not size & 0x80, "masked by the server"
        if size == 126:
            size, at = int.from_bytes(data[2:4], "big"), 4
            assert size > 125
        elif size == 127:
            size, at = int.from_bytes(data[2:10], "big"), 10
            assert size > 65535
        assert len(data) >= at + size, f"incomplete: {data!r}"
        found.append((first, data[at : at + size]))
        data = data[at + size :]
    return found


def closing(code: int, reason: str = "") -> tuple[int, bytes]:
    """A close frame as `parse_frames` has it."""
    return 0x80 | CLOSE, code.to_bytes(2, "big") + reason.encode()


class SocketWire(Wire):
    """A client of WebSockets."""

    @property
    def head(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[0]

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        return parse_frames(self.sent.partition(b"\r\n\r\n")[2])

    async def open(self, *fields: bytes) -> None:
        await self.exchange(handshake(*fields))
        assert self.head.startswith(b"HTTP/1.1 101 "), self.sent

    async def ask(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that come back."""
        return parse_frames(await self.exchange(data))


class Member:
    """An application that accepts, then receives what there is and notes it.

    Args:
        echoes: Whether it sends back what it gets.
        accepts: Its answer to `websocket.connect`, None for no answer.
    """

    def __init__(self, *, echoes: bool = True, accepts: Message | None = ACCEPT) -> None:
        self.echoes = echoes
        self.accepts = accepts
        self.scope: Scope = {}
        self.received: list[Message] = []
        self.may_receive = asyncio.Event()
        self.may_receive.set()
        self.send: Send
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.send = scope, send
        self.received.append(await receive())
        if self.accepts is not None:
            await send(self.accepts)
        while True:
            await self.may_receive.wait()
            message = await receive()
            self.received.append(message)
            if message["type"] == DISCONNECT:
                self.ended = True
                return
            if self.echoes:
                await send({**message, "type": "websocket.send"})

    @property
    def contents(self) -> list[str | bytes]:
        return [
            message.get("text", message.get("bytes"))
            for message in self.received
            if message["type"] == "websocket.receive"
        ]

    @property
    def end(self) -> tuple[int, str]:
        """Code and reason of the disconnect, which must have been told."""
        message = self.received[-1]
        assert message["type"] == DISCONNECT
        return message["code"], message["reason"]


def with_a_worker(test: Callable[[Worker], Awaitable[None]], app: Any, **options: Any) -> None:
    """Runs a test in virtual time; nothing may be left in progress at its end."""

    async def main() -> None:
        worker = make_worker(app, **options)
        await test(worker)
        await settle()
        assert worker.in_flight == len(worker.tasks)
        for task in list(worker.tasks):
            task.cancel()
        await settle()
        assert worker.in_flight == 0
        assert not worker.tasks

    run(main())


def say(content: str) -> bytes:
    return frame(1, content.encode())


def give(content: bytes) -> bytes:
    return frame(2, content)
