"""WebSockets over HTTP/2: an extended CONNECT, and the stream that it turns into (RFC 8441)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from pounce.errors import ProtocolError
from pounce.protocol.h2.interface import ErrorCode, RequestHead
from pounce.protocol.ws.handshake import HandshakeError, read_opening
from pounce.worker.h2_cycle import H2Cycle
from pounce.worker.request_cycle import COMPLETE, Fields
from pounce.worker.ws_cycle import WebSocketCycle, websocket_scope
from pounce.worker.ws_stream import Carrier

if TYPE_CHECKING:
    from pounce.worker.h2_connection import H2Connection


class StreamCarrier:
    """A stream that carries the frames of one accepted WebSocket. See `Carrier`."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_early",
        "_is_held",
        "cycle",
        "remote_ended",
        "sent_bytes",
        "stream_id",
        "write_paused",
    )

    def __init__(self, connection: H2Connection, stream_id: int, cycle: WebSocketCycle) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.cycle = cycle
        self.write_paused = False
        self.sent_bytes = 0
        self.remote_ended = False
        self._is_held = False
        self._early: list[bytes] = []
        """What came while the cycle did not read; the windows are opened when it does."""
        self._deadline = inf

    @property
    def deadline(self) -> float:
        """Of the loop's clock, for the worker's sweep."""
        return self._deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._deadline = deadline
        self._connection.deadline = min(self._connection.deadline, deadline)

    # From the connection

    def data_received(self, data: bytes, size: int, ended: bool) -> None:
        """Bytes from the client, and whether it ends the stream."""
        self.remote_ended = ended
        engine = self._connection.engine
        if self._is_held:
            self._early.append(data)
            engine.consumed(self.stream_id, size - len(data))
        else:
            engine.consumed(self.stream_id, size)
            if data:
                self.cycle.data_received(data)
        if ended and self._connection.carriers.get(self.stream_id) is self:
            # Without a close frame before it, this is how a client goes away.
            self.finish(early=False)

    def room(self) -> None:
        """The stream takes more again."""
        self.write_paused = False
        self.cycle.writable()

    def lost(self) -> None:
        """The stream is gone."""
        self._connection.release(self)
        self.cycle.lost()

    # For the cycle

    def send(self, data: bytes) -> None:
        connection = self._connection
        self.sent_bytes += len(data)
        if not connection.engine.send_data(self.stream_id, data):
            self.write_paused = True
            connection.wait_for_room(self)
        connection.schedule_flush()

    def send_parts(self, parts: tuple[bytes, bytes]) -> None:
        self.send(parts[0])
        self.send(parts[1])

    def add_sent(self, size: int) -> None:
        self._connection.sent_bytes += size

    async def drain(self) -> None:
        while self.write_paused:
            await self._connection.until_room(self.stream_id)

    def pause_reading(self) -> None:
        self._is_held = True

    def resume_reading(self) -> None:
        self._is_held = False
        if self._early:
            self._connection.worker.loop.call_soon(self.take_early)

    def hold(self, parts: list[bytes], *, ended: bool) -> None:
        """What was sent before the WebSocket was accepted, which harms nobody."""
        self._early += parts
        self.remote_ended = ended
        self._connection.worker.loop.call_soon(self.take_early)

    def take_early(self) -> None:
        """Reads what came while nothing was read."""
        gone = self._connection.carriers.get(self.stream_id) is not self
        if gone or self._is_held or not self._early:
            return
        data = b"".join(self._early)
        self._early.clear()
        self._connection.engine.consumed(self.stream_id, len(data))
        self.cycle.data_received(data)
        self._connection.schedule_flush()

    def finish(self, *, early: bool) -> None:
        connection = self._connection
        connection.engine.send_data(self.stream_id, b"", ended=True)
        connection.release(self)
        connection.schedule_flush()
        self.cycle.lost()

    def abort(self) -> None:
        self._connection.engine.reset(self.stream_id, ErrorCode.CANCEL)
        self._connection.schedule_flush()
        self.lost()


def begin_websocket(
    connection: H2Connection, stream_id: int, head: RequestHead, *, ended: bool
) -> None:
    """Begins what an extended CONNECT asks for, or refuses it."""
    worker = connection.worker
    answer = connection.admit(stream_id, head, ended)
    if worker.observer is not None:
        worker.observer.request_started(answer)
    settings = worker.websockets
    try:
        if head.protocol != "websocket" or settings is None:
            raise ProtocolError("this protocol is not spoken here", 501)
        opening = read_opening(head.line.method, head.pairs, over_http_1=False)
        if ended or head.content_length >= 0:
            raise HandshakeError("the request for a WebSocket has no content and no end")
    except ProtocolError as exc:
        connection.refuse(answer, exc, exc.fields if isinstance(exc, HandshakeError) else ())
        return
    if worker.in_flight >= worker.limit_concurrency or worker.draining:
        connection.refuse_busy(answer)
        return
    scope = websocket_scope(dict(answer.scope), opening.subprotocols)
    cycle = WebSocketCycle(answer, scope, opening, settings, _accept)
    worker.in_flight += 1
    worker.start(cycle)


def _accept(cycle: WebSocketCycle, fields: Fields) -> Carrier:
    """Answers 200, and goes over to frames (RFC 8441 section 5)."""
    answer = cycle.answer
    assert isinstance(answer, H2Cycle)
    connection = answer.connection
    engine = connection.engine
    engine.send_head(answer.stream_id, engine.prepare(200, fields))
    answer.phase = COMPLETE
    answer.status, answer.fields = 200, fields
    if connection.worker.observer is not None:
        connection.worker.observer.websocket_opened(answer)
    return connection.carry(answer, cycle)
