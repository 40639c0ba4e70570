"""The engine on the `h2` library, which does frames, HPACK, stream states and windows.

It is slower than the native engine by a factor, and serves as the second opinion. What the library
leaves to its users is done here: limits, the checks of heads, who is sent to first, a GOAWAY that
does not end what is in progress. It is given one frame at a time, so that the events before a
broken frame are not lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from h2 import events as library
from h2.exceptions import ProtocolError, StreamClosedError
from hyperframe.frame import GoAwayFrame

from pounce.protocol.h1_head import Pair
from pounce.protocol.h1_response import BODILESS
from pounce.protocol.h2.interface import (
    ConnectionFailed,
    DataReceived,
    Engine,
    Engines,
    ErrorCode,
    Event,
    GoAwayReceived,
    H2Limits,
    PingAcknowledged,
    PreparedHead,
    RequestHead,
    RequestReceived,
    RequestRefused,
    SendReady,
    StreamReset,
)
from pounce.protocol.h2.library_connection import GREATEST_STREAM_ID, greet
from pounce.protocol.h2.library_hpack import with_secrets
from pounce.protocol.h2.priority import parse_priority
from pounce.protocol.h2.rates import EventRate, UpdateBudget
from pounce.protocol.h2.request_head import (
    MalformedHead,
    Refusal,
    check_trailers,
    read_request_head,
)
from pounce.protocol.h2.response_fields import DefaultFields, plain_fields
from pounce.protocol.h2.send_queue import SendScheduler, StreamQueue

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION, _PRIORITY_UPDATE = 6, 7, 8, 9, 16
_KNOWN: Final = frozenset(range(10))
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8


KNOWN_HEADS: Final = 32
"""How many heads of requests a connection remembers, and a worker of responses."""

KNOWN_HEAD_SIZE: Final = 2048
"""Bytes of one that it does."""


class _Head(PreparedHead):
    """A field section."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[Pair], *, has_content: bool, content_length: int) -> None:
        PreparedHead.__init__(self, has_content=has_content, content_length=content_length)
        self.pairs = pairs


