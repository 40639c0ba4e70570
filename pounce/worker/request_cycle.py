"""The ASGI side of one HTTP request: what the application receives and may send, and in what order.

The cycle knows nothing of framing. A subclass per protocol version writes the response; the
connection feeds the request body and says when the client is gone.

```
AWAIT_START --start--> HEAD_PENDING --body, more--> STREAMING --last body--> COMPLETE
                            |                           |  (trailers announced)
                            +--last body--> COMPLETE    +--last body--> TRAILERS --last--> COMPLETE
```
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pounce.asgi.types import ASGIApp, Message, Scope

if TYPE_CHECKING:
    from pounce.protocol.h1_head import RequestLine
    from pounce.worker.connection import Connection
    from pounce.worker.lane import Lane

logger = logging.getLogger("pounce.error")

AWAIT_START: Final = 0
HEAD_PENDING: Final = 1
STREAMING: Final = 2
TRAILERS: Final = 3
COMPLETE: Final = 4

_EXPECTED: Final = {
    AWAIT_START: "'http.response.start'",
    HEAD_PENDING: "'http.response.body'",
    STREAMING: "'http.response.body'",
    TRAILERS: "'http.response.trailers'",
}

BODY_HIGH_WATER: Final = 65536
"""Bytes of request body that may wait for the application before the peer is told to stop."""

Fields = Sequence[tuple[bytes, bytes]]


class ClientDisconnected(OSError):
    """Raised by `send()` when the client is gone (ASGI HTTP specification 2.4)."""


class RequestCycle(ABC):
    """One request from its head to the end of the application's call."""

    __slots__ = (
        "_head",
        "body_complete",
        "body_consumed",
        "body_parts",
        "body_size",
        "connection",
        "disconnected",
        "fields",
        "first_byte_ns",
        "lane",
        "line",
        "phase",
        "received_bytes",
        "scope",
        "sent_bytes",
        "started_ns",
        "status",
        "streamed",
        "task",
        "turn_used_up",
        "uncounted",
        "waiters",
        "wants_trailers",
        "worker",
    )

    # Set when they are known; a store for each request is saved.
    _head: Any
    """Status and fields as `prepare_head` of the connection has made them."""
    wants_trailers: bool
    """Whether the application has announced trailers with the head."""
    started_ns: int
    """When the request began, where there is an observer."""
    first_byte_ns: int
    """When the first part was sent of a response that is sent in parts, where that is counted."""

    def __init__(
        self,
        connection: Connection,
        lane: Lane,
        scope: Scope,
        line: RequestLine,
        body: bytes,
        complete: bool,
    ) -> None:
        self.connection = connection
        self.lane = lane
        self.worker = connection.worker
        self.scope = scope
        self.line = line
        self.phase = AWAIT_START
        self.status = 0
        self.fields: Fields = ()
        self.sent_bytes = 0
        """Bytes of response content, without framing."""
        self.body_parts = [body] if body else None
        self.body_size = self.received_bytes = len(body)
        """Bytes of request body that wait for the application."""
        self.body_complete = complete
        self.body_consumed = False
        self.disconnected = False
        self.turn_used_up = False
        """As much was sent in this turn of the loop as one response may. An application that has
        its data at hand, and a client that reads fast or is gone, would keep the loop for
        themselves."""
        self.waiters: list[asyncio.Future[None]] | None = None
        self.task: asyncio.Task[None] | None = None
        self.streamed = False
        """Whether the response is sent in parts."""
        self.uncounted = 0
        """Bytes that were written past the connection's `write`, which would have counted them."""

    # What the application does

    async def run(self, app: ASGIApp) -> None:
        """Calls the application and answers for it where it fails to."""
        worker = self.worker
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as exc:
            self.fail(exc)
        else:
            if self.phase != COMPLETE:
                self._fell_short()
        finally:
            worker.in_flight -= 1
            if self.task is not None:
                worker.tasks.discard(self.task)

    async def receive(self) -> Message:
        """The next part of the request body, then `http.disconnect`."""
        while True:
            if not self.body_consumed:
                if self.body_complete or self.body_parts:
                    return self._take_body()
                if not self.disconnected and self.phase != COMPLETE:
                    self._ask_for_body()
            if self.disconnected or self.phase == COMPLETE:
                return {"type": "http.disconnect"}
            waiter = self.worker.loop.create_future()
            if self.waiters is None:
                self.waiters = []
            self.waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                # Frameworks ask in this way, perhaps every moment, whether the client has left.
                if self.waiters is not None and waiter in self.waiters:
                    self.waiters.remove(waiter)
                raise

    async def send(self, message: Message) -> None:
        """Takes a message of the response.

        Raises:
            ClientDisconnected: The client is gone.
            RuntimeError: The message is not allowed now.
            TypeError, ValueError: It is malformed; nothing of it has been sent.
        """
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            if type(body) is not bytes:
                # A copy, as the application may fill its buffer again while this one waits.
                body = bytes(memoryview(body))
            more = message.get("more_body", False)
            phase = self.phase
            if phase == HEAD_PENDING:
                if not more and not self.wants_trailers:
                    self._respond(body)
                    return
                self._start(body)
                self.phase = STREAMING if more else TRAILERS
            elif phase == STREAMING:
                if not more and not self.wants_trailers:
                    self._finish(body)
                    return
                if body:
                    self._continue(body)
                if not more:
                    self.phase = TRAILERS
            else:
                self._out_of_order(kind)
        elif kind == "http.response.start":
            if self.phase != AWAIT_START:
                self._out_of_order(kind)
                return
            fields = message.get("headers", ())
            if type(fields) is not list and type(fields) is not tuple:
                fields = list(fields)
            status = message["status"]
            self._head = self.connection.prepare_head(status, fields)
            self.fields = fields
            self.status = status
            self.wants_trailers = message.get("trailers", False)
            self.phase = HEAD_PENDING
            return
        else:
            await self._send_extension(kind, message)
        # After the last message nothing follows that could be sent too fast.
        if self.phase != COMPLETE:
            if self.turn_used_up:
                self.turn_used_up = False
                await self._give_way()
            if self.connection.write_paused:
                await self.connection.drain()

    async def _give_way(self) -> None:
        """Lets others have their turn."""
        await asyncio.sleep(0)

    async def _send_extension(self, kind: str, message: Message) -> None:
        phase = self.phase
        if kind == "http.response.trailers" and phase == TRAILERS:
            self._send_trailers(message.get("headers", ()))
            if not message.get("more_trailers", False):
                self._finish_trailers()
        elif kind == "http.response.pathsend" and phase == HEAD_PENDING:
            await self._send_path(os.fspath(message["path"]))
        elif kind == "http.response.zerocopysend" and phase in (HEAD_PENDING, STREAMING):
            await self._send_file(
                message["file"],
                message.get("offset"),
                message.get("count"),
                message.get("more_body", False),
            )
        elif kind == "http.response.early_hint" and phase in (AWAIT_START, HEAD_PENDING):
            self._send_hint([(b"link", link) for link in message["links"]])
        elif kind == "http.response.early_hint" and phase == STREAMING:
            pass  # too late for a 1xx: the final head is on its way (RFC 9110 section 15.2)
        elif kind == "http.response.debug" and phase == AWAIT_START and self.worker.config.debug:
            logger.debug("http.response.debug: %r", message.get("info"))
        else:
            self._out_of_order(kind)

    def _out_of_order(self, kind: str) -> None:
        if self.phase == COMPLETE and kind.startswith("http.response."):
            if self.disconnected:
                raise ClientDisconnected("the client is gone")
            return  # ASGI: further messages are ignored
        expected = _EXPECTED.get(self.phase, "no further message")
        raise RuntimeError(f"expected ASGI message {expected}, but got {kind!r}")

    def _take_body(self) -> Message:
        parts = self.body_parts
        self.body_parts = None
        self.body_consumed = self.body_complete
        if parts is None:
            body = b""
        else:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if self.body_size >= BODY_HIGH_WATER and not self.body_complete:
                self._resume_body()
            self.body_size = 0
        return {"type": "http.request", "body": body, "more_body": not self.body_complete}

    def fail(self, exc: BaseException) -> None:
        """Logs what the application raised; answers 500 where that can still be done."""
        # A write can fail before the loop says that the connection is lost.
        news = (
            (ClientDisconnected, asyncio.CancelledError)
            if self.disconnected
            else ClientDisconnected
        )
        gave_up = caused_by(exc, news)
        if gave_up:
            logger.debug("the client went away during %s", self._describe())
        elif isinstance(exc, asyncio.CancelledError):
            logger.warning("cancelled %s", self._describe())
        else:
            logger.error("exception in the application, %s", self._describe(), exc_info=exc)
        if self.phase > HEAD_PENDING or gave_up:
            if self.phase != COMPLETE:
                self._abort()
        else:
            self._respond_error(500, exc)

    def _fell_short(self) -> None:
        if self.disconnected:
            self._abort()
            return
        if self.phase == AWAIT_START:
            logger.error("the application sent no response, %s", self._describe())
        else:
            logger.error("the application did not finish its response, %s", self._describe())
        if self.phase <= HEAD_PENDING:
            self._respond_error(500, None)
        else:
            self._abort()

    def _respond_error(self, status: int, exc: BaseException | None) -> None:
        text = "Internal Server Error"
        if self.worker.config.debug and exc is not None:
            text = "".join(traceback.format_exception(exc))
        body = text.encode()
        fields = (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        )
        self.respond_whole(status, fields, body)

    def respond_whole(self, status: int, fields: Fields, body: bytes) -> None:
        """Answers without the application.

        Raises:
            TypeError, ValueError: The head is malformed; nothing has been sent.
        """
        self._head = self.connection.prepare_head(status, fields)
        self.status, self.fields = status, fields
        self._respond(body)

    def _describe(self) -> str:
        scope = self.scope
        return f"{scope['method']} {scope['path']} from {format_client(scope['client'])}"

    # What the connection does

    def body_received(self, data: bytes, complete: bool) -> None:
        """More of the request body, and whether that is all."""
        if data:
            if self.body_parts is None:
                self.body_parts = [data]
            else:
                self.body_parts.append(data)
            self.body_size += len(data)
            self.received_bytes += len(data)
        self.body_complete = complete
        self._wake()

    def disconnect(self) -> None:
        """The client sends no more. It may still read: a response is written where there is one."""
        self.disconnected = True
        self._wake()

    def lose(self) -> None:
        """The connection is gone, or the response was cut: nothing can be sent any more."""
        self.phase = COMPLETE
        self.disconnect()

    def _wake(self) -> None:
        if self.waiters is not None:
            waiters, self.waiters = self.waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # What the protocol does

    def _stream_opened(self) -> None:
        """The response begins, and more of it follows: to be called before its head is written."""
        self.streamed = True
        if self.worker.observer is not None:
            self.worker.observer.stream_opened(self)

    @abstractmethod
    def _respond(self, body: bytes) -> None:
        """Writes the prepared head and all of the body, and completes."""

    @abstractmethod
    def _start(self, body: bytes) -> None:
        """Writes the prepared head and the first part of the body."""

    @abstractmethod
    def _continue(self, body: bytes) -> None:
        """Writes a further part, which is not empty."""

    @abstractmethod
    def _finish(self, body: bytes) -> None:
        """Writes the last part, which may be empty, and completes."""

    @abstractmethod
    def _send_trailers(self, fields: Fields) -> None:
        """Takes trailer fields."""

    @abstractmethod
    def _finish_trailers(self) -> None:
        """Writes the trailer section, and completes."""

    @abstractmethod
    def _send_hint(self, fields: Fields) -> None:
        """Writes a 103 (RFC 8297)."""

    @abstractmethod
    async def _send_path(self, path: str) -> None:
        """Writes the head and the file at `path`, and completes."""

    @abstractmethod
    async def _send_file(
        self, file: Any, offset: int | None, count: int | None, more: bool
    ) -> None:
        """Writes a part of an open file."""

    @abstractmethod
    def _abort(self) -> None:
        """Cuts the response so that the client sees that it is incomplete."""

    @abstractmethod
    def _ask_for_body(self) -> None:
        """The application waits for the body: 100 Continue where the client waits for it."""

    @abstractmethod
    def _resume_body(self) -> None:
        """The application has taken what had arrived: the peer may send more."""


def format_client(client: tuple[str, int] | None) -> str:
    """An address for the log."""
    if client is None:
        return "a Unix socket"
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def caused_by(
    exc: BaseException | None,
    news: type[BaseException] | tuple[type[BaseException], ...],
    seen: frozenset[int] = frozenset(),
) -> bool:
    """Whether an exception is, or was raised while handling, one of the kinds in `news`."""
    # A group and the one error in it can be the context of each other: `seen` ends that.
    while exc is not None and id(exc) not in seen:
        if isinstance(exc, news):
            return True
        seen |= {id(exc)}
        if isinstance(exc, BaseExceptionGroup):
            return all(caused_by(inner, news, seen) for inner in exc.exceptions)
        exc = exc.__cause__ or exc.__context__
    return False
