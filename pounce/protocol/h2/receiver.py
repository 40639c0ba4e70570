"""What the peer sends: frames to events (RFC 9113 sections 3 to 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pounce.protocol.h2 import frames
from pounce.protocol.h2.connection import REMEMBERED_GAPS, ConnectionFault
from pounce.protocol.h2.control_frames import PRIORITY_SIZE, ControlFrames, low_31_bits
from pounce.protocol.h2.frames import HEADER, HEADER_SIZE
from pounce.protocol.h2.header_blocks import BlockError
from pounce.protocol.h2.interface import (
    DataReceived,
    ErrorCode,
    Event,
    RequestReceived,
    RequestRefused,
)
from pounce.protocol.h2.request_head import MalformedHead, check_trailers
from pounce.protocol.h2.stream_states import RULES, Action
from pounce.protocol.h2.streams import Stream

_unpack = HEADER.unpack_from
_HEADERS: Final = frames.HEADERS
_PLAIN_FLAGS: Final = frames.END_HEADERS | frames.END_STREAM
_PLAIN_WITH_PRIORITY: Final = _PLAIN_FLAGS | frames.HAS_PRIORITY


class Receiver(ControlFrames):
    """The receiving half of a connection."""

    __slots__ = ()

    def receive(self, data: bytes, now: float) -> Sequence[Event]:
        events = self._pending
        if events:
            self._pending = []
        else:
            events = []
        if self.closed:
            return events
        self._now = now
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            at = self._read_frames(data, events)
            self._rest = data[at:] if at else data
        except ConnectionFault as fault:
            self._fail(fault, events)
        except BlockError as error:
            self._fail(ConnectionFault(error.code, str(error)), events)
        return events

    def _read_frames(self, data: bytes, events: list[Event]) -> int:
        """Reads the whole frames in `data`, in place.

        The common request is taken here: a known header block, the whole of a request without a
        body, on the next stream. All else is `_take`'s.

        Returns:
            Where the first one begins that is not complete.
        """
        if not self._greeted:
            return self._read_greeting(data, events)
        at, end = 0, len(data)
        known, streams, room = self._known_heads, self._streams, self._limits.concurrent_streams
        while at + HEADER_SIZE <= end:
            word, flags, stream_id = _unpack(data, at)
            begin = at + HEADER_SIZE
            at = begin + (word >> 8)
            if at > end:
                self._check_size(word >> 8)
                return begin - HEADER_SIZE
            if word & 0xFF == _HEADERS and stream_id == self._next_id and self._is_plain:
                head = None
                if flags == _PLAIN_FLAGS:
                    head = known.get(data[begin:at])
                elif (
                    flags == _PLAIN_WITH_PRIORITY
                    # A stream that depends on itself is an error; the rest is obsolete.
                    and data[begin + 2 : begin + 4] != data[begin - 2 : begin]
                ):
                    head = known.get(data[begin + PRIORITY_SIZE : at])
                if head is not None and head.content_length <= 0 and len(streams) < room:
                    stream = Stream()
                    stream.head = head
                    streams[stream_id] = stream
                    self.last_stream_id = stream_id
                    self._next_id = stream_id + 2
                    self.open_streams += 1
                    received = RequestReceived()
                    received.stream_id = stream_id
                    received.head = head
                    received.ended = True
                    events.append(received)
                    continue
            self._take(word, flags, stream_id & frames.GREATEST_ID, data[begin:at], events)
        return at

    def _read_greeting(self, data: bytes, events: list[Event]) -> int:
        """The preface, which ends with a SETTINGS frame (RFC 9113 section 3.4)."""
        size = len(frames.PREFACE)
        if not frames.PREFACE.startswith(data[:size]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < size + HEADER_SIZE:
            return 0
        word, flags, _ = _unpack(data, size)
        if word & 0xFF != frames.SETTINGS or flags & frames.ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._check_size(word >> 8)
        begin = size + HEADER_SIZE
        if len(data) < begin + (word >> 8):
            return 0
        # What could not be read of the preface again is read at once.
        self._greeted = self._is_plain = True
        return size + self._read_frames(data[size:], events)

    def _check_size(self, size: int) -> None:
        if size > self._limits.frame_size:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame too large")

    def _take(
        self, word: int, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        """Any frame but the common request."""
        self._check_size(word >> 8)
        kind = word & 0xFF
        if self._block_id and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        take = _TAKE.get(kind)
        if take is not None:
            take(self, flags, stream_id, payload, events)
        else:  # RFC 9113 section 5.5: unknown types are ignored
            self._count_control()

    # Content

    def _take_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA without a stream")
        size = len(payload)
        content = _without_padding(payload) if flags & frames.PADDED else payload
        ended = bool(flags & frames.END_STREAM)
        if not (content or ended) and self._empty_rate.exceeded(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many empty DATA frames")
        # RFC 9113 section 6.9: whatever becomes of it, it counts.
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is full")
        stream = self._admit(stream_id, frames.DATA, events)
        if stream is None:
            self._return_window(size)
            return
        stream.unconsumed += size
        stream.receive_credit -= size
        if self._receive_initial + stream.receive_credit < 0:
            self._break_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
            return
        if stream.left >= 0:
            stream.left -= len(content)
            if stream.left < 0 or (ended and stream.left):
                # RFC 9113 section 8.1.1: not what content-length says.
                self._break_stream(stream_id, ErrorCode.PROTOCOL_ERROR, events)
                return
        if size or ended:
            events.append(DataReceived(stream_id, content, size, ended))
        if ended:
            self._end_remote(stream_id, stream)

    def _end_remote(self, stream_id: int, stream: Stream) -> None:
        stream.remote_ended = True
        if stream.local_ended:
            self._forget(stream_id)

    # Header blocks

    def _take_headers(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on no stream of a client")
        state = self._state(stream_id)
        rule = RULES[state, frames.HEADERS]
        if rule.action is Action.FAIL:
            raise ConnectionFault(rule.code, f"HEADERS on a stream that is {state.name}")
        if flags & frames.PADDED:
            payload = _without_padding(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < PRIORITY_SIZE:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short")
            if low_31_bits(payload) == stream_id:
                flags |= _DEPENDS_ON_ITSELF
            payload = payload[PRIORITY_SIZE:]
        if flags & frames.END_HEADERS:
            self._take_block(flags, stream_id, payload, events)
            return
        self._block_id = stream_id
        self._block_flags = flags
        self._block_parts = [payload]
        self._is_plain = False

    def _take_continuation(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        if not self._block_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION continues nothing")
        parts = self._block_parts
        parts.append(payload)
        if len(parts) > self._limits.continuation_frames + 1:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
        if flags & frames.END_HEADERS:
            self._block_id = 0
            self._block_parts = []
            self._settle_plain()
            self._take_block(self._block_flags, stream_id, b"".join(parts), events)

    def _take_block(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        """A whole header block: a request or its trailers. It is decoded whatever becomes of it
        (RFC 9113 section 4.3), unless the connection ends."""
        if stream_id >= self._next_id:
            self._open(flags, stream_id, block, events)
            return
        pairs = self._blocks.fields(block)
        stream = self._admit(stream_id, frames.HEADERS, events)
        if stream is None:
            self._count_control()  # decoding costs time, and nobody sends many of these
            return
        try:
            # RFC 9113 section 8.1: what follows the content ends the stream; with CONNECT nothing
            # but content follows (section 8.5).
            if not flags & frames.END_STREAM or stream.head.line.method == "CONNECT":
                raise MalformedHead("a header block in the middle of a stream")
            check_trailers(pairs)
            if stream.left > 0 or flags & _DEPENDS_ON_ITSELF:
                raise MalformedHead("trailers before the content has ended")
        except MalformedHead:
            self._break_stream(stream_id, ErrorCode.PROTOCOL_ERROR, events)
            return
        events.append(DataReceived(stream_id, b"", 0, True))
        self._end_remote(stream_id, stream)

    def _open(self, flags: int, stream_id: int, block: bytes, events: list[Event]) -> None:
        """A new stream, on which a request begins."""
        if stream_id > self._next_id:
            self._skip_to(stream_id)
        self._next_id = stream_id + 2
        priority = self._early_priorities.pop(stream_id, None)
        self._settle_plain()
        ended = bool(flags & frames.END_STREAM)
        try:
            head, refusal = self._known_heads.get(block), None
            if head is None:
                head, refusal = self._blocks.head(block)
            if flags & _DEPENDS_ON_ITSELF:
                raise MalformedHead("the stream depends on itself")
            if ended and head.content_length > 0:
                raise MalformedHead("a content-length, but no content")
        except MalformedHead:
            self._break_stream(stream_id, ErrorCode.PROTOCOL_ERROR, events)
            return
        if self._is_final:
            self._send_reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if len(self._streams) >= self._limits.concurrent_streams:
            self._break_stream(stream_id, ErrorCode.REFUSED_STREAM, events)
            return
        stream = Stream()
        stream.head = head
        if not ended:
            stream.remote_ended = False
            stream.left = head.content_length
        if priority is not None:
            stream.priority = priority
        self._streams[stream_id] = stream
        self.open_streams += 1
        self.last_stream_id = stream_id
        if refusal is None:
            received = RequestReceived()
            received.stream_id, received.head, received.ended = stream_id, head, ended
            events.append(received)
        else:
            events.append(RequestRefused(stream_id, head, refusal.status, refusal.reason))

    def _skip_to(self, stream_id: int) -> None:
        """Idle streams below the one that is opened are closed (RFC 9113 section 5.1.1)."""
        gaps = self._gaps
        gaps.append((self._next_id, stream_id - 2))
        del gaps[:-REMEMBERED_GAPS]
        early = self._early_priorities
        for idle in [idle for idle in early if idle < stream_id]:
            del early[idle]


_DEPENDS_ON_ITSELF: Final = 0x100
"""Beside the flags of a HEADERS frame, which are eight bits."""


def _without_padding(payload: bytes) -> bytes:
    """RFC 9113 section 6.1."""
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its length")
    if payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]


_TAKE: Final[dict[int, Callable[[Receiver, int, int, bytes, list[Event]], None]]] = {
    frames.DATA: Receiver._take_data,
    frames.HEADERS: Receiver._take_headers,
    frames.PRIORITY: Receiver._take_priority,
    frames.RST_STREAM: Receiver._take_rst_stream,
    frames.SETTINGS: Receiver._take_settings,
    frames.PUSH_PROMISE: Receiver._take_push_promise,
    frames.PING: Receiver._take_ping,
    frames.GOAWAY: Receiver._take_go_away,
    frames.WINDOW_UPDATE: Receiver._take_window_update,
    frames.CONTINUATION: Receiver._take_continuation,
    frames.PRIORITY_UPDATE: Receiver._take_priority_update,
}
