"""A connection of a real worker on a transport that only remembers what is done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pounce.asgi.types import ASGIApp, Receive, Scope, Send
from pounce.config import ServerConfig
from pounce.lifecycle import BufferedCollector, LifecycleEvent
from pounce.sync_protocol import SyncApp
from pounce.worker.connection import Connection
from pounce.worker.h1_connection import H1Connection
from pounce.worker.observer import Observer
from pounce.worker.worker import Worker
from tests.integration.responses import Response, parse_responses
from tests.worker.virtual_time import settle

CLIENT = ("192.0.2.7", 50000)
SERVER = ("192.0.2.1", 80)


class FakeTransport(asyncio.Transport):
    """What asyncio's socket transport does for a protocol, without a socket.

    `room` is how much the peer still takes; what is written beyond it stays in the buffer.
    """

    def __init__(self, connection: Connection, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self.connection: Connection = connection
        self.loop = asyncio.get_running_loop()
        self.sent = b""
        self.room: float = float("inf")
        self.buffer = b""
        self.reading = True
        self.eof_written = False
        self.aborted = False
        self.closed = False
        self._closing = False
        self._high, self._low = 65536, 16384
        self._paused = False
        self._unread: list[bytes] = []

    # Asyncio's side

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert isinstance(data, (bytes, bytearray, memoryview)), type(data)
        assert not self.eof_written, "written after the end of the stream"
        if self._closing:
            return
        self.buffer += data
        self._push()
        if len(self.buffer) > self._high and not self._paused:
            self._paused = True
            self.connection.pause_writing()

    def write_eof(self) -> None:
        self.eof_written = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.buffer:
                self._lose()

    def abort(self) -> None:
        self.aborted = True
        self.buffer = b""
        if not self.closed:
            self._closing = True
            self._lose()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        assert self.reading, "paused twice"
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self.loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return self.reading

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def _push(self) -> None:
        taken = int(min(self.room, len(self.buffer)))
        self.sent += self.buffer[:taken]
        self.buffer = self.buffer[taken:]
        self.room -= taken
        if self._paused and len(self.buffer) <= self._low:
            self._paused = False
            self.connection.resume_writing()
        if self._closing and not self.buffer and not self.closed:
            self._lose()

    def _lose(self, error: Exception | None = None) -> None:
        if not self.closed:
            self.closed = self._closing = True
            self.loop.call_soon(self.connection.connection_lost, error)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, Connection)
        self.connection = protocol

    # The peer's side

    def arrive(self, data: bytes) -> None:
        """The peer sends; what comes while reading is paused waits in the kernel."""
        self._unread.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._unread and self.reading and not self._closing:
            self.connection.data_received(self._unread.pop(0))

    @property
    def waiting(self) -> int:
        """Bytes that the peer sent and the server has not read."""
        return sum(len(part) for part in self._unread)

    def take(self, size: float = float("inf")) -> None:
        """The peer reads `size` bytes more."""
        self.room += size
        self._push()

    def half_close(self) -> None:
        if not self._closing and not self.connection.eof_received():
            self.close()

    def vanish(self, error: Exception | None = None) -> None:
        """The connection is reset by the peer."""
        self.buffer = b""
        self._lose(error)


class Wire:
    """One connection to a worker: `send` is what the client sends, `sent` what it gets."""

    def __init__(self, worker: Worker, *, client: tuple[str, int] | str = CLIENT) -> None:
        self.worker = worker
        self.connection = H1Connection(worker)
        server = SERVER if isinstance(client, tuple) else "/run/pounce.sock"
        self.transport = FakeTransport(self.connection, {"peername": client, "sockname": server})
        self.connection.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        self.transport.arrive(data)

    async def exchange(self, data: bytes) -> bytes:
        """Sends, lets the worker do what it can, and returns what is new on the wire."""
        before = len(self.transport.sent)
        self.transport.arrive(data)
        await settle()
        return self.transport.sent[before:]

    @property
    def sent(self) -> bytes:
        return self.transport.sent

    @property
    def closed(self) -> bool:
        """Whether the server has ended the stream, at least in its own direction."""
        return self.transport.closed or self.transport.eof_written

    def responses(self, methods: Sequence[str] = ("GET",)) -> list[Response]:
        """All that was sent, which must be exactly the responses to requests of these methods."""
        found, rest = parse_responses(self.sent, methods, closed=self.closed)
        assert rest == b"", f"after the responses: {rest!r}"
        return found


def make_worker(
    app: ASGIApp,
    *,
    sync_app: SyncApp | None = None,
    collector: BufferedCollector | None = None,
    state: dict[str, Any] | None = None,
    **options: Any,
) -> Worker:
    """A worker in the running loop that listens nowhere."""
    options.setdefault("access_log", False)
    observer = None if collector is None else Observer(None, collector.record)
    return Worker(ServerConfig(**options), app, sync_app=sync_app, observer=observer, state=state)


def names(events: Sequence[LifecycleEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


class Journal:
    """An application that notes what it receives: scopes, whole bodies, and how they ended."""

    def __init__(self, *, read_body: bool = True) -> None:
        self.read_body = read_body
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry: dict[str, Any] = {
            key: scope[key]
            for key in ("method", "path", "raw_path", "query_string", "http_version", "headers")
        }
        self.requests.append(entry)
        body, complete = b"", False
        while self.read_body and not complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                entry["end"] = "disconnect"
                break
            body += message["body"]
            complete = not message["more_body"]
            entry["end"] = "complete" if complete else "partial"
        entry["body"] = body
        answer = b"%d %b" % (len(body), scope["raw_path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})
