"""One HTTP/2 connection: many cycles at once, on the streams of an engine (RFC 9113).

The engine knows frames, windows and the order of what is sent; here is what it means to the server:
which request a stream is, and what becomes of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from pounce.asgi.forwarded import forwarded
from pounce.errors import LimitError, ProtocolError
from pounce.protocol.h2.interface import (
    ConnectionFailed,
    DataReceived,
    Engine,
    ErrorCode,
    GoAwayReceived,
    PingAcknowledged,
    RequestHead,
    RequestReceived,
    RequestRefused,
    SendReady,
    StreamReset,
)
from pounce.sync_protocol import MAX_SYNC_BODY
from pounce.worker.h2_cycle import H2Cycle
from pounce.worker.h2_deadlines import H2Deadlines
from pounce.worker.h2_sending import LEFT, WRITE_SIZE
from pounce.worker.h2_settings import is_adequate
from pounce.worker.h2_websocket import StreamCarrier, begin_websocket
from pounce.worker.lane import Lane, Lanes
from pounce.worker.request_cycle import (
    HEAD_PENDING,
    Fields,
    format_client,
)

if TYPE_CHECKING:
    from pounce.lifecycle import ConnectionCloseReason
    from pounce.worker.worker import Worker
    from pounce.worker.ws_cycle import WebSocketCycle

logger = logging.getLogger("pounce.error")


class H2Connection(H2Deadlines):
    """The protocol object of one accepted connection. Created by `Worker`."""

    protocol = "h2"

    __slots__ = ("_has_answered", "_lanes")

    def __init__(
        self,
        worker: Worker,
        engine: Engine,
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        H2Deadlines.__init__(self, worker, engine, server, is_tls=is_tls)
        self._lanes = Lanes()
        self._has_answered = False
        """Whether a request was answered since `data_received` began."""

    def __repr__(self) -> str:
        state = "lost" if self.lost else "closing" if self.closing else "open"
        return (
            f"<H2Connection {self.id} {state}, {len(self.cycles)} in progress, "
            f"{self.requests} requests, client {self.client}>"
        )

    @property
    def lanes(self) -> Iterable[Lane]:
        return self._lanes

    # From the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        H2Deadlines.connection_made(self, transport)
        self.base_scope["http_version"] = "2"
        self._idle_until = self.deadline
        self._heard_at = self.worker.clock
        if self.is_tls and not is_adequate(transport.get_extra_info("ssl_object")):
            logger.info("%s chose a cipher suite unfit for HTTP/2", format_client(self.client))
            self.close_reason = "error"
            self.engine.go_away(ErrorCode.INADEQUATE_SECURITY, final=True)
            self.send_output()
            self._linger()
            return
        self.send_output()

    def data_received(self, data: bytes) -> None:
        worker = self.worker
        if worker.meter is not None:
            worker.meter.received += len(data)
        if self.closing:
            return
        self._heard_at = worker.clock
        self._answer_until = inf
        self._in_turn = True
        for event in self.engine.receive(data, worker.clock):
            _HANDLERS[type(event)](self, event)
        self._in_turn = False
        if self.cycles or self.carriers:
            if worker.h2_ping_interval:
                self.deadline = min(self.deadline, worker.clock + worker.h2_ping_interval)
        elif self._has_answered:
            self._become_idle()
        self._has_answered = False
        # Otherwise what is in progress will see to it, as soon as there is something to send.
        if self.engine.has_output or not self.cycles or self.carriers:
            self.send_output()

    def eof_received(self) -> bool:
        """Half-closed by the client: responses in progress may still be written, as far as the
        windows reach."""
        if self.closing or not self.cycles or self.is_tls:
            self._goodbye = LEFT
            return False
        for cycle in list(self.cycles.values()):
            if cycle.body_complete:
                cycle.disconnect()
            else:
                self._lose(cycle)
        self._goodbye = LEFT
        return bool(self.cycles) or self.engine.has_output

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._lose_all()
        self._wake_all()
        H2Deadlines.connection_lost(self, exc)

    def resume_writing(self) -> None:
        H2Deadlines.resume_writing(self)
        self.send_output()

    # Requests

    def _begin(self, event: RequestReceived) -> None:
        worker, head = self.worker, event.head
        self.requests = requests = self.requests + 1
        if requests >= worker.limit_keep_alive_requests:
            self._say_goodbye()
        if head.protocol is not None:
            begin_websocket(self, event.stream_id, head, ended=event.ended)
            return
        cycle = self.admit(event.stream_id, head, event.ended)
        if not event.ended:
            if not head.expect_continue:
                self.allow_body(cycle)
            if worker.sync_app is not None and 0 < head.content_length <= MAX_SYNC_BODY:
                # A SyncApp gets it whole.
                cycle.is_held = not head.expect_continue
                if cycle.is_held:
                    return
        self._start(cycle)

    def admit(self, stream_id: int, head: RequestHead, ended: bool) -> H2Cycle:
        """The cycle of a request, which is in progress from now on."""
        worker = self.worker
        template = head.template
        if template is None:
            template = head.template = self._template(head)
        scope: dict[str, Any] = template.copy()
        scope["asgi"] = worker.asgi.copy()
        scope["extensions"] = scope["extensions"].copy()
        scope["headers"] = scope["headers"].copy()
        if worker.state is not None:
            scope["state"] = worker.state.copy()
        cycle = H2Cycle(self, self._lanes.take(), scope, head, stream_id, ended)
        self.cycles[stream_id] = cycle
        return cycle

    def _start(self, cycle: H2Cycle, body: bytes = b"") -> None:
        """Runs the cycle of a request, or refuses it."""
        worker, line, lane = self.worker, cycle.line, cycle.lane
        meter = worker.quick_meter
        if (
            meter is not None
            and lane.noted_line is line
            and lane.turn is not meter.turn
            and (now := meter.now)
        ):
            cycle.started_ns = now
            meter.box_cells[lane.stamp] = meter.ticks
        elif worker.observer is not None:
            worker.observer.request_started(cycle)
        is_scrape = line.path == worker.metrics_path
        if worker.in_flight >= worker.limit_concurrency and not is_scrape:
            self.refuse_busy(cycle)
        elif not (is_scrape or worker.sync_app is not None) or not worker.intercept(cycle, body):
            worker.in_flight += 1
            worker.start(cycle)

    def _template(self, head: RequestHead) -> dict[str, Any]:
        """A scope that is copied, never handed out."""
        worker, line = self.worker, head.line
        scope = self.base_scope.copy()
        scope["method"] = line.method
        if worker.root_path and line.path.startswith("/"):
            scope["path"] = worker.root_path + line.path
            scope["raw_path"] = worker.raw_root_path + line.raw_path
        else:
            scope["path"] = line.path
            scope["raw_path"] = line.raw_path
        scope["query_string"] = line.query_string
        scope["headers"] = list(head.pairs)
        if head.forwarded and (self.client and self.client[0]) in worker.trusted_proxies:
            scope["scheme"], scope["client"] = forwarded(
                head.pairs, worker.trusted_proxies, scope["scheme"], scope["client"]
            )
        return scope

    def _request_refused(self, event: RequestRefused) -> None:
        """A request with a good head, but one that the application shall not see."""
        self.requests += 1
        head = event.head
        cycle = self.admit(event.stream_id, head, False)
        if self.worker.observer is not None:
            self.worker.observer.request_started(cycle)
        self.refuse(cycle, ProtocolError(event.reason, event.status))

    def refuse_busy(self, cycle: H2Cycle) -> None:
        """503 with Retry-After: the worker has as many requests in progress as it may."""
        error = ProtocolError("too many requests in progress", 503)
        self.refuse(cycle, error, ((b"retry-after", b"1"),))

    def refuse(self, cycle: H2Cycle, exc: ProtocolError, fields: Fields = ()) -> None:
        """Answers instead of the application."""
        cycle.lose()
        body = f"{exc}\n".encode()
        size = len(body)
        if cycle.line.method == "HEAD":
            body = b""
        self.engine.respond(
            cycle.stream_id,
            exc.status,
            (
                *fields,
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % size),
            ),
            body,
        )
        self.worker.request_refused(self, exc, cycle, len(body))
        self.answered(cycle)

    # Request bodies

    def _data_received(self, event: DataReceived) -> None:
        stream_id, data, size = event.stream_id, event.data, event.size
        cycle = self.cycles.get(stream_id)
        if cycle is None:
            carrier = self.carriers.get(stream_id)
            if carrier is None:
                self.engine.consumed(stream_id, size)
            else:
                carrier.data_received(data, size, event.ended)
            return
        worker = self.worker
        arrived = len(data)
        if size > arrived:
            self.engine.consumed(stream_id, size - arrived)  # padding
        limit = worker.limit_request_body
        if limit and cycle.received_bytes + arrived > limit:
            self._body_failed(cycle, LimitError("request body too large"))
            return
        self._unread += arrived
        if event.ended:
            cycle.deadline = inf
        else:
            cycle.late_at += arrived * worker.seconds_per_body_byte
            cycle.deadline = min(worker.clock + worker.timeout_request_body, cycle.late_at)
        cycle.body_received(data, event.ended)
        if cycle.is_held and event.ended:
            cycle.is_held = False
            self._start(cycle, b"".join(cycle.body_parts or ()))

    def body_taken(self, cycle: H2Cycle, size: int) -> None:
        """The application has taken `size` bytes of a body."""
        if cycle.stream_id not in self.cycles:
            return  # it was answered meanwhile
        self._unread -= size
        self.engine.consumed(cycle.stream_id, size)
        if not cycle.body_complete and size >= self.worker.h2_unread:
            self.allow_body(cycle)
        self.schedule_flush()

    def _body_failed(self, cycle: H2Cycle, exc: ProtocolError) -> None:
        if cycle.phase <= HEAD_PENDING and not cycle.is_held:
            self.refuse(cycle, exc)
        elif cycle.is_held:
            if self.worker.observer is not None:
                self.worker.observer.request_started(cycle)
            self.refuse(cycle, exc)
        else:
            self.cut(cycle, ErrorCode.CANCEL)

    # The end of a stream

    def response_complete(self, cycle: H2Cycle) -> None:
        """The response has been given to the engine; the application may still run."""
        if self.worker.observer is not None:
            self.worker.observer.request_completed(cycle)
        self.answered(cycle)

    def answered(self, cycle: H2Cycle) -> None:
        """The same, where the observer has been told."""
        stream_id = cycle.stream_id
        if self.cycles.pop(stream_id, None) is None:
            return
        self._lanes.give_back(cycle.lane)
        self._unread -= cycle.body_size
        if not cycle.body_complete:
            self._to_cut.append(stream_id)
        if cycle.waiters is not None:
            cycle._wake()
        if self._in_turn:
            self._has_answered = True
            return
        if not self.cycles and not self.carriers:
            self._become_idle()
        if not self._flush_scheduled and not self.lost:  # `schedule_flush`, without the call
            self._flush_scheduled = True
            self.worker.flushing.add(self)

    def _lose(self, cycle: H2Cycle) -> None:
        """Ends a cycle whose response did not come to its end."""
        if self.cycles.pop(cycle.stream_id, None) is None:
            return
        cycle.lose()
        self._wake_room(cycle.stream_id)
        self._unread -= cycle.body_size
        if not cycle.is_held and self.worker.observer is not None:
            self.worker.observer.request_aborted(cycle)
        self._lanes.give_back(cycle.lane)
        if not self._is_in_use():
            self._become_idle()

    def _lose_all(self) -> None:
        for cycle in list(self.cycles.values()):
            self._lose(cycle)
        for carrier in list(self.carriers.values()):
            carrier.lost()

    def cut(
        self,
        cycle: H2Cycle,
        code: ErrorCode = ErrorCode.INTERNAL_ERROR,
        reason: ConnectionCloseReason = "error",
    ) -> None:
        """Resets a stream in the middle of a response, so that it is seen to be incomplete."""
        self.engine.reset(cycle.stream_id, code)
        # The observer goes by the reason of the connection, which lives on here.
        before = self.close_reason
        if not cycle.disconnected:
            self.close_reason = before or reason
        self._lose(cycle)
        self.close_reason = before
        self.schedule_flush()

    def _stream_reset(self, event: StreamReset) -> None:
        cycle = self.cycles.get(event.stream_id)
        if cycle is not None:
            cycle.disconnected = True
            self._lose(cycle)
        elif event.stream_id in self.carriers:
            self.carriers[event.stream_id].lost()

    # WebSockets

    def carry(self, answer: H2Cycle, websocket: WebSocketCycle) -> StreamCarrier:
        """The request is answered, and its stream carries a WebSocket from now on."""
        stream_id = answer.stream_id
        carrier = self.carriers[stream_id] = StreamCarrier(self, stream_id, websocket)
        del self.cycles[stream_id]
        self._lanes.give_back(answer.lane)
        self._unread -= answer.body_size
        if answer.body_parts is not None:  # sent before the answer came
            carrier.hold(answer.body_parts, ended=answer.body_complete)
        self.schedule_flush()
        return carrier

    def release(self, carrier: StreamCarrier) -> None:
        """Its WebSocket is over."""
        stream_id = carrier.stream_id
        if self.carriers.pop(stream_id, None) is None:
            return
        self._full_carriers.pop(stream_id, None)
        self._wake_room(stream_id)
        if not carrier.remote_ended:
            self._to_cut.append(stream_id)
        if not self._is_in_use():
            self._become_idle()

    # The end of the connection

    def _connection_failed(self, event: ConnectionFailed) -> None:
        logger.info("%s broke HTTP/2: %s", format_client(self.client), event.reason)
        self.close_reason = "error"
        self._lose_all()
        while self.engine.has_output:
            self.write(self.engine.output(WRITE_SIZE))
        self._linger()


_HANDLERS: Final[dict[type, Callable[[H2Connection, Any], None]]] = {
    RequestReceived: H2Connection._begin,
    RequestRefused: H2Connection._request_refused,
    DataReceived: H2Connection._data_received,
    StreamReset: H2Connection._stream_reset,
    SendReady: H2Connection._send_ready,
    PingAcknowledged: H2Connection._ping_acknowledged,
    GoAwayReceived: H2Connection._go_away_received,
    ConnectionFailed: H2Connection._connection_failed,
}