class _Heads(DefaultFields):
    """Makes them, for all connections of a worker."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        DefaultFields.__init__(self)
        self._known: dict[tuple[object, ...], _Head] = {}
        """By (status, *fields), with the default fields of now."""

    def set(self, date: bytes | None, server: bytes | None, extra: Sequence[Pair]) -> None:
        DefaultFields.set(self, date, server, extra)
        self._known.clear()

    def prepare(self, status: int, fields: Sequence[Pair]) -> _Head:
        """See `Engine.prepare`."""
        key = (status, *fields)
        try:
            head = self._known.get(key)
        except TypeError:  # fields given as lists, or of another type than bytes
            return self._make(status, fields)
        if head is None:
            head = self._make(status, fields)
            if _size(head.pairs) <= KNOWN_HEAD_SIZE:
                if len(self._known) >= KNOWN_HEADS:
                    self._known.clear()
                self._known[key] = head
        return head

    def _make(self, status: int, fields: Sequence[Pair]) -> _Head:
        pairs, length = self.complete(status, fields)
        return _Head(with_secrets(pairs), has_content=status not in BODILESS, content_length=length)


class LibraryEngines(Engines):
    """Makes engines on the `h2` library."""

    def __init__(self, limits: H2Limits) -> None:
        self.limits = limits
        self.heads = _Heads()

    def connect(self) -> LibraryEngine:
        return LibraryEngine(self.limits, self.heads)

    def set_default_fields(
        self, date: bytes | None, server: bytes | None, extra: Sequence[Pair]
    ) -> None:
        self.heads.set(date, server, extra)


class _Stream:
    """What the engine knows of a stream that is not closed."""

    __slots__ = ("is_full", "left", "local_ended", "queue", "remote_ended", "unconsumed")

    def __init__(self, head: RequestHead, *, ended: bool) -> None:
        self.queue = StreamQueue(head.urgency, incremental=head.incremental)
        self.left = head.content_length
        """Bytes of content still to come, -1 where nobody has said how many."""
        self.unconsumed = 0
        self.remote_ended = ended
        self.local_ended = False
        self.is_full = False


class LibraryEngine(Engine):
    """One connection."""

    __slots__ = (
        "_block_frames",
        "_buffer",
        "_control_rate",
        "_empty_rate",
        "_greeted",
        "_h2",
        "_highest_allowed",
        "_known_heads",
        "_limits",
        "_now",
        "_out",
        "_ready",
        "_reset_rate",
        "_scheduler",
        "_streams",
        "_updates",
        "closed",
        "has_output",
        "last_stream_id",
        "open_streams",
        "prepare",
    )

    def __init__(self, limits: H2Limits, heads: _Heads) -> None:
        self._limits = limits
        self.prepare = heads.prepare
        self._h2 = greet(limits)
        self._known_heads: dict[tuple[Any, ...], tuple[RequestHead, Refusal | None]] = {}
        self._out = bytearray()
        self._buffer = bytearray()
        self._greeted = 0
        """0: the preface is to come; 1: SETTINGS; 2: anything."""
        self._block_frames = 0
        """Frames of a header block that has not ended."""
        self._streams: dict[int, _Stream] = {}
        self._scheduler = SendScheduler()
        self._ready: list[Event] = []
        self._highest_allowed = GREATEST_STREAM_ID
        self._now = 0.0
        self._control_rate = EventRate(limits.control_frames, limits.rate_window)
        self._empty_rate = EventRate(limits.empty_frames, limits.rate_window)
        self._reset_rate = EventRate(limits.resets, limits.rate_window)
        self._updates = UpdateBudget(limits.control_frames)
        self.last_stream_id = 0
        self.open_streams = 0
        self.closed = False
        self.has_output = False
        self._settle()

    # Receiving

    def receive(self, data: bytes, now: float) -> Sequence[Event]:
        events, self._ready = self._ready, []
        if self.closed:
            return events
        self._now = now
        self._buffer += data
        if self._greeted or self._take_preface(events):
            while not self.closed:
                frame = self._next_frame(events)
                if frame is None:
                    break
                self._receive_frame(frame, events)
        self._settle()
        return events

    def _take_preface(self, events: list[Event]) -> bool:
        begin = bytes(self._buffer[: len(PREFACE)])
        if not PREFACE.startswith(begin):
            self._fail(events, ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
            return False
        if len(begin) < len(PREFACE):
            return False
        self._h2.receive_data(begin)
        del self._buffer[: len(PREFACE)]
        self._greeted = 1
        return True

    def _next_frame(self, events: list[Event]) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 9:
            return None
        length = int.from_bytes(buffer[:3], "big")
        if length > self._limits.frame_size:
            self._fail(events, ErrorCode.FRAME_SIZE_ERROR, "frame too large")
            return None
        if len(buffer) < 9 + length:
            return None
        frame = bytes(buffer[: 9 + length])
        del buffer[: 9 + length]
        return frame

    def _receive_frame(self, frame: bytes, events: list[Event]) -> None:
        kind, flags = frame[3], frame[4]
        stream_id = int.from_bytes(frame[5:9], "big") & GREATEST_STREAM_ID
        if self._greeted == 1:
            if kind != _SETTINGS or flags & _ACK:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                return
            self._greeted = 2
        if self._block_frames and kind != _CONTINUATION:
            self._fail(events, ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
            return
        if not self._count(kind, flags, frame, events):
            return
        if kind == _GOAWAY:
            self._receive_go_away(frame, stream_id, events)
        elif kind == _PRIORITY_UPDATE:
            self._receive_priority_update(frame, stream_id, events)
        elif kind in _KNOWN:
            if kind == _RST_STREAM and stream_id > self._h2.highest_inbound_stream_id:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "RST_STREAM for an idle stream")
                return
            self._hand_on(frame, events)

    def _count(self, kind: int, flags: int, frame: bytes, events: list[Event]) -> bool:
        """Whether the peer may send such a frame so often."""
        calm = ErrorCode.ENHANCE_YOUR_CALM
        if kind in (_HEADERS, _CONTINUATION):
            self._block_frames = 0 if flags & _END_HEADERS else self._block_frames + 1
            if self._block_frames > self._limits.continuation_frames:
                self._fail(events, calm, "too many CONTINUATION frames")
        elif kind == _DATA:
            padding = 1 + frame[9] if flags & _PADDED and len(frame) > 9 else 0
            is_empty = len(frame) - 9 <= padding and not flags & _END_STREAM
            if is_empty and self._empty_rate.exceeded(self._now):
                self._fail(events, calm, "too many empty DATA frames")
        elif kind == _WINDOW_UPDATE:
            if self._updates.exceeded((self.last_stream_id + 1) // 2):
                self._fail(events, calm, "too many WINDOW_UPDATE frames")
        elif kind in (_PING, _SETTINGS, _PRIORITY, _PRIORITY_UPDATE) or kind not in _KNOWN:
            is_answer = kind in (_PING, _SETTINGS) and flags & _ACK
            if not is_answer and self._control_rate.exceeded(self._now):
                self._fail(events, calm, "too many control frames")
        return not self.closed

    def _hand_on(self, frame: bytes, events: list[Event]) -> None:
        """Has the library read a frame."""
        try:
            heard = self._h2.receive_data(frame)
        except ProtocolError as exc:
            self._flush()
            self._lose(events, ErrorCode(int(exc.error_code)), str(exc) or type(exc).__name__)
            return
        for event in heard:
            if self.closed:
                break
            if isinstance(event, library.RequestReceived):
                self._request(event, events)
            elif isinstance(event, library.DataReceived):
                self._data(event, events)
            elif isinstance(event, library.TrailersReceived):
                self._trailers(event, events)
            elif isinstance(event, library.StreamReset):
                self._was_reset(event, events)
            elif isinstance(event, library.PingAckReceived):
                events.append(PingAcknowledged())

    def _request(self, event: library.RequestReceived, events: list[Event]) -> None:
        stream_id = event.stream_id
        assert stream_id is not None
        if stream_id > self._highest_allowed:
            self._reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if self.open_streams >= self._limits.concurrent_streams:
            self._provoked(stream_id, ErrorCode.REFUSED_STREAM, events)
            return
        ended = event.stream_ended is not None
        try:
            head, refusal = self._read_head(tuple(event.headers or ()))
            if ended and head.content_length > 0:
                raise MalformedHead("a content-length, but no content")
        except MalformedHead:
            self._provoked(stream_id, ErrorCode.PROTOCOL_ERROR, events)
            return
        self._streams[stream_id] = _Stream(head, ended=ended)
        self.open_streams += 1
        self.last_stream_id = stream_id
        if refusal is None:
            received = RequestReceived()
            received.stream_id, received.head, received.ended = stream_id, head, ended
            events.append(received)
        else:
            events.append(RequestRefused(stream_id, head, refusal.status, refusal.reason))

    def _read_head(self, headers: tuple[Any, ...]) -> tuple[RequestHead, Refusal | None]:
        """What a field section asks for; the same ones come again and again."""
        known = self._known_heads.get(headers)
        if known is not None:
            return known
        pairs = [(bytes(name), bytes(value)) for name, value in headers]
        read = read_request_head(pairs, self._limits)
        if _size(pairs) <= KNOWN_HEAD_SIZE:
            if len(self._known_heads) >= KNOWN_HEADS:
                self._known_heads.clear()
            self._known_heads[headers] = read
        return read

    def _data(self, event: library.DataReceived, events: list[Event]) -> None:
        stream_id, data, size = event.stream_id, event.data, event.flow_controlled_length
        assert stream_id is not None
        assert data is not None
        assert size is not None
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_ended:
            self._h2.acknowledge_received_data(size, stream_id)
            return
        stream.unconsumed += size
        ended = event.stream_ended is not None
        if stream.left >= 0:
            stream.left -= len(data)
            if stream.left < 0 or (ended and stream.left):
                self._break_stream(stream_id, events)
                return
        events.append(DataReceived(stream_id, data, size, ended))
        if ended:
            self._remote_ended(stream_id, stream)

    def _trailers(self, event: library.TrailersReceived, events: list[Event]) -> None:
        stream_id = event.stream_id
        assert stream_id is not None
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        pairs: Any = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
        try:
            check_trailers(pairs)
            if stream.left > 0:
                raise MalformedHead("less content than content-length says")
        except MalformedHead:
            self._break_stream(stream_id, events)
            return
        events.append(DataReceived(stream_id, b"", 0, True))
        self._remote_ended(stream_id, stream)

    def _was_reset(self, event: library.StreamReset, events: list[Event]) -> None:
        stream_id = event.stream_id
        assert stream_id is not None
        if stream_id in self._streams:
            self._drop(stream_id)
            code = int(event.error_code or 0)
            events.append(StreamReset(stream_id, code, bool(event.remote_reset)))
            if self._reset_rate.exceeded(self._now):
                self._fail(events, ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _receive_go_away(self, frame: bytes, stream_id: int, events: list[Event]) -> None:
        # The library would take it for the end of the connection.
        if len(frame) < 9 + 8:
            self._fail(events, ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        elif stream_id:
            self._fail(events, ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        else:
            events.append(GoAwayReceived(int.from_bytes(frame[13:17], "big")))

    def _receive_priority_update(self, frame: bytes, stream_id: int, events: list[Event]) -> None:
        """RFC 9218 section 7.1. What is said of streams to come is not remembered."""
        if len(frame) < 9 + 4:
            self._fail(events, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY_UPDATE is too short")
            return
        concerned = int.from_bytes(frame[9:13], "big") & GREATEST_STREAM_ID
        if stream_id or not concerned:
            self._fail(events, ErrorCode.PROTOCOL_ERROR, "misplaced PRIORITY_UPDATE")
            return
        stream = self._streams.get(concerned)
        if stream is not None:
            urgency, incremental = parse_priority(frame[13:])
            self._scheduler.reprioritise(concerned, stream.queue, urgency, incremental=incremental)

    # Errors of the peer

    def _fail(self, events: list[Event], code: ErrorCode, reason: str) -> None:
        """Ends the connection."""
        self._write_go_away(code, self._h2.highest_inbound_stream_id)
        self._lose(events, code, reason)

    def _lose(self, events: list[Event], code: ErrorCode, reason: str) -> None:
        self.closed = True
        self._streams.clear()
        self._scheduler = SendScheduler()
        self.open_streams = 0
        events.append(ConnectionFailed(code, reason))

    def _provoked(self, stream_id: int, code: ErrorCode, events: list[Event]) -> None:
        """Resets a stream that the peer should not have opened so."""
        self._reset(stream_id, code)
        if self._reset_rate.exceeded(self._now):
            self._fail(events, ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _break_stream(self, stream_id: int, events: list[Event]) -> None:
        """Resets a stream whose content is malformed (RFC 9113 section 8.1.1)."""
        self._drop(stream_id)
        events.append(StreamReset(stream_id, ErrorCode.PROTOCOL_ERROR, False))
        self._provoked(stream_id, ErrorCode.PROTOCOL_ERROR, events)

    # Streams

    def _drop(self, stream_id: int) -> None:
        """Forgets a stream; what was received of it no longer fills the connection's window."""
        stream = self._streams.pop(stream_id)
        self._scheduler.remove(stream_id, stream.queue)
        self.open_streams -= 1
        if stream.unconsumed:
            self._h2.acknowledge_received_data(stream.unconsumed, stream_id)

    def _remote_ended(self, stream_id: int, stream: _Stream) -> None:
        stream.remote_ended = True
        if stream.local_ended:
            self._drop(stream_id)

    def _local_ended(self, stream_id: int, stream: _Stream) -> None:
        stream.local_ended = True
        if stream.remote_ended:
            self._drop(stream_id)

    def _reset(self, stream_id: int, code: ErrorCode) -> None:
        with contextlib.suppress(StreamClosedError):  # both sides have ended it
            self._h2.reset_stream(stream_id, int(code))

    # Sending

    def output(self, limit: int) -> bytes:
        self._flush()
        while len(self._out) < limit and not self.closed:
            turn = self._scheduler.next(self._window)
            if turn is None:
                break
            self._send_next(*turn)
            self._flush()
        data = bytes(self._out)
        self._out.clear()
        self._settle()
        return data

    def _window(self, stream_id: int) -> int:
        return self._h2.local_flow_control_window(stream_id)

    def _send_next(self, stream_id: int, queue: StreamQueue) -> None:
        """Sends a frame, or what ends the stream."""
        stream = self._streams[stream_id]
        size = min(queue.size, self._window(stream_id), self._h2.max_outbound_frame_size)
        data = queue.take(size) if size > 0 else b""
        self._updates.data_frames += 1
        over = queue.ended and not queue.size
        if queue.trailers is None:
            self._h2.send_data(stream_id, data, end_stream=over)
        else:
            if data:
                self._h2.send_data(stream_id, data)
            if over:
                self._h2.send_headers(stream_id, queue.trailers, end_stream=True)
        if over or queue.is_empty:
            self._scheduler.remove(stream_id, queue)
        else:
            self._scheduler.yield_turn(stream_id, queue)
        if stream.is_full and queue.size < self._limits.send_high_water:
            stream.is_full = False
            if not queue.ended:
                self._ready.append(SendReady(stream_id))
        if over:
            self._local_ended(stream_id, stream)

    def send_response(  # type: ignore[override]  # Heads come back to who made them.
        self, stream_id: int, head: _Head, body: bytes
    ) -> None:
        stream = self._writable(stream_id)
        if stream is None:
            return
        self._h2.send_headers(stream_id, head.pairs, end_stream=not body)
        if body:
            self._put(stream_id, stream, body, ended=True)
        else:
            self._local_ended(stream_id, stream)
        self._settle()

    def send_informational(self, stream_id: int, status: int, fields: Sequence[Pair]) -> None:
        if not 100 < status < 200 and status != 100:
            raise ValueError(f"{status!r} is not an informational status code")
        pairs = [(b":status", b"%d" % status), *with_secrets(plain_fields(fields))]
        if self._writable(stream_id) is not None:
            self._h2.send_headers(stream_id, pairs)
            self._settle()

    def send_head(  # type: ignore[override]
        self, stream_id: int, head: _Head, *, ended: bool = False
    ) -> None:
        stream = self._writable(stream_id)
        if stream is None:
            return
        self._h2.send_headers(stream_id, head.pairs, end_stream=ended)
        if ended:
            self._local_ended(stream_id, stream)
        self._settle()

    def send_data(self, stream_id: int, data: bytes, *, ended: bool = False) -> bool:
        stream = self._writable(stream_id)
        if stream is None:
            return True
        self._put(stream_id, stream, data, ended=ended)
        stream.is_full = stream.queue.size >= self._limits.send_high_water
        self._settle()
        return not stream.is_full

    def send_trailers(self, stream_id: int, fields: Sequence[Pair]) -> None:
        pairs = with_secrets(plain_fields(fields))
        stream = self._writable(stream_id)
        if stream is None:
            return
        stream.queue.trailers = pairs or None
        self._put(stream_id, stream, b"", ended=True)
        self._settle()

    def _put(self, stream_id: int, stream: _Stream, data: bytes, *, ended: bool) -> None:
        stream.queue.put(data, ended=ended)
        self._scheduler.add(stream_id, stream.queue)

    def _writable(self, stream_id: int) -> _Stream | None:
        """The stream, where the server may still send on it."""
        stream = self._streams.get(stream_id)
        return None if stream is None or stream.local_ended or stream.queue.ended else stream

    def consumed(self, stream_id: int, size: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and size:
            stream.unconsumed -= size
            self._h2.acknowledge_received_data(size, stream_id)
            self._settle()

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        if stream_id in self._streams:
            self._drop(stream_id)
            self._reset(stream_id, code)
            self._settle()

    def ping(self) -> None:
        if not self.closed:
            self._h2.ping(b"pounce\0\0")
            self._settle()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, *, final: bool) -> None:
        if self.closed:
            return
        if final:
            self._highest_allowed = self.last_stream_id
        self._write_go_away(code, self.last_stream_id if final else GREATEST_STREAM_ID)
        self._settle()

    def _write_go_away(self, code: ErrorCode, last_stream_id: int) -> None:
        # The library would send nothing behind it.
        self._flush()
        self._out += GoAwayFrame(last_stream_id=last_stream_id, error_code=int(code)).serialize()

    def _flush(self) -> None:
        """Takes what the library has to send."""
        self._out += self._h2.data_to_send()

    def _settle(self) -> None:
        self._flush()
        self.has_output = bool(self._out) or (
            not self.closed and self._scheduler.next(self._window) is not None
        )

    # Looking

    def priority_of(self, stream_id: int) -> tuple[int, bool]:
        stream = self._streams.get(stream_id)
        if stream is None:
            return 3, False
        return stream.queue.urgency, stream.queue.incremental

    def queued(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.queue.size

    def unsent(self) -> list[int]:
        return [stream_id for stream_id, each in self._streams.items() if each.queue.size]

    def is_blocked(self) -> bool:
        return bool(self._scheduler) and not self.has_output


def _size(pairs: Sequence[Pair]) -> int:
    return sum(len(name) + len(value) for name, value in pairs)
