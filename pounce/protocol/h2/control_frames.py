"""The frames about streams and the connection, which carry neither fields nor content (RFC 9113
section 6, RFC 9218 section 7)."""

from __future__ import annotations

from typing import Final

from pounce.protocol.h2 import frames
from pounce.protocol.h2.connection import Connection, ConnectionFault
from pounce.protocol.h2.interface import (
    ErrorCode,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    StreamReset,
)
from pounce.protocol.h2.priority import parse_priority
from pounce.protocol.h2.stream_states import RULES, Action, StreamState
from pounce.protocol.h2.streams import Stream

PING_PAYLOAD: Final = b"pounce\0\0"

PRIORITY_SIZE: Final = 5
"""Bytes of what RFC 7540 had to say of priorities."""


class ControlFrames(Connection):
    """What the peer says of windows, priorities, settings and ends."""

    __slots__ = ()

    def _count_control(self) -> None:
        if self._control_rate.exceeded(self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _admit(self, stream_id: int, kind: int, events: list[Event]) -> Stream | None:
        """The stream of a frame, None where that is not to be acted on (section 5.1)."""
        stream = self._streams.get(stream_id)
        state = self._state(stream_id) if stream is None else stream.state
        rule = RULES[state, kind]
        if rule.action is Action.ACCEPT:
            return stream
        if rule.action is Action.FAIL:
            raise ConnectionFault(rule.code, f"unexpected frame on a stream that is {state.name}")
        if rule.action is Action.RESET:
            self._break_stream(stream_id, rule.code, events)
        return None

    def _settle_plain(self) -> None:
        self._is_plain = not (self._block_id or self._is_final or self._early_priorities)

    # Priorities

    def _take_priority(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        """The priorities of RFC 7540 are obsolete; a frame must still be well-formed (6.3)."""
        self._count_control()
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(payload) != PRIORITY_SIZE:
            code = ErrorCode.FRAME_SIZE_ERROR
        elif low_31_bits(payload) == stream_id:
            code = ErrorCode.PROTOCOL_ERROR
        else:
            return
        state = self._state(stream_id)
        if state is StreamState.IDLE:  # which cannot be reset (section 6.4)
            raise ConnectionFault(code, "malformed PRIORITY")
        if stream_id in self._streams:
            self._break_stream(stream_id, code, events)

    def _take_priority_update(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        """RFC 9218 section 7.1."""
        self._count_control()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE on a stream")
        if len(payload) < 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY_UPDATE is too short")
        concerned = low_31_bits(payload)
        if not concerned or not concerned & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE of no request")
        stream = self._streams.get(concerned)
        if stream is not None:
            stream.priority = parse_priority(payload[4:])
            if stream.outgoing is not None:
                urgency, is_serial = stream.turn()
                self._scheduler.reprioritise(stream.outgoing, urgency, is_serial=is_serial)
        elif concerned >= self._next_id:
            early = self._early_priorities
            if len(early) < self._limits.concurrent_streams or concerned in early:
                early[concerned] = parse_priority(payload[4:])
                self._settle_plain()

    # The connection

    def _take_rst_stream(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM without a stream")
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not of 4 bytes")
        stream = self._admit(stream_id, frames.RST_STREAM, events)
        if stream is None:
            return
        self._forget(stream_id)
        self._note_reset(stream_id, StreamState.RESET_BY_PEER)
        self._settle()
        events.append(StreamReset(stream_id, int.from_bytes(payload, "big"), True))
        if not stream.local_ended:
            self._count_reset()

    def _take_settings(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        self._count_control()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if flags & frames.ACK:
            if self._settings_sent:
                self._settings_sent = False
                self._receive_initial = self._limits.stream_window
                self._blocks.settings_acknowledged()
            return
        for name, value in frames.read_settings(payload):
            self._apply_setting(name, value)
        if self._no_rfc7540_priorities < 0:
            self._no_rfc7540_priorities = 0
        self._out.append(frames.SETTINGS_ACK)
        self._settle()

    def _apply_setting(self, name: int, value: int) -> None:
        """RFC 9113 section 6.5.2. What is not named here says nothing to a server."""
        code = ErrorCode.PROTOCOL_ERROR
        if name == frames.HEADER_TABLE_SIZE:
            # RFC 7541 section 4.2: a smaller table is to be confirmed; none is always small enough.
            if value < frames.DEFAULT_TABLE_SIZE:
                self._empty_table_due = True
        elif name in (frames.ENABLE_PUSH, frames.ENABLE_CONNECT_PROTOCOL):
            if value > 1:
                raise ConnectionFault(code, "a setting is neither 0 nor 1")
        elif name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.GREATEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "initial window too large")
            self._change_initial_window(value)
        elif name == frames.MAX_FRAME_SIZE:
            if not frames.SMALLEST_FRAME_LIMIT <= value <= frames.GREATEST_FRAME_LIMIT:
                raise ConnectionFault(code, "frame size out of range")
            self._frame_limit = value
        elif name == frames.NO_RFC7540_PRIORITIES:
            # RFC 9218 section 2.1: the first SETTINGS decides.
            if value > 1 or self._no_rfc7540_priorities not in (-1, value):
                raise ConnectionFault(code, "SETTINGS_NO_RFC7540_PRIORITIES has changed")
            self._no_rfc7540_priorities = value

    def _change_initial_window(self, value: int) -> None:
        """RFC 9113 section 6.9.2: windows of streams may become negative."""
        self._initial_window = value
        for stream in self._streams.values():
            window = value + stream.send_credit
            if window > frames.GREATEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window overflows")
            outgoing = stream.outgoing
            if outgoing is None or not outgoing.size:
                continue
            if window <= 0:
                self._scheduler.block(outgoing)
            else:
                self._scheduler.add(outgoing)

    def _take_push_promise(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _take_ping(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._count_control()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not of 8 bytes")
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
            self.has_output = True
        elif payload == PING_PAYLOAD and self._pings:
            self._pings -= 1
            events.append(PingAcknowledged())

    def _take_go_away(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        self._count_control()
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        events.append(GoAwayReceived(int.from_bytes(payload[4:8], "big")))

    def _take_window_update(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not of 4 bytes")
        if self._updates.exceeded(self._next_id // 2):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many WINDOW_UPDATE frames")
        increment = low_31_bits(payload)
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self._window += increment
            if self._window > frames.GREATEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the window overflows")
            self._settle()
            return
        stream = self._admit(stream_id, frames.WINDOW_UPDATE, events)
        if stream is None:
            return
        if not increment:
            self._break_stream(stream_id, ErrorCode.PROTOCOL_ERROR, events)
            return
        stream.send_credit += increment
        window = self._initial_window + stream.send_credit
        if window > frames.GREATEST_WINDOW:
            self._break_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR, events)
        elif stream.outgoing is not None and stream.outgoing.size and window > 0:
            self._scheduler.add(stream.outgoing)
            self._settle()


def low_31_bits(payload: bytes) -> int:
    """The 31 bits at the beginning of a payload."""
    return int.from_bytes(payload[:4], "big") & frames.GREATEST_ID
