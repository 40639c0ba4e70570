"""One HTTP/1.1 connection: reads requests in order, runs one cycle at a time (RFC 9112 section 9).

The connection is idle, or reads a head, or has a request in progress (`cycle`), whose body may
still be arriving (`reader`). What follows that request waits in `pending` until the response is
complete. Deadlines are numbers that the worker's sweep compares with its clock: no timers.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from pounce.asgi.forwarded import forwarded
from pounce.errors import LimitError, ProtocolError, RequestTimeoutError
from pounce.protocol import grammar
from pounce.protocol.h1_body import BodyReader, ChunkedReader, LengthReader
from pounce.protocol.h1_head import FieldBlock, RequestLine
from pounce.protocol.h1_response import encode_fields, status_line
from pounce.sync_protocol import MAX_SYNC_BODY
from pounce.worker.connection import Connection
from pounce.worker.h1_cycle import H1Cycle
from pounce.worker.request_cycle import BODY_HIGH_WATER, HEAD_PENDING
from pounce.worker.tasks import start_task

if TYPE_CHECKING:
    from pounce.worker.worker import Worker

LINGER_TIME: Final = 2.0
"""Seconds that a refused client gets to read why, before the socket is reset."""

FIRST_REQUEST_GRACE: Final = 0.5
"""Seconds that a connection without a request yet gets to send one when the worker drains."""

BODY_RATE_GRACE: Final = 10.0
"""Seconds before the average rate of a body counts; a network may stall for a moment."""

DISCARD_LIMIT: Final = 262144
"""Bytes of an unread request body that are read and dropped to keep a connection; for more it is
cheaper for both sides to close it."""

REMEMBERED_HEAD: Final = 2048
"""A longer head is not compared with the next one: what an idle connection holds stays small."""

_PECULIAR: Final = frozenset({"HEAD", "CONNECT"})
"""Methods whose responses are framed in their own way (RFC 9112 section 6.3)."""

_REASON: Final = {
    408: "the request did not arrive in time",
}


class H1Connection(Connection):
    """The protocol object of one accepted connection. Created by `Worker`."""

    __slots__ = (
        "_discard",
        "_eof",
        "_in_advance",
        "_last_block",
        "_last_head",
        "_last_line",
        "_last_scope",
        "_late_at",
        "_scan",
        "cycle",
        "keep_alive",
        "pending",
        "reader",
    )

    _last_line: RequestLine
    _last_block: FieldBlock

    def __init__(
        self,
        worker: Worker,
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        Connection.__init__(self, worker, server, is_tls=is_tls)
        self.cycle: H1Cycle | None = None
        self.reader: BodyReader | None = None
        self.pending: bytes | bytearray = b""
        """What came after the request in progress, or the beginning of a head."""
        self.keep_alive = True
        self._scan = 0
        self._in_advance = False
        self._last_head: bytes | None = None
        """The last head, where it was a plain one: polling clients and proxies repeat it."""
        self._last_scope: dict[str, Any] | None = None
        """The scope that it gave; copied, never handed out."""
        self._late_at = inf
        """When the body has arrived too slowly on average."""
        self._eof = False
        self._discard = 0

    def __repr__(self) -> str:
        state = (
            "lost"
            if self.lost
            else "closing"
            if self.closing
            else "busy"
            if self.cycle is not None
            else "idle"
        )
        return f"<H1Connection {self.id} {state}, {self.requests} requests, client {self.client}>"

    # From the event loop

    def data_received(self, data: bytes) -> None:
        if self.cycle is None and not self.pending and self.reader is None:
            if data == self._last_head and not self.closing:
                self._begin_again()
            elif not self.closing:
                self._advance(data)
        else:
            self._data_while_busy(data)

    def eof_received(self) -> bool:
        """Half-closed by the client: a response in progress may still be written.

        The application is told, because a client that has gone looks the same from here.
        """
        self._eof = True
        cycle = self.cycle
        if self.closing or cycle is None:
            return False
        if self.reader is not None:
            # RFC 9112 section 8: an incomplete request must not pass for a complete one.
            self.keep_alive = False
            cycle.lose()
            self._release(cycle)
            return False
        cycle.disconnect()
        return not self.is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        cycle = self.cycle
        if cycle is not None:
            cycle.lose()
            self._release(cycle)
        Connection.connection_lost(self, exc)

    def resume_writing(self) -> None:
        Connection.resume_writing(self)
        if self.reading_paused and self.cycle is None and not self.closing:
            self.deadline = self.worker.clock + self.worker.timeout_keep_alive
            self.worker.loop.call_soon(self._go_on)
            self.resume_reading()

    # Reading requests

    def _advance(self, data: bytes) -> None:
        """Begins the requests in `data`, one after the other, as far as may be."""
        worker = self.worker
        self._in_advance = True
        while True:
            head_end = data.find(b"\r\n\r\n")
            line_end = data.find(b"\r\n")
            if head_end < 0 or line_end == 0:
                self._incomplete_head(data, line_end)
                break
            try:
                line, block = worker.parser.parse(data, line_end, head_end)
                held = self._begin(line, block, data, head_end + 4)
            except ProtocolError as exc:
                self._refuse(exc)
                break
            if held or self.cycle is not None or self.closing or self.reader is not None:
                break
            if self.write_paused:
                break
            data = bytes(self.pending)
            if not data:
                break
            self.pending = b""
        self._in_advance = False

    def _incomplete_head(self, data: bytes, line_end: int) -> None:
        worker = self.worker
        if line_end == 0:
            # RFC 9112 section 2.2: empty lines before a request line are ignored.
            data = data[_end_of_empty_lines(data) :]
            if data:
                self._advance(data)
            return
        if not data:
            return
        if not self.pending:
            self.deadline = worker.clock + worker.timeout_request_head
            self._scan = 0
        self.pending = bytearray(data)
        self._check_partial_head()

    def _check_partial_head(self) -> None:
        """Refuses a head that can no longer become a good one, before the deadline does."""
        data = cast(bytearray, self.pending)
        if data.startswith(b"\r\n"):
            del data[: _end_of_empty_lines(data)]
            self._scan = 0
        limits = self.worker.parser.limits
        line_end = data.find(b"\r\n")
        try:
            if grammar.BAD_LINE_END.search(data, max(0, self._scan - 1)):
                raise ProtocolError("malformed request head")
            # What is there may end with a part of the CRLF CRLF that ends the head.
            if line_end < 0:
                if len(data) > limits.request_line + 1:
                    raise LimitError("request line too long", 414)
                if grammar.LINE_BEGINNING.match(data) is None:
                    raise ProtocolError("malformed request line")
            elif len(data) - line_end - 2 > limits.head + 3:
                raise LimitError("header fields too large", 431)
        except ProtocolError as exc:
            self._refuse(exc)
        self._scan = max(0, len(data) - 3)

    def _data_while_busy(self, data: bytes) -> None:
        if self.closing:
            return
        if self.reader is not None:
            self._feed_body(data)
        elif self.cycle is not None:
            self.pending = bytes(self.pending) + data if self.pending else data
            if len(self.pending) > BODY_HIGH_WATER:
                self.pause_reading()
        elif isinstance(self.pending, bytes):
            # A pipelined request whose turn comes with `_go_on`.
            self.pending += data
        else:
            pending = self.pending
            pending += data
            if pending.find(b"\r\n\r\n", self._scan) < 0:
                self._check_partial_head()
            else:
                self.pending = b""
                self._advance(bytes(pending))

    def _begin(self, line: RequestLine, block: FieldBlock, data: bytes, body_at: int) -> bool:
        """Begins one request: its scope, its body as far as it is there, its cycle.

        Returns:
            True when the request has to wait for the rest of its body before it can begin.
        """
        worker = self.worker
        self.requests += 1
        body = b""
        complete = True
        if block.plain:
            if len(data) > body_at:
                self.pending = data[body_at:]
        else:
            try:
                body, complete = self._begin_body(block, data, body_at)
            except ProtocolError as exc:
                self._refuse_body(exc, line, block)
                return False
        if worker.sync_app is not None and self._hold_for_sync(block, data, complete):
            return True
        if block.plain and len(data) == body_at and body_at <= REMEMBERED_HEAD:
            self._last_head, self._last_scope = data, None
            self._last_line, self._last_block = line, block
        self._start(self._scope(line, block), line, block, body, complete)
        return False

    def _begin_again(self) -> None:
        """Begins a request whose head is, byte for byte, the one before it on this connection."""
        self.requests += 1
        template = self._last_scope
        if template is None:
            template = self._last_scope = self._scope(self._last_line, self._last_block)
        scope = template.copy()
        worker = self.worker
        scope["asgi"] = worker.asgi.copy()
        scope["extensions"] = scope["extensions"].copy()
        scope["headers"] = scope["headers"].copy()
        if worker.state is not None:
            scope["state"] = worker.state.copy()
        self._start(scope, self._last_line, self._last_block, b"", True)

    def _start(
        self,
        scope: dict[str, Any],
        line: RequestLine,
        block: FieldBlock,
        body: bytes,
        complete: bool,
    ) -> None:
        """Runs the cycle of a request, or refuses it."""
        worker = self.worker
        cycle = self.cycle = H1Cycle(self, scope, line.target, body, complete)
        if (
            not block.plain
            or line.method in _PECULIAR
            or self.requests >= worker.limit_keep_alive_requests
        ):
            self._note_peculiarities(cycle, line, block)
        if complete:
            self.deadline = inf
        if worker.observer is not None:
            worker.observer.request_started(cycle)
        if worker.in_flight >= worker.limit_concurrency:
            self._refuse_busy(cycle)
        elif worker.sync_app is None or not complete or not worker.serve_sync(cycle, body):
            worker.in_flight += 1
            start_task(worker, cycle)

    def _scope(self, line: RequestLine, block: FieldBlock) -> dict[str, Any]:
        worker = self.worker
        scope = self.base_scope.copy()
        scope["asgi"] = worker.asgi.copy()
        scope["extensions"] = scope["extensions"].copy()
        scope["method"] = line.method
        root_path = worker.root_path
        if root_path and line.path.startswith("/"):
            scope["path"] = root_path + line.path
            scope["raw_path"] = worker.raw_root_path + line.raw_path
        else:
            scope["path"] = line.path
            scope["raw_path"] = line.raw_path
        scope["query_string"] = line.query_string
        scope["headers"] = list(block.pairs)
        if line.http_version != "1.1":
            scope["http_version"] = line.http_version
        if worker.state is not None:
            scope["state"] = worker.state.copy()
        if block.forwarded and (self.client and self.client[0]) in worker.trusted_proxies:
            scope["scheme"], scope["client"] = forwarded(
                block.pairs, worker.trusted_proxies, scope["scheme"], scope["client"]
            )
        return scope

    def _begin_body(self, block: FieldBlock, data: bytes, body_at: int) -> tuple[bytes, bool]:
        """The part of the body that is there, and whether it is all of it."""
        worker = self.worker
        limit = worker.limit_request_body
        length = block.content_length
        if block.chunked:
            limits = worker.parser.limits
            self.reader = ChunkedReader(limit, limits.head, limits.fields)
        elif length > 0:
            if limit and length > limit:
                raise LimitError("request body too large")
            end = body_at + length
            if len(data) >= end:
                self.pending = data[end:]
                return data[body_at:end], True
            self.reader = LengthReader(length)
        else:
            self.pending = data[body_at:]
            return b"", True
        self._allow_body()
        body, rest = self.reader.feed(data[body_at:])
        if rest is None:
            return body, False
        self.reader = None
        self.pending = rest
        return body, True

    def _hold_for_sync(self, block: FieldBlock, data: bytes, complete: bool) -> bool:
        """Whether to wait for the rest of a small body, so that a SyncApp gets it whole."""
        if complete or block.chunked or block.expect_continue:
            return False
        if block.content_length > MAX_SYNC_BODY:
            return False
        self.reader = None
        self.requests -= 1
        self.pending = bytearray(data)
        self._scan = 0
        return True

    def _note_peculiarities(self, cycle: H1Cycle, line: RequestLine, block: FieldBlock) -> None:
        """What keeps a request from being the ordinary one that the fast path answers."""
        worker = self.worker
        version_1_0 = line.http_version == "1.0"
        if (
            block.close
            or (version_1_0 and not block.keep_alive)
            or line.method == "CONNECT"
            or self.requests >= worker.limit_keep_alive_requests
        ):
            self.keep_alive = False
        # While the body is arriving, the response settles whether the connection persists.
        cycle.ordinary = not version_1_0 and line.method not in _PECULIAR and cycle.body_complete
        expects_continue = block.expect_continue and not cycle.body_complete
        if expects_continue:
            # The client sends nothing before it is asked to, so it cannot be late.
            self.deadline = inf
        cycle.negotiate(expects_continue=expects_continue, takes_trailers=block.takes_trailers)

    def _feed_body(self, data: bytes) -> None:
        cycle, reader, worker = self.cycle, self.reader, self.worker
        assert reader is not None
        self._late_at += len(data) * worker.seconds_per_body_byte
        self.deadline = min(worker.clock + worker.timeout_request_body, self._late_at)
        try:
            body, rest = reader.feed(data)
        except ProtocolError as exc:
            self._body_failed(exc)
            return
        if cycle is None:
            self._discard_body(len(body), rest)
            return
        if rest is not None:
            self.reader = None
            self.pending = rest
            self.deadline = inf
        cycle.body_received(body, rest is not None)
        if rest is None and cycle.body_size > BODY_HIGH_WATER and self.cycle is cycle:
            self.pause_reading()
            # The peer cannot be late while it is not listened to.
            self.deadline = inf

    def _discard_body(self, size: int, rest: bytes | None) -> None:
        """Drops the rest of a body that was answered without having been read."""
        self._discard -= size
        if rest is not None:
            self.reader = None
            self.pending = rest
            self._become_idle()
            self._go_on()
        elif self._discard < 0:
            self._linger()

    def _body_failed(self, exc: ProtocolError) -> None:
        cycle = self.cycle
        self.reader = None
        if cycle is None:
            self._linger()
            return
        if cycle.phase <= HEAD_PENDING:
            self.cycle = None
            cycle.lose()
            self._refuse(exc, cycle)
        else:
            self.cut(cycle)

    # Answering

    def settle_persistence(self, close: bool) -> None:
        """Decides before a head is written whether the connection persists after it."""
        cycle = self.cycle
        if close or self.worker.draining or (self.reader is not None and not self._worth_reading()):
            self.keep_alive = False
        elif cycle is not None and cycle.awaits_continue() and self.reader is not None:
            # The client may send its body or not (RFC 9110 section 10.1.1): nobody can tell.
            self.keep_alive = False

    def _worth_reading(self) -> bool:
        reader = self.reader
        left = reader.remaining if isinstance(reader, LengthReader) else 0
        return left <= DISCARD_LIMIT

    def response_complete(self, cycle: H1Cycle) -> None:
        """The response has been written; the application may still run."""
        worker = self.worker
        if worker.observer is not None:
            worker.observer.request_completed(cycle)
        if self.cycle is not cycle:
            return
        self.cycle = None
        if cycle.waiters is not None:
            cycle._wake()
        if not self.keep_alive or worker.closes_idle:
            self._finish()
            return
        if self.reader is not None:
            if self.reading_paused:
                self.resume_reading()
            self._discard = DISCARD_LIMIT
            self._allow_body()
            return
        if self.write_paused:
            self._hold_requests()
            return
        self.deadline = worker.clock + worker.timeout_keep_alive
        if self.pending:
            if not self._in_advance:
                worker.loop.call_soon(self._go_on)
        elif self._eof:
            self._finish()
        if self.reading_paused:
            self.resume_reading()

    def _go_on(self) -> None:
        """Begins the next pipelined request."""
        if (
            self.pending
            and self.cycle is None
            and self.reader is None
            and not self.closing
            and not self.write_paused
        ):
            data = bytes(self.pending)
            self.pending = b""
            self._advance(data)
        if self.cycle is None and self._eof and not self.closing:
            self._finish()

    def _become_idle(self) -> None:
        self.deadline = self.worker.clock + self.worker.timeout_keep_alive
        if self.worker.closes_idle:
            self._finish()
        elif self.write_paused:
            self._hold_requests()

    def _hold_requests(self) -> None:
        """Lets a client that does not read have no further response to leave unread."""
        self.deadline = inf
        self.pause_reading()

    def _release(self, cycle: H1Cycle) -> None:
        """Ends a cycle whose response did not come to its end."""
        if self.cycle is cycle:
            self.cycle = None
            self.reader = None
            if self.worker.observer is not None:
                self.worker.observer.request_aborted(cycle)

    def cut(self, cycle: H1Cycle) -> None:
        """Ends the connection in the middle of a response, so that it is seen to be incomplete."""
        if not cycle.disconnected:
            self.close_reason = self.close_reason or "error"
        self._release(cycle)
        cycle.lose()
        # What was written may be flushed only where the framing tells that more was to come.
        if cycle.is_self_delimiting():
            self._finish()
        else:
            self.reset()

    def _refuse(self, exc: ProtocolError, cycle: H1Cycle | None = None) -> None:
        """Answers a request that cannot be served, and closes (RFC 9112 section 9.6)."""
        self.close_reason = "timeout" if exc.status == 408 else "error"
        self._write_error(exc, cycle)
        self._linger()

    def _refuse_body(self, exc: ProtocolError, line: RequestLine, block: FieldBlock) -> None:
        """Refuses a request with a good head, which the log can name."""
        cycle = H1Cycle(self, self._scope(line, block), line.target, b"", False)
        if self.worker.observer is not None:
            self.worker.observer.request_started(cycle)
        self._refuse(exc, cycle)

    def _refuse_busy(self, cycle: H1Cycle) -> None:
        """503 with Retry-After: the worker has as many requests in progress as it may."""
        self.cycle = None
        cycle.lose()
        self._write_error(
            ProtocolError("too many requests in progress", 503), cycle, ((b"retry-after", b"1"),)
        )
        self._linger()

    def _write_error(
        self,
        exc: ProtocolError,
        cycle: H1Cycle | None,
        fields: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        body = f"{exc}\n".encode()
        lines = encode_fields(
            (
                *fields,
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            )
        )
        if cycle is not None and cycle.scope["method"] == "HEAD":
            body = b""
        self.write(b"".join((status_line(exc.status), lines, self.worker.tails[0], body)))
        self.worker.request_refused(self, exc, cycle, len(body))

    # Closing

    def _finish(self) -> None:
        """Closes when what was written has been sent."""
        if self.reader is not None or self.pending:
            self._linger()
        else:
            self.close_reason = self.close_reason or "complete"
            self.close()

    def _linger(self) -> None:
        """Closes the sending side and drops what still arrives for a moment.

        A socket closed with unread data is reset, and the reset may overtake the answer
        (RFC 9112 section 9.6).
        """
        self.closing = True
        self.cycle = None
        self.reader = None
        self.pending = b""
        if self.reading_paused:
            self.resume_reading()
        if self._eof or not self.transport.can_write_eof():
            self.close()
            return
        self.made_progress()
        self.deadline = self.worker.clock + LINGER_TIME
        self.transport.write_eof()

    def shut_down(self, *, gentle: bool = False) -> None:
        """An idle connection closes now, or (gentle) after a further request or when its time is
        over; a busy one after its response, unless that has promised (gentle) that it persists."""
        if gentle:
            # The next response that begins will say that it is the last.
            if self.cycle is not None and self.cycle.phase <= HEAD_PENDING:
                self.keep_alive = False
            return
        self.keep_alive = False
        if self.cycle is None and self.reader is None and not self.closing:
            if self.pending:
                return  # a head is arriving; it is answered, or its deadline comes
            if self.requests:
                self._finish()
            else:
                # Just accepted: its first request is most likely on the way.
                self.deadline = min(self.deadline, self.worker.clock + FIRST_REQUEST_GRACE)

    def expire(self, now: float) -> None:
        """A deadline has passed: called by the sweep."""
        if self.write_deadline <= now:
            self.check_write(now)
        if self.deadline > now or self.lost:
            return
        self.deadline = inf
        cycle = self.cycle
        if self.closing:
            if self.transport.get_write_buffer_size():
                # The answer is on its way still; the write deadline watches over that.
                self.deadline = self.worker.clock + LINGER_TIME
            else:
                self.abort()
        elif cycle is not None:
            self._body_failed(RequestTimeoutError(_REASON[408]))
        elif self.reader is not None:
            self._linger()
        elif self.pending:
            self._refuse(RequestTimeoutError(_REASON[408]))
        else:
            self.close_reason = "timeout"
            self._finish()

    def expect_body(self) -> None:
        """The client has been told to send its body."""
        self._allow_body()

    def _allow_body(self) -> None:
        """The time for a body begins, anew where this side had made it wait."""
        worker = self.worker
        # Without a rate a byte is worth no time, and the body is never late.
        self._late_at = worker.clock + BODY_RATE_GRACE if worker.seconds_per_body_byte else inf
        self.deadline = min(worker.clock + worker.timeout_request_body, self._late_at)

    def resume_body(self) -> None:
        """The application has taken what had arrived of the body."""
        if self.reading_paused and self.reader is not None:
            self.resume_reading()
            self._allow_body()


def _end_of_empty_lines(data: bytes | bytearray) -> int:
    match = grammar.EMPTY_LINES.match(data)
    assert match is not None
    return match.end()
