"""WebSockets over HTTP/1.1: the upgrade, and the connection that it turns into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pounce.errors import ProtocolError
from pounce.protocol.h1_head import FieldBlock, RequestLine
from pounce.protocol.h1_response import encode_fields, status_line
from pounce.protocol.ws.handshake import HandshakeError, asks_for_websocket, read_opening
from pounce.worker.connection import LINGER_TIME, Connection
from pounce.worker.h1_cycle import H1Cycle
from pounce.worker.request_cycle import COMPLETE, Fields
from pounce.worker.ws_cycle import WebSocketCycle, websocket_scope
from pounce.worker.ws_stream import Carrier

if TYPE_CHECKING:
    from pounce.worker.h1_connection import H1Connection


class WebSocketConnection(Connection):
    """What an HTTP/1.1 connection is after its upgrade: the carrier of one WebSocket."""

    __slots__ = ("cycle",)

    protocol = "h1"

    def __init__(self, before: H1Connection, cycle: WebSocketCycle) -> None:
        worker, prepare_head = before.worker, before.prepare_head
        Connection.__init__(self, worker, prepare_head, before.server, is_tls=before.is_tls)
        self.cycle = cycle
        self.take_over(before)

    def __repr__(self) -> str:
        return f"<WebSocketConnection {self.id}, {self.cycle!r}, client {self.client}>"

    # From the event loop

    def data_received(self, data: bytes) -> None:
        meter = self.worker.meter
        if meter is not None:
            meter.received += len(data)
        if not self.closing:
            self.cycle.data_received(data)

    def eof_received(self) -> bool:
        """Without a close frame before it, this is how a client goes away."""
        self.cycle.lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.cycle.lost()
        Connection.connection_lost(self, exc)

    def resume_writing(self) -> None:
        Connection.resume_writing(self)
        if not self.closing:
            self.cycle.writable()

    # A carrier

    def send(self, data: bytes) -> None:
        self.write(data)

    def send_parts(self, parts: tuple[bytes, bytes]) -> None:
        meter = self.worker.meter
        if meter is not None:
            meter.sent += len(parts[0]) + len(parts[1])
        self.transport.writelines(parts)

    def add_sent(self, size: int) -> None:
        self.sent_bytes += size

    def finish(self, *, early: bool) -> None:
        self.closing = True
        self.close_reason = self.close_reason or ("error" if early else "complete")
        if self.reading_paused:
            self.resume_reading()
        if early and self.transport.can_write_eof():
            # A socket closed with unread data is reset, and the reset may overtake the close frame.
            self.made_progress()
            self.deadline = self.worker.clock + LINGER_TIME
            self.transport.write_eof()
        else:
            self.close()

    # From the worker

    def shut_down(self, *, gentle: bool = False) -> None:
        self.cycle.shut_down()

    def put_off(self, seconds: float) -> None:
        Connection.put_off(self, seconds)
        self.cycle.put_off(seconds)

    def expire(self, now: float) -> None:
        if self.write_deadline <= now:
            self.check_write(now)
        if self.deadline > now or self.lost:
            return
        if not self.closing:
            self.cycle.expire(now)
        elif self.transport.get_write_buffer_size():
            # The close frame is on its way still; the write deadline watches over that.
            self.deadline = self.worker.clock + LINGER_TIME
        else:
            self.abort()


def begin_websocket(connection: H1Connection, line: RequestLine, block: FieldBlock) -> bool:
    """Begins the WebSocket that a request with Upgrade asks for; False where it asks for none, or
    none is served, so that it is answered as any other (RFC 9110 section 7.8)."""
    worker = connection.worker
    assert block.upgrade is not None
    if line.path == worker.metrics_path or not asks_for_websocket(block.upgrade, block.pairs):
        return False
    settings = worker.websockets
    if settings is None:
        worker.websocket_missed(connection)
        return False
    scope = connection.scope_of(line, block)
    answer = connection.cycle = H1Cycle(connection, scope, line, b"", True)
    connection.keep_alive = False
    if worker.observer is not None:
        worker.observer.request_started(answer)
    try:
        opening = read_opening(line.method, block.pairs)
        if block.content_length > 0 or block.chunked:
            raise HandshakeError("the request for a WebSocket has no content")
    except ProtocolError as exc:
        connection.refuse(exc, answer, exc.fields if isinstance(exc, HandshakeError) else ())
        return True
    if worker.in_flight >= worker.limit_concurrency or worker.draining:
        connection.refuse_busy(answer)
        return True
    connection.deadline = float("inf")
    own_scope = websocket_scope(scope, opening.subprotocols)
    cycle = WebSocketCycle(answer, own_scope, opening, settings, _accept)
    worker.in_flight += 1
    worker.start(cycle)
    return True


def _accept(cycle: WebSocketCycle, fields: Fields) -> Carrier:
    """Switches protocols (RFC 9110 section 15.2.2)."""
    answer = cycle.answer
    assert isinstance(answer, H1Cycle)
    before = answer.connection
    own = (
        (b"upgrade", b"websocket"),
        (b"connection", b"upgrade"),
        (b"sec-websocket-accept", cycle.opening.accept),
    )
    names = {name.lower() for name, _ in fields}
    tail = (1 if b"date" in names else 0) | (2 if b"server" in names else 0)
    lines = encode_fields((*own, *fields))
    before.write(b"".join((status_line(101), lines, before.worker.tails[tail])))
    answer.phase = COMPLETE
    answer.status, answer.fields = 101, fields
    before.cycle = None
    before.closing = True
    if before.worker.observer is not None:
        before.worker.observer.websocket_opened(answer)
    carrier = WebSocketConnection(before, cycle)
    early = bytes(before.pending)
    if early:  # sent before the answer came, which is allowed to nobody, and harms nobody
        before.worker.loop.call_soon(cycle.data_received, early)
    return carrier
