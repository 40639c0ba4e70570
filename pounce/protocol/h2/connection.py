"""The state of an HTTP/2 connection, and what both directions do with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pounce.protocol.h1_head import Pair
from pounce.protocol.h2 import frames
from pounce.protocol.h2.header_blocks import HeaderBlocks
from pounce.protocol.h2.interface import (
    ConnectionFailed,
    Engine,
    ErrorCode,
    Event,
    H2Limits,
    StreamReset,
)
from pounce.protocol.h2.rates import EventRate, UpdateBudget
from pounce.protocol.h2.response_blocks import ResponseBlock, ResponseBlocks
from pounce.protocol.h2.send_scheduler import SendScheduler
from pounce.protocol.h2.stream_states import StreamState
from pounce.protocol.h2.streams import Stream

REMEMBERED_RESETS: Final = 1024
"""Streams that were reset whose ids are known. Of one reset earlier, frames of the peer cannot be
under way any more, unless it opens a thousand streams in a round trip."""

REMEMBERED_GAPS: Final = 64
"""Ranges of ids that the peer has skipped."""

DIRECT_BYTES: Final = 65536
"""Content that leaves in the order of the responses, without the scheduler, in one write."""


class ConnectionFault(Exception):
    """The peer broke a rule of the connection (RFC 9113 section 5.4.1)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Connection(Engine):
    """What receiving and sending share."""

    __slots__ = (
        "_block_flags",
        "_block_id",
        "_block_parts",
        "_blocks",
        "_bound",
        "_control_rate",
        "_direct",
        "_early_priorities",
        "_empty_rate",
        "_empty_table_due",
        "_frame_limit",
        "_gaps",
        "_greeted",
        "_initial_window",
        "_is_final",
        "_is_plain",
        "_known_heads",
        "_limits",
        "_next_id",
        "_no_rfc7540_priorities",
        "_now",
        "_out",
        "_pending",
        "_pings",
        "_receive_initial",
        "_receive_window",
        "_reset_rate",
        "_resets",
        "_responses",
        "_rest",
        "_scheduler",
        "_settings_sent",
        "_streams",
        "_unreturned",
        "_updates",
        "_window",
        "closed",
        "has_output",
        "last_stream_id",
        "open_streams",
        "prepare",
    )

    prepare: Callable[[int, Sequence[Pair]], ResponseBlock]

    def __init__(self, limits: H2Limits, responses: ResponseBlocks) -> None:
        self.last_stream_id = 0
        self.open_streams = 0
        self.closed = False
        self.has_output = True
        self._limits = limits
        self._responses = responses
        self.prepare = responses.prepare
        self._streams: dict[int, Stream] = {}
        self._next_id = 1
        """The lowest id that is idle."""
        self._gaps: list[tuple[int, int]] = []
        self._resets: dict[int, StreamState] = {}
        self._pending: list[Event] = []
        """Events that come of sending."""
        self._now = 0.0
        self._control_rate = EventRate(limits.control_frames, limits.rate_window)
        self._empty_rate = EventRate(limits.empty_frames, limits.rate_window)
        self._reset_rate = EventRate(limits.resets, limits.rate_window)
        self._updates = UpdateBudget(limits.control_frames)
        self._pings = 0
        """How many of ours are under way."""
        self._is_final = False
        """Whether a GOAWAY has said that no further stream is served."""
        # Receiving.
        self._rest = b""
        """What has arrived of a frame that is not complete."""
        self._greeted = False
        """Whether the peer's SETTINGS have arrived."""
        self._is_plain = False
        """Whether a known block on the next stream is a request, with nothing else to ask."""
        self._blocks = HeaderBlocks(limits)
        self._known_heads = self._blocks.known
        self._block_id = 0
        """The stream whose header block has not ended."""
        self._block_flags = 0
        self._block_parts: list[bytes] = []
        self._early_priorities: dict[int, tuple[int, bool]] = {}
        """For streams that are not open yet (RFC 9218 section 7.1)."""
        self._no_rfc7540_priorities = -1
        """What the peer's first SETTINGS said of them, -1 before."""
        # A peer may use the initial values until it has acknowledged ours.
        self._settings_sent = True
        self._receive_initial = max(limits.stream_window, frames.DEFAULT_WINDOW)
        self._receive_window = max(limits.connection_window, frames.DEFAULT_WINDOW)
        self._unreturned = 0
        # Sending.
        self._initial_window = frames.DEFAULT_WINDOW
        self._window = frames.DEFAULT_WINDOW
        self._frame_limit = frames.SMALLEST_FRAME_LIMIT
        self._empty_table_due = False
        """Whether the next block must say that our dynamic table is empty."""
        self._scheduler = SendScheduler()
        self._out: list[bytes | memoryview] = [self._greeting()]
        """What leaves with the next output, whatever the windows are then."""
        self._direct = min(self._window, DIRECT_BYTES)
        """Content that may go into `_out` right away; 0 while others wait for their turn."""

    def _greeting(self) -> bytes:
        """Our SETTINGS, and the window of the connection, which they cannot set."""
        limits = self._limits
        values = [
            (frames.MAX_CONCURRENT_STREAMS, limits.concurrent_streams),
            (frames.INITIAL_WINDOW_SIZE, limits.stream_window),
            (frames.MAX_HEADER_LIST_SIZE, limits.header_list_size),
            (frames.NO_RFC7540_PRIORITIES, 1),
        ]
        if limits.header_table_size != frames.DEFAULT_TABLE_SIZE:
            values.append((frames.HEADER_TABLE_SIZE, limits.header_table_size))
        if limits.frame_size != frames.SMALLEST_FRAME_LIMIT:
            values.append((frames.MAX_FRAME_SIZE, limits.frame_size))
        if limits.extended_connect:
            values.append((frames.ENABLE_CONNECT_PROTOCOL, 1))
        greeting = frames.settings(values)
        increment = self._receive_window - frames.DEFAULT_WINDOW
        return greeting + frames.window_update(0, increment) if increment else greeting

    # Streams

    def _state(self, stream_id: int) -> StreamState:
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream.state
        # We open none, so all even ones are idle for ever.
        if stream_id >= self._next_id or not stream_id & 1:
            return StreamState.IDLE
        state = self._resets.get(stream_id)
        if state is not None:
            return state
        if any(first <= stream_id <= last for first, last in self._gaps):
            return StreamState.SKIPPED
        return StreamState.CLOSED

    def _forget(self, stream_id: int) -> None:
        """A stream is closed. What was received on it no longer fills the connection's window."""
        stream = self._streams.pop(stream_id)
        self.open_streams -= 1
        if stream.outgoing is not None:
            self._scheduler.remove(stream.outgoing)
            stream.outgoing = None
        if stream.unconsumed:
            self._return_window(stream.unconsumed)

    def _note_reset(self, stream_id: int, state: StreamState) -> None:
        if len(self._resets) >= REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]
        self._resets[stream_id] = state

    def _send_reset(self, stream_id: int, code: ErrorCode) -> None:
        """RST_STREAM for a stream that is forgotten, or was never the server's."""
        self._note_reset(stream_id, StreamState.RESET_BY_US)
        self._out.append(frames.rst_stream(stream_id, code))
        self.has_output = True

    def _break_stream(self, stream_id: int, code: ErrorCode, events: list[Event]) -> None:
        """The peer broke a rule of a stream (RFC 9113 section 5.4.2)."""
        if stream_id in self._streams:
            self._forget(stream_id)
            events.append(StreamReset(stream_id, code, False))
        self._send_reset(stream_id, code)
        self._count_reset()

    def _count_reset(self) -> None:
        if self._reset_rate.exceeded(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _fail(self, fault: ConnectionFault, events: list[Event]) -> None:
        """Ends the connection."""
        reason = str(fault)
        self._out.append(frames.go_away(self.last_stream_id, fault.code, reason.encode("utf-8")))
        self.closed = True
        self.has_output = True
        self._is_plain = False
        for stream in self._streams.values():
            stream.outgoing = None
        self._streams.clear()
        self._scheduler = SendScheduler()
        self.open_streams = 0
        self._rest = b""
        self._block_parts.clear()
        events.append(ConnectionFailed(fault.code, reason))

    # Windows

    def _return_window(self, size: int) -> None:
        """So much of the connection's receive window is free again."""
        self._unreturned += size
        if self._unreturned * 2 >= self._limits.connection_window:
            self._out.append(frames.window_update(0, self._unreturned))
            self._receive_window += self._unreturned
            self._unreturned = 0
            self.has_output = True

    def consumed(self, stream_id: int, size: int) -> None:
        stream = self._streams.get(stream_id)
        size = 0 if stream is None else min(size, stream.unconsumed)
        if stream is None or size <= 0:
            return
        stream.unconsumed -= size
        self._return_window(size)
        if stream.remote_ended:
            return
        stream.unreturned += size
        if stream.unreturned * 2 >= self._limits.stream_window:
            self._out.append(frames.window_update(stream_id, stream.unreturned))
            stream.receive_credit += stream.unreturned
            stream.unreturned = 0
            self.has_output = True

    def _settle(self) -> None:
        """After windows, queues or the output have changed."""
        if self._scheduler.waiting:
            self._direct = 0
            self.has_output = bool(self._out) or self._window > 0
        else:
            most = self._direct if self._out else DIRECT_BYTES
            self._direct = 0 if self._empty_table_due else min(self._window, most)
            self.has_output = bool(self._out)

    # Looking

    def priority_of(self, stream_id: int) -> tuple[int, bool]:
        stream = self._streams.get(stream_id)
        if stream is None:
            return 3, False
        return stream.priority or (stream.head.urgency, stream.head.incremental)

    def queued(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.outgoing is None else stream.outgoing.size

    def unsent(self) -> list[int]:
        return [stream_id for stream_id in self._streams if self.queued(stream_id)]

    def is_blocked(self) -> bool:
        scheduler = self._scheduler
        return bool(scheduler.waiting or scheduler.blocked) and not self.has_output

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} streams={self.open_streams} last={self.last_stream_id}"
            f" window={self._window} waiting={self._scheduler.waiting}"
            f" blocked={len(self._scheduler.blocked)}{' closed' if self.closed else ''}>"
        )
