"""The frames of one WebSocket: what is read and written, how it ends, its deadlines.

```
OPEN --close sent--> CLOSING --close received, timeout--> CLOSED
  +--close received, failure, connection lost-----------> CLOSED
```

It knows nothing of what carries the frames (`Carrier`), and leaves to `WebSocketCycle` what comes
before it is open, and the application.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from pounce.asgi.types import Scope
from pounce.lifecycle import StreamCloseReason
from pounce.logs.setup import TRACE
from pounce.protocol.ws.deflate import SMALLEST, Deflater
from pounce.protocol.ws.frames import (
    ABNORMAL,
    BINARY_HEADS,
    FIN,
    INTERNAL_ERROR,
    INVALID_DATA,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    RSV1,
    SERVICE_RESTART,
    TEXT,
    TEXT_HEADS,
    TOO_BIG,
    Close,
    Control,
    Failure,
    Ping,
    close_frame,
    control_frame,
    frame_head,
)
from pounce.protocol.ws.reader import MessageReader
from pounce.worker.request_cycle import RequestCycle, format_client

if TYPE_CHECKING:
    from pounce.worker.ws_settings import WebSocketSettings

logger = logging.getLogger("pounce.error")

CONNECTING: Final = 0
DENYING: Final = 1
OPEN: Final = 2
CLOSING: Final = 3
CLOSED: Final = 4

CORK_LIMIT: Final = 65536
"""Bytes that may wait for the end of a turn of the loop; as much as the transport would buffer."""

JOIN_LIMIT: Final = 16384
"""Larger payloads are handed on beside their head instead of being copied behind it."""

_ERRORS: Final = frozenset({PROTOCOL_ERROR, INVALID_DATA, TOO_BIG, INTERNAL_ERROR})


class Carrier(Protocol):
    """What carries the frames of an accepted WebSocket: a connection, or a stream of one.

    It calls `data_received`, `lost`, `expire` (when `deadline` has passed), `writable` (when
    `write_paused` ends) and `shut_down` of the cycle.
    """

    deadline: float
    """Of the loop's clock, for the worker's sweep."""
    write_paused: bool

    def send(self, data: bytes) -> None:
        """Writes."""

    def send_parts(self, parts: tuple[bytes, bytes]) -> None:
        """Writes both, without joining them where that costs more."""

    async def drain(self) -> None:
        """Returns when more may be written; raises ClientDisconnected when nothing will be."""

    def pause_reading(self) -> None:
        """Lets the client wait; harmless when it does already."""

    def resume_reading(self) -> None:
        """Reads again."""

    def add_sent(self, size: int) -> None:
        """Has the connection know of so many bytes of messages."""

    def finish(self, *, early: bool) -> None:
        """Ends the stream when what was written has left; `early` where the client may still be
        sending."""

    def abort(self) -> None:
        """Ends it at once."""


class WebSocketStream:
    """What `WebSocketCycle` is once it is open."""

    __slots__ = (
        "_active",
        "_carrier",
        "_close_code",
        "_close_reason",
        "_corked",
        "_corked_size",
        "_deflater",
        "_failure",
        "_heard",
        "_is_counted",
        "_messages",
        "_meter",
        "_pinged",
        "_pong",
        "_reader",
        "_reading_held",
        "_settings",
        "_traces",
        "_waiters",
        "_wrote",
        "answer",
        "phase",
        "received",
        "scope",
        "sent",
        "sent_bytes",
        "worker",
    )

    def __init__(self, answer: RequestCycle, scope: Scope, settings: WebSocketSettings) -> None:
        self.answer = answer
        """The cycle of the request, which writes any response but an accepting one."""
        self.worker = answer.worker
        self.scope = scope
        self.phase = CONNECTING
        self.received = self.sent = 0
        """Messages."""
        self.sent_bytes = 0
        """Their payloads, as they were sent."""
        self._settings = settings
        self._carrier: Carrier = _NOTHING
        self._reader = MessageReader(0)
        self._messages = self._reader.messages
        """What the application has not received yet: text, bytes, and ready ASGI messages. The
        reader puts it there."""
        self._reading_held = False
        """Whether the client waits until the application has received what there is."""
        self._waiters: list[asyncio.Future[None]] = []
        self._deflater: Deflater | None = None
        self._corked: list[bytes] = []
        self._corked_size = 0
        self._wrote = False
        """Whether something was written in this turn of the loop, as far as is known."""
        self._failure: Failure | None = None
        """What the client did wrong after messages that the application has not received yet."""
        self._pong: bytes | None = None
        """The answer to the last ping that came while the client did not read."""
        self._close_code, self._close_reason = ABNORMAL, ""
        self._heard = 0.0
        """When the client was heard last; negative since a ping that is not answered yet."""
        self._pinged = 0.0
        self._meter = self.worker.meter
        self._is_counted = False
        """Whether the observer has been told of it, and not yet of its end."""
        self._active = 0.0
        """When there was a message last."""
        self._traces = logger.isEnabledFor(TRACE)

    def __repr__(self) -> str:
        phase = ("connecting", "denying", "open", "closing", "closed")[self.phase]
        return (
            f"<WebSocketCycle {phase}, {self.received} messages in, {self.sent} out, "
            f"{len(self._messages)} waiting>"
        )

    # Writing

    def _write(self, first: int, payload: bytes) -> bool:
        """Sends a message whose frame begins with `first`; whether others should have a turn."""
        self.sent += 1
        if self._meter is not None:
            self._meter.message_sent(first == FIN | TEXT)
        if self._settings.idle_timeout:
            self._active = self.worker.clock
        if self._deflater is not None and len(payload) >= SMALLEST:
            payload = self._deflater.deflate(payload)
            first |= RSV1
        size = len(payload)
        self.sent_bytes += size
        if size >= JOIN_LIMIT:
            self._flush()
            self._wrote = True
            self._carrier.send_parts((frame_head(first, size), payload))
            return False
        if size > 125 or first & RSV1:
            frame = frame_head(first, size) + payload
        else:
            frame = (TEXT_HEADS if first == FIN | TEXT else BINARY_HEADS)[size] + payload
        if self._wrote or self._messages or self._corked:
            return self._cork(frame)
        self._wrote = True
        self._carrier.send(frame)
        return False

    def _cork(self, frame: bytes) -> bool:
        """Has a frame leave with others: those of this turn of the loop, or the answers to messages
        that were read at once; whether they are so many that others should have a turn."""
        corked = self._corked
        corked.append(frame)
        self._corked_size += len(frame)
        if self._corked_size >= CORK_LIMIT:
            self._flush()
            return True
        if not self._messages and not self._wrote:
            self._flush()
            self._wrote = True
        elif len(corked) == 1:
            self.worker.corked.add(self)
        return False

    def _flush(self) -> None:
        if self._corked:
            data = b"".join(self._corked)
            self._corked.clear()
            self._corked_size = 0
            self._carrier.send(data)

    def uncork(self) -> None:
        """The turn of the loop is over."""
        self._wrote = False
        if self.phase < CLOSED:
            self._flush()

    # What the carrier does

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._heard = self.worker.clock
        self._read(data)

    def _read(self, data: bytes) -> None:
        reader = self._reader
        if self.phase == CLOSING:
            self._look_for_close(data)
            return
        messages = reader.messages
        before = len(messages)
        controls = reader.feed(data)
        new = len(messages) - before
        if new:
            self.received += new
            if self._meter is not None:
                texts = [type(messages[i]) for i in range(before, before + new)].count(str)
                self._meter.messages_received(texts, new)
            if self._settings.idle_timeout:
                self._active = self.worker.clock
            if self._traces:
                for message in list(messages)[before:]:
                    self._trace("received", message)
        if controls:
            for control in controls:
                if self.phase == OPEN:
                    self._take_control(control)
        if self._waiters and messages:
            self._wake()
        if reader.has_more and not self._reading_held and self.phase == OPEN:
            self._reading_held = True
            self._carrier.pause_reading()

    def _look_for_close(self, data: bytes) -> None:
        """After our close frame only the client's counts (section 1.4)."""
        reader = self._reader
        controls = reader.feed(data)
        reader.messages.clear()
        while reader.has_more:
            controls += reader.feed(b"")
            reader.messages.clear()
        if controls and isinstance(controls[-1], (Close, Failure)):
            self.phase = CLOSED
            self._carrier.finish(early=isinstance(controls[-1], Failure))

    def _take_more(self) -> None:
        """The application has received some of what there was: goes on when half is gone."""
        if len(self._messages) * 2 <= self._settings.max_queue:
            self._read(b"")
            if not self._reader.has_more and self._reading_held:
                self._reading_held = False
                if self.phase == OPEN:
                    self._carrier.resume_reading()

    def _take_control(self, control: Control) -> None:
        if isinstance(control, Ping):
            if self._carrier.write_paused:
                self._pong = control.payload  # the last one is enough (section 5.5.3)
            else:
                self._flush()
                self._carrier.send(control_frame(PONG, control.payload))
        elif isinstance(control, Close):
            self._finish(control.code, control.reason, early=False)
        elif isinstance(control, Failure):
            if self._messages:
                # Good ones, which may be answered. The application has a while for that.
                self._failure = control
                self._carrier.deadline = self.worker.clock + self._settings.close_timeout
            else:
                self._fail(control)

    def writable(self) -> None:
        """The carrier takes more again."""
        if self._pong is not None and self.phase == OPEN:
            payload, self._pong = self._pong, None
            self._carrier.send(control_frame(PONG, payload))

    # The end

    def close(self, code: int, reason: str = "") -> None:
        """Sends a close frame, and waits for the client's.

        Raises:
            ValueError: No close frame may have this code.
        """
        frame = close_frame(code, reason)
        self._flush()
        self.phase = CLOSING
        self._reader.messages = deque()  # what still comes is dropped
        self._ended(code, reason)
        self._carrier.send(frame)
        if self._failure is not None:  # nothing that comes can be read
            self._failure = None
            self.phase = CLOSED
            self._carrier.finish(early=True)
            return
        self._carrier.deadline = self.worker.clock + self._settings.close_timeout
        if self._reading_held:
            self._reading_held = False
            self._carrier.resume_reading()
            self._read(b"")

    def shut_down(self) -> None:
        """The worker drains."""
        if self.phase == OPEN:
            self.close(SERVICE_RESTART)

    def _fail(self, failure: Failure) -> None:
        """Fails the connection for what the client did (section 7.1.7)."""
        self._failure = None
        if self.phase == OPEN:
            logger.info("failed the WebSocket %s: %d %s", self._describe(), *failure)
            self._finish(failure.code, failure.reason, early=True)

    def _finish(self, code: int, reason: str, *, early: bool) -> None:
        """Sends a close frame, which is the last or has no answer."""
        self._flush()
        self._carrier.send(close_frame(code, reason if early else ""))
        self.phase = CLOSED
        self._ended(code, reason)
        self._carrier.finish(early=early)

    def lost(self, reason: str = "") -> None:
        """The carrier is gone, or the client ended it without a close frame."""
        phase, self.phase = self.phase, CLOSED
        self._corked.clear()
        if phase == OPEN:
            self._ended(ABNORMAL, reason)
        if self._is_counted:
            self._is_counted = False
            self._carrier.add_sent(self.sent_bytes)
            observer = self.worker.observer
            assert observer is not None
            observer.websocket_closed(self.answer, self._end_reason(), self._close_code)

    def _ended(self, code: int, reason: str) -> None:
        """Nothing more comes of it than the word that it is over."""
        self._close_code, self._close_reason = code, reason
        self._wake()
        logger.debug("closed the WebSocket %s: %d %s", self._describe(), code, reason)

    def _end_reason(self) -> StreamCloseReason:
        code = self._close_code
        if code == ABNORMAL:
            return "client_disconnect"
        if code == SERVICE_RESTART and self.worker.draining:
            return "drain"
        return "error" if code in _ERRORS else "complete"

    # Deadlines

    def _set_deadline(self) -> None:
        settings = self._settings
        deadline = inf
        if self._heard < 0:
            deadline = self._pinged + settings.ping_timeout
        elif settings.ping_interval:
            deadline = self._heard + settings.ping_interval
        if settings.idle_timeout:
            deadline = min(deadline, self._active + settings.idle_timeout)
        self._carrier.deadline = deadline

    def put_off(self, seconds: float) -> None:
        """Moves what deadlines are counted from; the carrier's own is the carrier's to move."""
        self._active += seconds
        self._pinged += seconds
        if self._heard >= 0:
            self._heard += seconds

    def expire(self, now: float) -> None:
        """The carrier's deadline has passed: called by the sweep."""
        settings = self._settings
        if self.phase != OPEN:
            if self.phase == CLOSING:
                self.worker.timed_out("ws_close")
                self.phase = CLOSED
            self._carrier.abort()
            return
        if self._failure is not None:
            self._fail(self._failure)
            return
        if self._reading_held or self._carrier.write_paused:
            # What is not read yet may have its pong, and messages. A client that takes nothing of
            # what was written has a deadline for that, and would not see a ping.
            self._heard = self._active = self.worker.clock
        if settings.idle_timeout and self._active + settings.idle_timeout <= now:
            self.worker.timed_out("ws_idle")
            self.close(NORMAL, "idle for too long")
            return
        if self._heard >= 0:
            if settings.ping_interval and self._heard + settings.ping_interval <= now:
                self._ping()
        elif self._pinged + settings.ping_timeout <= now:
            self.worker.timed_out("ws_ping")
            logger.info("no pong in time: %s", self._describe())
            self._flush()
            self._carrier.send(close_frame(INTERNAL_ERROR, "no pong in time"))
            self.lost("no pong in time")
            self._carrier.finish(early=True)
            return
        self._set_deadline()

    def _ping(self) -> None:
        """Asks a client for a sign of life that has given none for a while."""
        clock = self.worker.clock
        self._carrier.send(control_frame(PING, b""))
        self._pinged = clock
        self._heard = -1.0 if self._settings.ping_timeout else clock

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _describe(self) -> str:
        scope = self.scope
        return f"{scope['path']} from {format_client(scope['client'])}"

    def _trace(self, what: str, message: Any) -> None:
        logger.log(TRACE, "%s %.100r: %s", what, message, self._describe())


class _Nothing:
    """Stands for the carrier before there is one."""


_NOTHING: Any = _Nothing()
