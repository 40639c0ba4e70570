"""The native HTTP/2 engine: frames in pure Python, made for many small requests at a time.

Where the time goes is decided by three things. A request that has come before on the connection is
known by the bytes of its header block (`header_blocks`), a response head that was sent before is
ready bytes (`response_blocks`), and all that one read has caused leaves in one write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pounce.protocol.h1_head import Pair
from pounce.protocol.h2 import frames
from pounce.protocol.h2.connection import DIRECT_BYTES
from pounce.protocol.h2.control_frames import PING_PAYLOAD
from pounce.protocol.h2.interface import Engines, ErrorCode, H2Limits, SendReady
from pounce.protocol.h2.receiver import Receiver
from pounce.protocol.h2.response_blocks import EMPTY_TABLE, ResponseBlock, ResponseBlocks
from pounce.protocol.h2.streams import LARGEST_DATA, Outgoing, Stream

_pack = frames.HEADER.pack

_DATA: Final[dict[int, bytes]] = {}
"""The beginnings of DATA frames that end a stream, by size: of the sizes that there were so far, as
long as the content fits into one frame."""


class NativeEngines(Engines):
    """Makes native engines, which share ready response heads."""

    __slots__ = ("limits", "responses")

    def __init__(self, limits: H2Limits) -> None:
        self.limits = limits
        self.responses = ResponseBlocks()

    def connect(self) -> NativeEngine:
        return NativeEngine(self.limits, self.responses)

    def set_default_fields(
        self, date: bytes | None, server: bytes | None, extra: Sequence[Pair]
    ) -> None:
        self.responses.set_default_fields(date, server, extra)


class NativeEngine(Receiver):
    """One connection: the sending half."""

    __slots__ = ()

    def send_response(  # type: ignore[override]  # Heads come back to who made them.
        self, stream_id: int, head: ResponseBlock, body: bytes
    ) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        size = len(body)
        begin = _DATA.get(size)
        if (
            begin is None
            or stream.outgoing is not None
            or size > self._direct
            or size > self._initial_window + stream.send_credit
            or not head.prefix
            or stream.head.line.method == "HEAD"
        ):
            self._respond_otherwise(stream_id, stream, head, body)
            return
        # Head and content at once: there is a window for it, and nobody waits for it.
        name = stream_id.to_bytes(4, "big")
        self._out += (head.prefix, name, head.block, begin, name, body)
        self.has_output = True
        self._direct -= size
        self._window -= size
        if stream.remote_ended and not stream.unconsumed:
            del self._streams[stream_id]
            self.open_streams -= 1
        else:
            stream.send_credit -= size
            self._end_local(stream_id, stream)

    def _respond_otherwise(
        self, stream_id: int, stream: Stream, head: ResponseBlock, body: bytes
    ) -> None:
        size = len(body)
        if 0 < size <= LARGEST_DATA and size not in _DATA:
            _DATA[size] = (size << 8 | frames.DATA).to_bytes(4, "big") + bytes([frames.END_STREAM])
        outgoing = self._begin(stream_id, stream, head, ended=not body)
        if outgoing is not None:
            self._enqueue(outgoing, body, ended=True)

    def send_informational(self, stream_id: int, status: int, fields: Sequence[Pair]) -> None:
        block = self._responses.informational(status, fields)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.outgoing is None and not stream.local_ended:
            self._send_block(stream_id, block, 0)

    def send_head(  # type: ignore[override]  # As above.
        self, stream_id: int, head: ResponseBlock, *, ended: bool = False
    ) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._begin(stream_id, stream, head, ended=ended)

    def send_data(self, stream_id: int, data: bytes, *, ended: bool = False) -> bool:
        outgoing = self._open_outgoing(stream_id)
        return outgoing is None or self._enqueue(outgoing, data, ended=ended)

    def send_trailers(self, stream_id: int, fields: Sequence[Pair]) -> None:
        block = self._responses.trailers(fields)
        outgoing = self._open_outgoing(stream_id)
        if outgoing is not None:
            outgoing.trailers = block or None
            self._enqueue(outgoing, b"", ended=True)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        if stream_id in self._streams:
            self._forget(stream_id)
            self._send_reset(stream_id, code)
            self._settle()

    def ping(self) -> None:
        if not self.closed:
            self._pings += 1
            self._out.append(frames.frame(frames.PING, 0, 0, PING_PAYLOAD))
            self.has_output = True

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, *, final: bool) -> None:
        if self.closed:
            return
        last = self.last_stream_id if final else frames.GREATEST_ID
        self._out.append(frames.go_away(last, code))
        self.has_output = True
        if final:
            self._is_final = True
            self._is_plain = False

    def output(self, limit: int) -> bytes:
        out = self._out
        if self._scheduler.waiting:
            self._fill(limit)
        data = b"".join(out)
        out.clear()
        if self._scheduler.waiting or self._empty_table_due:
            self._settle()
        else:
            window = self._window
            self._direct = DIRECT_BYTES if window > DIRECT_BYTES else window
            self.has_output = False
        return data

    def _fill(self, limit: int) -> None:
        """Adds content until the output has `limit` bytes, as windows and priorities say."""
        out, scheduler = self._out, self._scheduler
        size = sum(map(len, out))
        while size < limit and self._window > 0 and scheduler.waiting:
            outgoing = scheduler.next()
            stream = outgoing.stream
            window = self._initial_window + stream.send_credit
            number = 1
            if scheduler.waiting == 1:  # nobody else's turn comes before the limit
                number += (limit - size - 1) // LARGEST_DATA
            part = min(outgoing.size, window, self._window, number * LARGEST_DATA)
            self._window -= part
            stream.send_credit -= part
            is_last = part == outgoing.size and outgoing.ended and outgoing.trailers is None
            self._updates.data_frames += 1 + part // LARGEST_DATA
            size += outgoing.take_frames(part, is_last, out)
            if not outgoing.size:
                scheduler.remove(outgoing)
                if outgoing.ended:
                    self._finish(outgoing, is_last)
            elif part == window:
                scheduler.block(outgoing)
            if outgoing.full and outgoing.size < self._limits.send_high_water:
                outgoing.full = False
                if not outgoing.ended:
                    self._pending.append(SendReady(outgoing.stream_id))

    def _begin(
        self, stream_id: int, stream: Stream, head: ResponseBlock, *, ended: bool
    ) -> Outgoing | None:
        """Sends the head. None when that is the whole response: nothing is queued behind it."""
        if stream.outgoing is not None or stream.local_ended:
            return None
        # RFC 9110 sections 9.3.2 and 6.4.1: the content is left out.
        ended = ended or not head.has_content or stream.head.line.method == "HEAD"
        self._send_block(stream_id, head.block, frames.END_STREAM if ended else 0)
        if ended:
            self._end_local(stream_id, stream)
            return None
        stream.outgoing = Outgoing(stream_id, stream)
        return stream.outgoing

    def _send_block(self, stream_id: int, block: bytes, flags: int) -> None:
        if self._empty_table_due:
            self._empty_table_due = False
            block = EMPTY_TABLE + block
        self._out += frames.header_block(stream_id, block, flags, self._frame_limit)
        self._settle()

    def _open_outgoing(self, stream_id: int) -> Outgoing | None:
        """The queue of a stream, where something may still be put in."""
        stream = self._streams.get(stream_id)
        outgoing = None if stream is None else stream.outgoing
        return None if outgoing is None or outgoing.ended else outgoing

    def _enqueue(self, outgoing: Outgoing, data: bytes, *, ended: bool) -> bool:
        """Whether there is still room behind it."""
        outgoing.ended = ended
        if data:
            outgoing.parts.append(data)
            outgoing.size += len(data)
            if self._initial_window + outgoing.stream.send_credit > 0:
                self._scheduler.add(outgoing)
            else:
                self._scheduler.blocked[outgoing.stream_id] = outgoing
        elif ended and not outgoing.size:
            self._finish(outgoing, False)
        self._settle()
        outgoing.full = outgoing.size >= self._limits.send_high_water
        return not outgoing.full

    def _finish(self, outgoing: Outgoing, is_ended: bool) -> None:
        """Nothing is queued any more: the end of the stream is sent, where no DATA frame has been
        able to say it."""
        if outgoing.trailers is not None:
            self._send_block(outgoing.stream_id, outgoing.trailers, frames.END_STREAM)
        elif not is_ended:
            self._out.append(_pack(0, frames.END_STREAM, outgoing.stream_id))
        self._end_local(outgoing.stream_id, outgoing.stream)

    def _end_local(self, stream_id: int, stream: Stream) -> None:
        stream.local_ended = True
        stream.outgoing = None
        if stream.remote_ended:
            self._forget(stream_id)
        self._settle()
