"""What HTTP/2 connections send, and when: the engine's output, as far as transport and windows go.

What the requests of one turn of the event loop answer leaves in one write at its end.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final

from pounce.protocol.h2.interface import Engine, ErrorCode, H2Limits, SendReady
from pounce.worker.connection import LINGER_TIME, Connection
from pounce.worker.h2_cycle import H2Cycle
from pounce.worker.request_cycle import ClientDisconnected

if TYPE_CHECKING:
    from pounce.worker.h2_websocket import StreamCarrier
    from pounce.worker.worker import Worker

SEND_HIGH_WATER: Final = H2Limits().send_high_water
"""Bytes of a response that may wait for the client before the application has to."""

WRITE_SIZE: Final = 131072
"""Bytes that are asked of the engine at a time."""

TURN_SIZE: Final = 1 << 20
"""Bytes that one connection may write before others have their turn."""

# How far the connection has got in saying goodbye.
STAYS, LEAVES, LEFT = range(3)


class H2Sending(Connection):
    """The sending side of a connection, and its streams."""

    __slots__ = (
        "_flush_scheduled",
        "_full_carriers",
        "_goodbye",
        "_in_turn",
        "_room_waiters",
        "_stall_at",
        "_to_cut",
        "_unsent_before",
        "carriers",
        "cycles",
        "engine",
    )

    def __init__(
        self,
        worker: Worker,
        engine: Engine,
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        Connection.__init__(self, worker, engine.prepare, server, is_tls=is_tls)
        self.engine = engine
        self.cycles: dict[int, H2Cycle] = {}
        """The requests in progress, by stream."""
        self.carriers: dict[int, StreamCarrier] = {}
        """The WebSockets that are open, by stream."""
        self._full_carriers: dict[int, StreamCarrier] = {}
        self._in_turn = False
        """Whether what is answered now is flushed when `data_received` ends."""
        self._flush_scheduled = False
        self._to_cut: list[int] = []
        """Streams that are answered although their request has not ended."""
        self._room_waiters: dict[int, asyncio.Future[None]] = {}
        self._goodbye = STAYS
        self._stall_at = inf
        """When the streams of which something waits must have got on."""
        self._unsent_before: dict[int, int] = {}

    def _is_in_use(self) -> bool:
        return bool(self.cycles or self.carriers)

    # Sending

    def schedule_flush(self) -> None:
        """What the engine has to send leaves when this turn of the event loop is over."""
        if not self._in_turn and not self._flush_scheduled and not self.lost:
            self._flush_scheduled = True
            self.worker.flushing.add(self)

    def flush_later(self) -> None:
        """What `schedule_flush` has left for later."""
        self._flush_scheduled = False
        self.send_output()

    def send_output(self) -> None:
        """Writes what the engine has to send, as far as the transport takes it."""
        engine = self.engine
        written = 0
        while engine.has_output and not self.write_paused and not self.lost:
            data = engine.output(WRITE_SIZE)
            if not data:
                break
            self.write_uncounted(data)
            written += len(data)
            if written >= TURN_SIZE:
                self.schedule_flush()
                break
        meter = self.worker.meter
        if meter is not None:
            meter.sent += written
        if self._room_waiters or self._full_carriers:
            self._let_senders_go_on()
        if self._to_cut:
            self._cut_unread()
        if engine.open_streams and engine.is_blocked():
            if self._stall_at == inf:
                self._look_at_unsent()
        elif not engine.has_output:
            self._stall_at = inf
            if self._goodbye == LEFT and not self._is_in_use() and not self.closing:
                self._finish()

    def _cut_unread(self) -> None:
        """Tells clients that what they still send of answered requests is of no use (RFC 9113
        section 8.1)."""
        engine = self.engine
        waiting = []
        for stream_id in self._to_cut:
            if engine.queued(stream_id) or engine.has_output:
                waiting.append(stream_id)
            else:
                engine.reset(stream_id, ErrorCode.NO_ERROR)
        self._to_cut = waiting
        if engine.has_output and not self.write_paused and not self.lost:
            data = engine.output(WRITE_SIZE)
            if data:
                self.write(data)

    # Room

    def _let_senders_go_on(self) -> None:
        for stream_id in list(self._room_waiters):
            if self.engine.queued(stream_id) < SEND_HIGH_WATER:
                self._wake_room(stream_id)
        for stream_id in list(self._full_carriers):
            if self.engine.queued(stream_id) < SEND_HIGH_WATER:
                self._wake_room(stream_id)

    def wait_for_room(self, carrier: StreamCarrier) -> None:
        """Tells the carrier when its stream takes more."""
        self._full_carriers[carrier.stream_id] = carrier

    def _send_ready(self, event: SendReady) -> None:
        self._wake_room(event.stream_id)

    def _wake_room(self, stream_id: int) -> None:
        carrier = self._full_carriers.pop(stream_id, None)
        if carrier is not None:
            carrier.room()
        waiter = self._room_waiters.pop(stream_id, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _wake_all(self) -> None:
        for stream_id in list(self._room_waiters):
            self._wake_room(stream_id)

    async def until_room(self, stream_id: int) -> None:
        """Returns when the stream takes more.

        Raises:
            ClientDisconnected: The stream is gone.
        """
        if stream_id in self.cycles or stream_id in self.carriers:
            waiter = self._room_waiters.get(stream_id)
            if waiter is None:
                waiter = self._room_waiters[stream_id] = self.worker.loop.create_future()
            self.schedule_flush()
            # Two senders of one stream may share it.
            await asyncio.shield(waiter)
        if stream_id not in self.cycles and stream_id not in self.carriers:
            raise ClientDisconnected("the client is gone")

    # What waits for the windows of the peer

    def _look_at_unsent(self) -> None:
        """Takes note of what waits for the peer's windows."""
        self._unsent_before = {
            stream_id: self._progress(stream_id) for stream_id in self.engine.unsent()
        }
        self._stall_at = self.worker.clock + self.worker.timeout_write
        self.deadline = min(self.deadline, self._stall_at)

    def _progress(self, stream_id: int) -> int:
        source = self.cycles.get(stream_id) or self.carriers.get(stream_id)
        return (0 if source is None else source.sent_bytes) - self.engine.queued(stream_id)

    # Closing

    def _finish(self) -> None:
        """Closes when what was written has been sent."""
        self.close_reason = self.close_reason or "complete"
        self._linger()

    def _linger(self) -> None:
        """Closes the sending side and drops what still arrives for a moment: a socket closed with
        unread data is reset, and the reset may overtake what was written last."""
        self.closing = True
        if not self.transport.can_write_eof() or self.transport.is_closing():
            self.close()
            return
        self.made_progress()
        self.deadline = self.worker.clock + LINGER_TIME
        self.transport.write_eof()

    def _linger_on(self) -> None:
        if self.transport.get_write_buffer_size():
            # The last of it is on its way still; the write deadline watches over that.
            self.deadline = self.worker.clock + LINGER_TIME
        else:
            self.abort()
