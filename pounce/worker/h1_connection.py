"""One HTTP/1.1 connection: reads requests in order, runs one cycle at a time (RFC 9112 section 9).

The connection is idle, or reads a head, or has a request in progress (`cycle`), whose body may
still be arriving (`reader`). What follows that request waits in `pending` until the response is
complete. Deadlines are numbers that the worker's sweep compares with its clock: no timers.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

from pounce.asgi.forwarded import forwarded
from pounce.errors import LimitError, ProtocolError
from pounce.protocol import grammar
from pounce.protocol.h1_head import FieldBlock, RequestLine
from pounce.sync_protocol import MAX_SYNC_BODY
from pounce.worker import tasks
from pounce.worker.h1_bodies import H1Bodies
from pounce.worker.h1_cycle import H1Cycle
from pounce.worker.request_cycle import BODY_HIGH_WATER
from pounce.worker.ws_connection import begin_websocket

if TYPE_CHECKING:
    from pounce.worker.worker import Worker

REMEMBERED_HEAD: Final = 2048
"""A longer head is not compared with the next one: what an idle connection holds stays small."""

_PECULIAR: Final = frozenset({"HEAD", "CONNECT"})
"""Methods whose responses are framed in their own way (RFC 9112 section 6.3)."""


class H1Connection(H1Bodies):
    """The protocol object of one accepted connection. Created by `Worker`."""

    __slots__ = (
        "_last_block",
        "_last_head",
        "_last_line",
        "_last_scope",
        "_scan",
    )

    protocol = "h1"

    _last_line: RequestLine
    _last_block: FieldBlock

    def __init__(
        self,
        worker: Worker,
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        H1Bodies.__init__(self, worker, server, is_tls=is_tls)
        self._scan = 0
        """How far `pending` was searched for the end of a head."""
        self._last_head: bytes | None = None
        """The last head, where it was a plain one: polling clients and proxies repeat it."""
        self._last_scope: dict[str, Any] | None = None
        """The scope that it gave; copied, never handed out."""

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
        meter = self.worker.meter
        if meter is not None:
            meter.received += len(data)
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
        H1Bodies.connection_lost(self, exc)

    def resume_writing(self) -> None:
        H1Bodies.resume_writing(self)
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
                self.refuse(exc)
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
            self.refuse(exc)
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
            if block.upgrade is not None and begin_websocket(self, line, block):
                return False
        if worker.sync_app is not None and self._hold_for_sync(block, data, complete):
            return True
        is_scrape = line.path == worker.metrics_path
        if block.plain and len(data) == body_at and body_at <= REMEMBERED_HEAD and not is_scrape:
            self._last_head, self._last_scope = data, None
            self._last_line, self._last_block = line, block
        cycle = self.cycle = H1Cycle(self, self.scope_of(line, block), line, body, complete)
        if (
            not block.plain
            or line.method in _PECULIAR
            or self.requests >= worker.limit_keep_alive_requests
        ):
            self._note_peculiarities(cycle, line, block)
        if complete:
            self.deadline = inf
        self._start(cycle, line, body, is_scrape)
        return False

    def _begin_again(self) -> None:
        """Begins a request whose head is, byte for byte, the one before it on this connection."""
        self.requests = number = self.requests + 1
        worker, line = self.worker, self._last_line
        template = self._last_scope
        if template is None:
            template = self._last_scope = self.scope_of(line, self._last_block)
        scope = template.copy()
        scope["asgi"] = worker.asgi.copy()
        scope["extensions"] = scope["extensions"].copy()
        scope["headers"] = scope["headers"].copy()
        if worker.state is not None:
            scope["state"] = worker.state.copy()
        cycle = self.cycle = H1Cycle(self, scope, line, b"", True)
        if line.method in _PECULIAR or number >= worker.limit_keep_alive_requests:
            self._note_peculiarities(cycle, line, self._last_block)
        self.deadline = inf
        self._start(cycle, line)

    def _start(
        self, cycle: H1Cycle, line: RequestLine, body: bytes = b"", is_scrape: bool = False
    ) -> None:
        """Runs the cycle of a request, or refuses it; `body` is what has arrived of it."""
        worker = self.worker
        meter = worker.quick_meter
        if (
            meter is not None
            and self.noted_line is line
            and self.turn is not meter.turn
            and (now := meter.now)
        ):
            cycle.started_ns = now
            meter.box_cells[self.stamp] = meter.ticks
        elif worker.observer is not None:
            worker.observer.request_started(cycle)
        if worker.in_flight >= worker.limit_concurrency and not is_scrape:
            self.refuse_busy(cycle)
        elif not (is_scrape or worker.sync_app is not None) or not worker.intercept(cycle, body):
            worker.in_flight += 1
            if self.requests == 1:
                # It may be the only one, and what the connection needs is in the caches now.
                tasks.start(cycle)
            else:
                worker.start(cycle)

    def scope_of(self, line: RequestLine, block: FieldBlock) -> dict[str, Any]:
        """The scope of a request."""
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

    def _refuse_body(self, exc: ProtocolError, line: RequestLine, block: FieldBlock) -> None:
        """Refuses a request with a good head, which the log can name."""
        cycle = H1Cycle(self, self.scope_of(line, block), line, b"", False)
        if self.worker.observer is not None:
            self.worker.observer.request_started(cycle)
        self.refuse(exc, cycle)


def _end_of_empty_lines(data: bytes | bytearray) -> int:
    match = grammar.EMPTY_LINES.match(data)
    assert match is not None
    return match.end()
