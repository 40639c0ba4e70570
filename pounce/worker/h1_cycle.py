"""The request cycle over HTTP/1.1: responses framed by RFC 9112 section 6."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from pounce.asgi.types import Scope
from pounce.protocol import h1_response
from pounce.protocol.h1_head import RequestLine
from pounce.protocol.h1_response import UNKNOWN_LENGTH, ResponseHead
from pounce.worker import file_transfer
from pounce.worker.request_cycle import COMPLETE, HEAD_PENDING, STREAMING, Fields, RequestCycle

if TYPE_CHECKING:
    from pounce.worker.h1_connection import H1Connection

JOIN_LIMIT: Final = 16384
"""Larger bodies are handed to the transport beside the head instead of being copied behind it."""

CORK_LIMIT: Final = 65536
"""Bytes that may wait for the end of a turn of the loop; as much as the transport would buffer."""

# How the client knows the end of the content: there is none, Content-Length, chunked, or the end
# of the connection.
_SILENT, _LENGTH, _CHUNKED, _UNTIL_CLOSE = range(4)


class H1Cycle(RequestCycle):
    """One request and its response on an HTTP/1.1 connection."""

    __slots__ = (
        "_corked",
        "_corked_size",
        "_expects_continue",
        "_framing",
        "_left",
        "_takes_trailers",
        "_trailers",
        "ordinary",
    )

    connection: H1Connection

    # Of a response that comes in parts.
    _left: int
    """Bytes of content still owed where Content-Length was given."""
    _trailers: bytes
    _corked_size: int

    def __init__(
        self,
        connection: H1Connection,
        scope: Scope,
        line: RequestLine,
        body: bytes,
        complete: bool,
    ) -> None:
        RequestCycle.__init__(self, connection, connection, scope, line, body, complete)
        self._framing = _SILENT
        self.ordinary = True
        """An HTTP/1.1 request other than HEAD that has arrived completely."""
        self._expects_continue = False
        self._takes_trailers = False
        self._corked: list[bytes] | None = None
        """What was sent since the first write of this turn of the loop; None before that."""

    def negotiate(self, *, expects_continue: bool, takes_trailers: bool) -> None:
        """What the request asks of the response."""
        self._expects_continue = expects_continue
        self._takes_trailers = takes_trailers

    def _respond(self, body: bytes) -> None:
        head: ResponseHead = self._head
        connection = self.connection
        if not self.ordinary or not head.has_body or head.close:
            self._respond_special(head, body)
            return
        size = len(body)
        start = head.encoded
        if head.content_length != size:
            if head.content_length != UNKNOWN_LENGTH:
                raise RuntimeError(f"response body is {size} bytes, not {head.content_length}")
            start = b"%bcontent-length: %d\r\n" % (start, size)
        if not connection.keep_alive:
            start += h1_response.CLOSE
            connection.likely_head = None
        start += self.worker.tails[head.tail]
        if size < JOIN_LIMIT:
            connection.write_uncounted(start + body)
        else:
            connection.transport.writelines((start, body))
        self.sent_bytes = size
        self.phase = COMPLETE
        if (
            connection.likely_head is head
            and (begun := (tally := connection.tally).begun)
            and tally.received == self.received_bytes
        ):
            begun.append(self.started_ns)
            meter = tally.meter
            meter.box_cells[connection.stamp] = meter.answered
            connection.turn = meter.turn
        elif (observer := self.worker.observer) is not None:
            self.uncounted = len(start) + size
            observer.request_completed(self)
            if head.content_length == size and connection.keep_alive:
                connection.expect(head)
        connection.answered(self)

    def _respond_special(self, head: ResponseHead, body: bytes) -> None:
        """A response to HEAD or HTTP/1.0, without content, or the last of its connection."""
        silent = not head.has_body or self.scope["method"] == "HEAD"
        size = len(body)
        if not silent and head.content_length not in (UNKNOWN_LENGTH, size):
            raise RuntimeError(f"response body is {size} bytes, not {head.content_length}")
        length_line = b""
        # RFC 9110 section 8.6: no Content-Length with 204. One that was not given is not guessed
        # from an empty body to HEAD, where it would have to be that of the GET.
        if head.content_length == UNKNOWN_LENGTH and head.has_body and (body or not silent):
            length_line = b"content-length: %d\r\n" % size
        self._write_head(head, length_line, body if not silent else b"")
        self.sent_bytes = 0 if silent else size
        self.phase = COMPLETE
        self.connection.response_complete(self)

    def _write_head(self, head: ResponseHead, framing: bytes, body: bytes) -> None:
        connection = self.connection
        connection.settle_persistence(head.close)
        if not connection.keep_alive:
            framing += h1_response.CLOSE
        elif self.scope["http_version"] == "1.0":
            framing += h1_response.KEEP_ALIVE
        connection.write(b"".join((head.encoded, framing, self.worker.tails[head.tail], body)))

    def _start(self, body: bytes) -> None:
        head: ResponseHead = self._head
        framing = self._choose_framing(head)
        framed = self._framed(body) if body else b""
        self._stream_opened()
        self._write_head(head, framing, framed)

    def _choose_framing(self, head: ResponseHead) -> bytes:
        """How the client shall know the end of the content (RFC 9112 section 6.3)."""
        self._trailers = b""
        http_1_1 = self.scope["http_version"] == "1.1"
        unknown = head.content_length == UNKNOWN_LENGTH
        if not head.has_body or self.scope["method"] == "HEAD":
            self._framing = _SILENT
            return h1_response.CHUNKED if unknown and head.has_body and http_1_1 else b""
        if not unknown:
            if self.wants_trailers:
                # Trailers need the chunked coding, which excludes Content-Length.
                raise RuntimeError("a response with trailers must not have a content-length")
            self._framing = _LENGTH
            self._left = head.content_length
            return b""
        if http_1_1:
            self._framing = _CHUNKED
            return h1_response.CHUNKED
        self._framing = _UNTIL_CLOSE
        self.connection.keep_alive = False
        return b""

    def _framed(self, body: bytes) -> bytes:
        """`body`, which is not empty, as it goes on the wire."""
        framing = self._framing
        if framing == _SILENT:
            return b""
        size = len(body)
        if framing == _LENGTH:
            self._owe(size)
        self.sent_bytes += size
        return b"%x\r\n%b\r\n" % (size, body) if framing == _CHUNKED else body

    def _owe(self, size: int) -> None:
        if size > self._left:
            raise RuntimeError("response body is longer than its content-length")
        self._left -= size

    def _continue(self, body: bytes) -> None:
        framed = self._framed(body)
        if framed:
            self._write_part(framed)

    def _write_part(self, data: bytes) -> None:
        """Writes at once, but what follows in the same turn of the loop at the end of the turn:
        the application has not let anything else happen meanwhile, and a hundred small parts
        cost one system call instead of a hundred."""
        corked = self._corked
        if corked is None:
            self.connection.write(data)
            self._corked = []
            self._corked_size = 0
            self.worker.corked.add(self)
        else:
            corked.append(data)
            self._corked_size += len(data)
            if self._corked_size >= CORK_LIMIT:
                self._flush()
                self.turn_used_up = True

    def _flush(self, data: bytes = b"") -> None:
        """Writes what is corked, and `data` behind it."""
        if self._corked:
            if data:
                self._corked.append(data)
            data = b"".join(self._corked)
            self._corked.clear()
            self._corked_size = 0
        if data:
            self.connection.write(data)
            if self.connection.write_paused:
                self.connection.made_progress()

    def uncork(self) -> None:
        """The turn of the loop is over."""
        if not self.connection.lost:
            self._flush()
        self._corked = None

    def _finish(self, body: bytes) -> None:
        framed = self._framed(body) if body else b""
        if self._framing == _LENGTH and self._left:
            raise RuntimeError("response body is shorter than its content-length")
        if self._framing == _CHUNKED:
            framed += h1_response.LAST_CHUNK
        self._flush(framed)
        self.phase = COMPLETE
        self.connection.response_complete(self)

    def _send_trailers(self, fields: Fields) -> None:
        self._trailers += h1_response.encode_fields(fields)

    def _finish_trailers(self) -> None:
        if self._framing == _CHUNKED:
            # RFC 9110 section 6.5.1: only to a client that says it takes them.
            trailers = self._trailers if self._takes_trailers else b""
            self._flush(b"0\r\n%b\r\n" % trailers)
        self.phase = COMPLETE
        self.connection.response_complete(self)

    def _send_hint(self, fields: Fields) -> None:
        if self.scope["http_version"] == "1.1":
            lines = h1_response.encode_fields(fields)
            self.connection.write(h1_response.status_line(103) + lines + b"\r\n")

    async def _send_path(self, path: str) -> None:
        with open(path, "rb") as file:  # noqa: ASYNC230
            await self._send_file(file, 0, os.fstat(file.fileno()).st_size, False)

    async def _send_file(
        self, file: Any, offset: int | None, count: int | None, more: bool
    ) -> None:
        head: ResponseHead = self._head
        start, size = file_transfer.extent(file, offset, count)
        if self.phase == HEAD_PENDING:
            self._start_file(head, size, alone=not more)
        if size and self._framing != _SILENT:
            if self._framing == _LENGTH:
                self._owe(size)
            self._flush(b"%x\r\n" % size if self._framing == _CHUNKED else b"")
            await file_transfer.transfer(self.connection, file, start, size)
            self.sent_bytes += size
            if self._framing == _CHUNKED:
                self.connection.write(b"\r\n")
        if offset is None:
            file.seek(start + size)
        if not more and self.phase == STREAMING:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start_file(self, head: ResponseHead, size: int, *, alone: bool) -> None:
        """Writes the head before a part of a file; the only part tells the length."""
        if not alone or self.wants_trailers or head.content_length != UNKNOWN_LENGTH:
            framing = self._choose_framing(head)
        else:
            bodied = head.has_body and self.scope["method"] != "HEAD"
            self._framing = _LENGTH if bodied else _SILENT
            self._left = size
            framing = b"content-length: %d\r\n" % size if head.has_body else b""
        self.phase = STREAMING
        if not alone:
            self._stream_opened()
        self._write_head(head, framing, b"")

    def _abort(self) -> None:
        self._flush()
        self.connection.cut(self)

    def _ask_for_body(self) -> None:
        if self._expects_continue:
            self._expects_continue = False
            if self.phase <= HEAD_PENDING:
                self.connection.write(h1_response.CONTINUE)
            self.connection.expect_body()

    def is_self_delimiting(self) -> bool:
        """Whether the client can tell from the framing that content is missing."""
        return self._framing != _UNTIL_CLOSE

    def awaits_continue(self) -> bool:
        """Whether the client has been told nothing yet and so may never send its body."""
        return self._expects_continue

    def _resume_body(self) -> None:
        self.connection.resume_body()
