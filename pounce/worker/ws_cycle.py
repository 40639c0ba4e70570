"""The ASGI side of one WebSocket: what the application receives and may send, and in what order.

Until it is accepted it is a request like any other, whose cycle (`answer`) writes the response if
there is one.

```
CONNECTING --accept--> OPEN --close sent--> CLOSING --close received, timeout--> CLOSED
    |                   +--close received, failure, connection lost-------------> CLOSED
    +--http.response.start--> DENYING --last body--> CLOSED
    +--close, application fails, timeout (403, 500, 504)--> CLOSED
```
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pounce.asgi.types import ASGIApp, Message, Scope
from pounce.protocol.ws.deflate import DeflateTerms, negotiate
from pounce.protocol.ws.frames import BINARY, FIN, INTERNAL_ERROR, NORMAL, SERVICE_RESTART, TEXT
from pounce.protocol.ws.handshake import Opening
from pounce.protocol.ws.reader import MessageReader
from pounce.worker.request_cycle import (
    COMPLETE,
    HEAD_PENDING,
    ClientDisconnected,
    Fields,
    RequestCycle,
    caused_by,
)
from pounce.worker.ws_stream import (
    CLOSED,
    CLOSING,
    CONNECTING,
    DENYING,
    OPEN,
    Carrier,
    WebSocketStream,
)

if TYPE_CHECKING:
    from pounce.worker.ws_settings import WebSocketSettings

logger = logging.getLogger("pounce.error")

_OFF: Final = frozenset({b"connection", b"upgrade", b"sec-websocket-accept"})
_SCHEMES: Final = {"http": "ws", "https": "wss"}
_PLAIN_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")

Accept = Callable[["WebSocketCycle", Fields], Carrier]
"""Writes the head of a response that accepts, and goes over from HTTP to frames. `Fields` are those
that every version of HTTP has."""


class WebSocketCycle(WebSocketStream):
    """One WebSocket from its handshake to the end of the application's call."""

    __slots__ = (
        "_accept",
        "_open_timer",
        "opening",
        "task",
    )

    def __init__(
        self,
        answer: RequestCycle,
        scope: Scope,
        opening: Opening,
        settings: WebSocketSettings,
        accept: Accept,
    ) -> None:
        WebSocketStream.__init__(self, answer, scope, settings)
        self.opening = opening
        self.task: asyncio.Task[None] | None = None
        self._accept = accept
        self._messages.append({"type": "websocket.connect"})
        self._open_timer = self.worker.loop.call_later(settings.open_timeout, self._open_too_late)

    async def run(self, app: ASGIApp) -> None:
        """Calls the application and closes for it where it does not."""
        worker = self.worker
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as exc:
            self._failed(exc)
        else:
            self._returned()
        finally:
            self._open_timer.cancel()
            worker.in_flight -= 1
            if self.task is not None:
                worker.tasks.discard(self.task)

    async def receive(self) -> Message:
        """The next message; `websocket.disconnect` again and again when there is none to come."""
        messages = self._messages
        while True:
            if messages:
                message = messages.popleft()
                if self._reading_held:
                    self._take_more()
                if type(message) is str:
                    return {"type": "websocket.receive", "text": message}
                if type(message) is bytes:
                    return {"type": "websocket.receive", "bytes": message}
                event: Message = message
                return event
            if self._failure is not None:
                self._fail(self._failure)
            if self.phase >= CLOSING or self.answer.disconnected:
                return self._disconnect_event()
            waiter = self.worker.loop.create_future()
            if self.phase < OPEN:
                # Whoever answers or loses the request wakes those who wait for its body.
                if self.answer.waiters is None:
                    self.answer.waiters = []
                self.answer.waiters.append(waiter)
            self._waiters.append(waiter)
            self._wrote = False
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                raise

    async def send(self, message: Message) -> None:
        """Takes a message of the application.

        Raises:
            ClientDisconnected: The WebSocket is closed.
            RuntimeError: The message is not allowed now.
            TypeError, ValueError: It is malformed; nothing of it has been sent.
        """
        if self.phase != OPEN or message["type"] != "websocket.send":
            await self._send_rarely(message)
            return
        text = message.get("text")
        if text is not None:
            payload = text.encode()
            first = FIN | TEXT
        else:
            payload = message.get("bytes")
            first = FIN | BINARY
            if type(payload) is not bytes:
                if payload is None:
                    raise ValueError("websocket.send needs text or bytes")
                payload = bytes(memoryview(payload))
        if self._traces:
            self._trace("sent", message)
        if self._write(first, payload):
            await asyncio.sleep(0)
        if self._carrier.write_paused:
            await self._carrier.drain()

    async def _send_rarely(self, message: Message) -> None:
        kind = message["type"]
        phase = self.phase
        if phase >= CLOSING:
            if kind != "websocket.close":  # it is closed, which is what is wanted
                raise ClientDisconnected("the WebSocket is closed")
        elif phase == OPEN:
            if kind != "websocket.close":
                self._out_of_order(kind, "'websocket.send' or 'websocket.close'")
            code, reason = message.get("code"), message.get("reason")
            self.close(NORMAL if code is None else code, reason or "")
            self._messages.clear()
        elif phase == DENYING or kind == "websocket.http.response.start":
            await self._deny(kind, message)
        elif self.answer.disconnected:
            self.phase = CLOSED
            raise ClientDisconnected("the client is gone")
        elif kind == "websocket.accept":
            self._open(message)
        elif kind == "websocket.close":
            self._respond(403)
        else:
            self._out_of_order(kind, "'websocket.accept' or 'websocket.close'")

    @staticmethod
    def _out_of_order(kind: str, expected: str) -> None:
        raise RuntimeError(f"expected ASGI message {expected}, but got {kind!r}")

    async def _deny(self, kind: str, message: Message) -> None:
        """A message of a response that refuses the WebSocket."""
        expected = "websocket.http.response." + ("body" if self.phase == DENYING else "start")
        if kind != expected:
            self._out_of_order(kind, repr(expected))
        await self.answer.send({**message, "type": kind.removeprefix("websocket.")})
        self._open_timer.cancel()
        self.phase = CLOSED if self.answer.phase == COMPLETE else DENYING

    def _open(self, message: Message) -> None:
        fields, subprotocol = self._check_acceptance(message)
        if subprotocol is not None:
            fields.append((b"sec-websocket-protocol", subprotocol))
        settings = self._settings
        terms = self._agree(fields)
        reader = MessageReader(
            settings.max_size,
            max_frame=settings.max_frame,
            max_queue=settings.max_queue,
            inflater=terms and terms.inflater(),
        )
        self._carrier = self._accept(self, fields)
        self._open_timer.cancel()
        reader.messages = self._messages
        self._reader = reader
        self._deflater = terms and terms.deflater()
        self.phase = OPEN
        self._is_counted = self.worker.observer is not None
        self._heard = self._active = self.worker.clock
        self._set_deadline()
        logger.debug("opened the WebSocket %s", self._describe())
        if self.worker.draining:
            self.shut_down()

    def _check_acceptance(self, message: Message) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """The fields and the subprotocol that the application chose."""
        subprotocol = message.get("subprotocol")
        fields = []
        for name, value in message.get("headers", ()):
            lowered = name.lower()
            if lowered == b"sec-websocket-protocol" and subprotocol is None:
                subprotocol = value.decode("latin-1")
            elif lowered.startswith(b"sec-websocket-") or lowered in _OFF:
                raise ValueError(f"header {name!r} is the server's to send")
            else:
                fields.append((name, value))
        if subprotocol is None:
            return fields, None
        if subprotocol not in self.opening.subprotocols:
            raise ValueError(f"subprotocol {subprotocol!r} is not one that the client offers")
        return fields, subprotocol.encode("ascii")

    def _agree(self, fields: list[tuple[bytes, bytes]]) -> DeflateTerms | None:
        if self._settings.deflate is None or not self.opening.extensions:
            return None
        agreed = negotiate(self.opening.extensions, self._settings.deflate)
        if agreed is None:
            return None
        fields.append((b"sec-websocket-extensions", agreed[1].encode("ascii")))
        return agreed[0]

    def _respond(self, status: int, text: str = "") -> None:
        """Refuses the handshake with a response of the server's own."""
        self._open_timer.cancel()
        self.phase = CLOSED
        if self.answer.phase <= HEAD_PENDING:
            body = text.encode()
            fields = (_PLAIN_TEXT, (b"content-length", b"%d" % len(body)))
            self.answer.respond_whole(status, fields, body)

    def _open_too_late(self) -> None:
        if self.phase == CONNECTING and not self.answer.disconnected:
            logger.warning("the application did not accept in time: %s", self._describe())
            self.worker.timed_out("ws_open")
            self._respond(504, "The application did not answer in time\n")

    def _disconnect_event(self) -> Message:
        return {
            "type": "websocket.disconnect",
            "code": self._close_code,
            "reason": self._close_reason,
        }

    def _returned(self) -> None:
        phase = self.phase
        if self._failure is not None:
            self._fail(self._failure)
        elif phase == OPEN:
            self.close(NORMAL)
        elif phase < OPEN and self.answer.phase != COMPLETE:
            if self.answer.disconnected:
                self.answer.fail(ClientDisconnected("the client is gone"))
            elif phase == CONNECTING:
                logger.error("the application did not accept or refuse: %s", self._describe())
                self._respond(500, "Internal Server Error")
            else:
                self.answer.fail(RuntimeError("the application did not finish its response"))
        if phase < OPEN:
            self.phase = CLOSED

    def _failed(self, exc: BaseException) -> None:
        if self.phase < OPEN:
            self.answer.fail(exc)
            self.phase = CLOSED
            return
        draining = self.worker.draining
        if caused_by(exc, ClientDisconnected) and self.phase >= CLOSING:
            logger.debug("closed before the application had done: %s", self._describe())
        elif isinstance(exc, asyncio.CancelledError):
            logger.warning("cancelled: %s", self._describe())
        else:
            logger.error("exception in the application, %s", self._describe(), exc_info=exc)
        if self.phase == OPEN:
            self.close(SERVICE_RESTART if draining else INTERNAL_ERROR)


def websocket_scope(scope: dict[str, Any], subprotocols: list[str]) -> dict[str, Any]:
    """The scope of the WebSocket that a request with `scope` asks for."""
    extensions: dict[str, dict[str, Any]] = {"websocket.http.response": {}}
    if "tls" in scope["extensions"]:
        extensions["tls"] = scope["extensions"]["tls"]
    changed = scope | {
        "type": "websocket",
        "scheme": _SCHEMES.get(scope["scheme"], scope["scheme"]),
        "subprotocols": subprotocols,
        "extensions": extensions,
    }
    del changed["method"]
    return changed
