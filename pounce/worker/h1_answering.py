"""The answering side of an HTTP/1.1 connection: whether it persists, refusals, its deadlines, and
how it comes to its end (RFC 9112 section 9)."""

from __future__ import annotations

from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING, Final

from pounce.errors import ProtocolError, RequestTimeoutError
from pounce.protocol.h1_body import BodyReader, LengthReader
from pounce.protocol.h1_response import encode_fields, status_line
from pounce.worker.connection import (
    BODY_RATE_GRACE,
    FIRST_REQUEST_GRACE,
    LINGER_TIME,
    Connection,
)
from pounce.worker.request_cycle import HEAD_PENDING, Fields

if TYPE_CHECKING:
    from pounce.worker.h1_cycle import H1Cycle
    from pounce.worker.worker import Worker

DISCARD_LIMIT: Final = 262144
"""Bytes of an unread request body that are read and dropped to keep a connection; for more it is
cheaper for both sides to close it."""

_REASON: Final = {
    408: "the request did not arrive in time",
}


class H1Answering(Connection):
    """What an HTTP/1.1 connection answers, and when it is late."""

    __slots__ = (
        "_discard",
        "_eof",
        "_in_advance",
        "_late_at",
        "cycle",
        "keep_alive",
        "pending",
        "reader",
    )

    def __init__(
        self,
        worker: Worker,
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        Connection.__init__(self, worker, worker.prepare_h1_head, server, is_tls=is_tls)
        self.cycle: H1Cycle | None = None
        """The request in progress."""
        self.reader: BodyReader | None = None
        """Of a body that is still arriving."""
        self.pending: bytes | bytearray = b""
        """What came after the request in progress, or the beginning of a head."""
        self.keep_alive = True
        """Whether the connection persists after the response that comes next."""
        self._in_advance = False
        """Whether the requests that have arrived are being begun, one after the other."""
        self._late_at = inf
        """When the body has arrived too slowly on average."""
        self._eof = False
        self._discard = 0
        """Bytes of an answered request's body that may still be dropped."""

    @abstractmethod
    def _go_on(self) -> None:
        """Begins the next pipelined request."""

    # Answering

    def settle_persistence(self, close: bool) -> None:
        """Decides before a head is written whether the connection persists after it."""
        cycle = self.cycle
        if close or (self.reader is not None and not self._worth_reading()):
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
        if self.worker.observer is not None:
            self.worker.observer.request_completed(cycle)
        self.answered(cycle)

    def answered(self, cycle: H1Cycle) -> None:
        """The same, where the observer has been told."""
        if self.cycle is not cycle:
            return
        worker = self.worker
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

    def _body_failed(self, exc: ProtocolError) -> None:
        cycle = self.cycle
        self.reader = None
        if cycle is None:
            self._linger()
            return
        if cycle.phase <= HEAD_PENDING:
            self.cycle = None
            cycle.lose()
            self.refuse(exc, cycle)
        else:
            self.cut(cycle)

    def refuse(self, exc: ProtocolError, cycle: H1Cycle | None = None, fields: Fields = ()) -> None:
        """Answers a request that cannot be served, and closes (RFC 9112 section 9.6)."""
        self.close_reason = "timeout" if exc.status == 408 else "error"
        self._write_error(exc, cycle, fields)
        self._linger()

    def refuse_busy(self, cycle: H1Cycle) -> None:
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
        fields: Fields = (),
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
            if self.cycle is None or self.cycle.phase <= HEAD_PENDING:
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

    # Deadlines

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
            self.worker.timed_out("request_body")
            self._body_failed(RequestTimeoutError(_REASON[408]))
        elif self.reader is not None:
            self.worker.timed_out("request_body")
            self._linger()
        elif self.pending:
            self.worker.timed_out("request_head")
            self.refuse(RequestTimeoutError(_REASON[408]))
        else:
            self.worker.timed_out("keep_alive" if self.requests else "first_byte")
            self.close_reason = "timeout"
            self._finish()

    def put_off(self, seconds: float) -> None:
        Connection.put_off(self, seconds)
        self._late_at += seconds

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
