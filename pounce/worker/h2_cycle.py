"""The request cycle over HTTP/2: a response is a head and content on one stream (RFC 9113)."""

from __future__ import annotations

import asyncio
import os
from math import inf
from typing import TYPE_CHECKING, Any, Final

from pounce.asgi.types import Message, Scope
from pounce.protocol.h1_response import UNKNOWN_LENGTH
from pounce.protocol.h2.interface import PreparedHead, RequestHead
from pounce.worker import file_transfer
from pounce.worker.lane import Lane
from pounce.worker.request_cycle import COMPLETE, HEAD_PENDING, STREAMING, Fields, RequestCycle

if TYPE_CHECKING:
    from pounce.worker.h2_connection import H2Connection

PIECE_SIZE: Final = 65536
"""Bytes of a file that are read at a time."""


class H2Cycle(RequestCycle):
    """One request and its response on a stream."""

    __slots__ = (
        "_expects_continue",
        "_left",
        "_silent",
        "_takes_trailers",
        "_trailers",
        "deadline",
        "is_held",
        "late_at",
        "stream_id",
    )

    connection: H2Connection

    # Of a response that comes in parts.
    _left: int
    """Bytes of content still owed where Content-Length was given."""
    _silent: bool
    """Whether the response has no content whatever the application sends."""

    def __init__(
        self,
        connection: H2Connection,
        lane: Lane,
        scope: Scope,
        head: RequestHead,
        stream_id: int,
        complete: bool,
    ) -> None:
        RequestCycle.__init__(self, connection, lane, scope, head.line, b"", complete)
        self.stream_id = stream_id
        self._expects_continue = head.expect_continue and not complete
        self._takes_trailers = head.takes_trailers
        self._trailers: Fields = ()
        self.deadline = inf
        """When more of the request body must have come."""
        self.late_at = inf
        """When the body has arrived too slowly on average."""
        self.is_held = False
        """The request waits for its body, to be answered at once."""

    def _respond(self, body: bytes) -> None:
        head: PreparedHead = self._head
        size = len(body)
        if not head.has_content or self.line.method == "HEAD":
            size, body = 0, b""
        elif head.content_length != size and head.content_length != UNKNOWN_LENGTH:
            raise RuntimeError(f"response body is {size} bytes, not {head.content_length}")
        connection = self.connection
        connection.engine.send_response(self.stream_id, head, body)
        self.sent_bytes = size
        self.phase = COMPLETE
        lane = self.lane
        if (
            lane.likely_head is head
            and (begun := (tally := lane.tally).begun)
            and tally.received == self.received_bytes
        ):
            begun.append(self.started_ns)
            meter = tally.meter
            meter.box_cells[lane.stamp] = meter.answered
            lane.turn = meter.turn
        elif (observer := self.worker.observer) is not None:
            observer.request_completed(self)
            if head.content_length == size:
                lane.expect(head)
        connection.answered(self)

    def _start(self, body: bytes) -> None:
        self._begin(self._head)
        if body:
            self._put(body)

    def _begin(self, head: PreparedHead) -> None:
        """Sends the head of a response that comes in parts."""
        self._silent = not head.has_content or self.line.method == "HEAD"
        self._left = head.content_length
        self._stream_opened()
        self.connection.engine.send_head(self.stream_id, head)
        self.connection.schedule_flush()

    def _put(self, data: bytes, *, ended: bool = False) -> None:
        """Queues content."""
        size = len(data)
        if self._silent:
            data, size = b"", 0
        elif size and self._left != UNKNOWN_LENGTH:
            if size > self._left:
                raise RuntimeError("response body is longer than its content-length")
            self._left -= size
        self.sent_bytes += size
        if data or ended:
            connection = self.connection
            if not connection.engine.send_data(self.stream_id, data, ended=ended):
                self.turn_used_up = True
            connection.schedule_flush()

    def _continue(self, body: bytes) -> None:
        self._put(body)

    def _finish(self, body: bytes) -> None:
        if not self._silent and self._left not in (UNKNOWN_LENGTH, len(body)):
            raise RuntimeError(
                "response body is longer than its content-length"
                if len(body) > self._left
                else "response body is shorter than its content-length"
            )
        self._put(body, ended=True)
        self.phase = COMPLETE
        self.connection.response_complete(self)

    async def _give_way(self) -> None:
        await self.connection.until_room(self.stream_id)

    def _send_trailers(self, fields: Fields) -> None:
        self._trailers = [*self._trailers, *fields]

    def _finish_trailers(self) -> None:
        engine = self.connection.engine
        # RFC 9110 section 6.5.1: only to a client that says it takes them.
        if self._takes_trailers and self._trailers:
            engine.send_trailers(self.stream_id, self._trailers)
        else:
            engine.send_data(self.stream_id, b"", ended=True)
        self.phase = COMPLETE
        self.connection.response_complete(self)

    def _send_hint(self, fields: Fields) -> None:
        self.connection.engine.send_informational(self.stream_id, 103, fields)
        self.connection.schedule_flush()

    async def _send_path(self, path: str) -> None:
        with open(path, "rb") as file:  # noqa: ASYNC230
            await self._send_file(file, 0, os.fstat(file.fileno()).st_size, False)

    async def _send_file(
        self, file: Any, offset: int | None, count: int | None, more: bool
    ) -> None:
        start, size = file_transfer.extent(file, offset, count)
        if self.phase == HEAD_PENDING:
            self._start_file(size, alone=not more)
        if size and not self._silent:
            await self._send_pieces(file.fileno(), start, size)
        if offset is None:
            file.seek(start + size)
        if not more and self.phase == STREAMING:
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start_file(self, size: int, *, alone: bool) -> None:
        """Sends the head before a part of a file; the only part tells the length."""
        head: PreparedHead = self._head
        tells = alone and not self.wants_trailers and head.content_length == UNKNOWN_LENGTH
        if tells and head.has_content:
            fields = (*self.fields, (b"content-length", b"%d" % size))
            head = self.connection.engine.prepare(self.status, fields)
        self.phase = STREAMING
        self._begin(head)

    async def _send_pieces(self, descriptor: int, offset: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        while count:
            size = min(count, PIECE_SIZE)
            data = await loop.run_in_executor(None, os.pread, descriptor, size, offset)
            if not data:
                raise OSError("the file became shorter while it was sent")
            if self.phase == COMPLETE:
                self._out_of_order("http.response.zerocopysend")
            self._put(data)
            offset += len(data)
            count -= len(data)
            if self.turn_used_up:
                self.turn_used_up = False
                await self._give_way()

    def _abort(self) -> None:
        self.connection.cut(self)

    def _take_body(self) -> Message:
        size = self.body_size
        message = RequestCycle._take_body(self)
        if size:
            self.connection.body_taken(self, size)
        return message

    def _ask_for_body(self) -> None:
        if self._expects_continue:
            self._expects_continue = False
            if self.phase <= HEAD_PENDING:
                self.connection.engine.send_informational(self.stream_id, 100, ())
                self.connection.schedule_flush()
            self.connection.allow_body(self)

    def _resume_body(self) -> None:
        pass  # `body_taken` opens the windows
