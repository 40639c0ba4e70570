"""Bytes from a client to messages (RFC 6455 sections 5 and 8.1).

A frame is either complete in what was read, which small ones are, and then taken in place; or its
payload is taken as it arrives. So invalid text fails before the message is complete, a message that
inflates to too much does at once, and nothing is copied twice.
"""

from __future__ import annotations

import codecs
import sys
import zlib
from collections import deque
from typing import Any, Final

from pounce.protocol.ws.deflate import Inflater, MessageTooBig
from pounce.protocol.ws.frames import (
    CLOSE,
    CONTINUATION,
    FIN,
    INVALID_DATA,
    MASKED,
    MAX_CONTROL,
    NO_CODE,
    PING,
    PONG,
    PROTOCOL_ERROR,
    RSV1,
    TEXT,
    TOO_BIG,
    Close,
    Control,
    Failure,
    Ping,
    Pong,
    is_close_code,
)
from pounce.protocol.ws.masking import apply_mask

_RESERVED: Final = 0x30
_DATA: Final = frozenset({0x0, 0x1, 0x2})
_CONTROLS: Final = frozenset({CLOSE, PING, PONG})
_VIEWED: Final = 4096
"""Larger payloads are unmasked without a copy; for smaller ones a view costs more than that."""
_BUDGET: Final = 1 << 20
"""Bytes that what is read at once may inflate to before the rest has to wait."""
_MANY: Final = 512
_decoder: Final = codecs.getincrementaldecoder("utf-8")


class _Failed(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.failure = Failure(code, reason)


class MessageReader:
    """Reads one connection.

    Args:
        max_size: Bytes that a message may have, after inflation.
        max_frame: Bytes that the payload of a frame may have; 0 for as many as a message.
        max_queue: Messages that may wait in `messages` before what follows has to.
        inflater: Where permessage-deflate was agreed on.
    """

    __slots__ = (
        "_at",
        "_chunks",
        "_compressed",
        "_data",
        "_decode",
        "_fin",
        "_inflated",
        "_inflater",
        "_left",
        "_mask",
        "_max_frame",
        "_max_queue",
        "_max_size",
        "_opcode",
        "_parts",
        "_short",
        "_size",
        "ended",
        "has_more",
        "messages",
    )

    def __init__(
        self,
        max_size: int,
        *,
        max_frame: int = 0,
        max_queue: int = 32,
        inflater: Inflater | None = None,
    ) -> None:
        self.messages: deque[Any] = deque()
        """What was read: text as str, binary messages as bytes. The caller takes them out."""
        self.has_more = False
        """Whether the last `feed` stopped for want of room."""
        self.ended = False
        """After a close frame or a failure; nothing counts after that (section 5.5.1)."""
        self._max_size = max_size
        # What a message may have bounds a frame as well, in `_begin_data`.
        self._max_frame = max_frame or sys.maxsize
        self._max_queue = max_queue
        self._inflater = inflater
        self._short = MASKED + min(125, self._max_size, self._max_frame)
        """The largest second byte of a frame that is taken in place."""
        self._data = b""
        self._at = 0
        self._inflated = 0
        """Bytes that compressed messages had in this `feed`."""
        # The message in progress
        self._opcode = 0
        """TEXT or BINARY; 0 without one."""
        self._compressed = False
        self._chunks: list[Any] = []
        self._parts: list[Any] = []
        """What was kept of it last, joined to a chunk when it is `_MANY`: a client may send a
        message byte by byte, and each small object would cost ten times what it holds."""
        self._decode: Any = None
        self._size = 0
        # The frame in progress
        self._left = -1
        """Bytes of payload that are still to come; -1 between frames."""
        self._fin = False
        self._mask = b""

    def feed(self, data: bytes) -> list[Control]:
        """Takes what was read, or goes on where there was no room: data messages go to
        `messages`, the others are returned."""
        controls: list[Control] = []
        if self.ended:
            return controls
        at = 0
        if self._data:
            at = self._at
            if data:
                data = self._data[at:] + data
                at = 0
            else:
                data = self._data
            self._data = b""
        self._inflated = 0
        try:
            self._read(data, at, controls)
        except _Failed as failed:
            self._end(controls, failed.failure)
        except UnicodeDecodeError:
            self._end(controls, Failure(INVALID_DATA, "invalid UTF-8 in a text message"))
        except MessageTooBig:
            self._end(controls, Failure(TOO_BIG, "message too big"))
        except zlib.error:
            self._end(controls, Failure(INVALID_DATA, "invalid compressed data"))
        return controls

    def _end(self, controls: list[Control], last: Control) -> None:
        controls.append(last)
        self.ended = True
        self.has_more = False
        self._data = b""
        self._chunks.clear()
        self._parts.clear()

    def _read(self, data: bytes, at: int, controls: list[Control]) -> None:
        messages, short, most = self.messages, self._short, self._max_queue
        self.has_more = False
        end = len(data)
        if self._left >= 0:
            at = self._take_payload(data, at, end)
        while at < end:
            if len(messages) >= most or self._inflated > _BUDGET:
                self.has_more = True
                break
            if end - at < 6:
                if end - at >= 2:
                    self._check_head(data[at], data[at + 1])
                break
            first = data[at]
            second = data[at + 1]
            if (first == 0x81 or first == 0x82) and MASKED <= second <= short and not self._opcode:
                start = at + 6
                stop = start + second - MASKED
                if stop <= end:
                    payload = apply_mask(data[start:stop], data[at + 2 : start])
                    messages.append(payload.decode() if first == 0x81 else payload)
                    at = stop
                    continue
            begun = self._begin_frame(data, at, end, controls)
            if begun < 0:
                break
            at = begun
        if at < end and not self.ended:
            self._data, self._at = data, at

    def _begin_frame(self, data: bytes, at: int, end: int, controls: list[Control]) -> int:
        """Takes what there is of a frame; where it ends, or -1 when more is needed first or
        nothing follows."""
        first, second = data[at], data[at + 1]
        self._check_head(first, second)
        size = second & 0x7F
        start = at + 6
        if size >= 126:
            start = at + (8 if size == 126 else 14)
            if start > end:
                return -1
            minimum = size - 1 if size == 126 else 65535
            size = int.from_bytes(data[at + 2 : start - 4], "big")
            if size <= minimum or size >> 63:
                raise _Failed(PROTOCOL_ERROR, "malformed payload length")
        mask = data[start - 4 : start]
        opcode = first & 0x0F
        if opcode >= CLOSE:
            stop = start + size
            if stop > end:
                return -1
            self._take_control(opcode, apply_mask(data[start:stop], mask), controls)
            return -1 if self.ended else stop
        self._begin_data(first, opcode, size)
        if start + size <= end and opcode and first & FIN and not self._compressed:
            self._opcode = 0
            payload = self._unmask(data, start, start + size, mask)
            self.messages.append(payload.decode() if opcode == TEXT else payload)
            return start + size
        self._left, self._mask, self._fin = size, mask, bool(first & FIN)
        return self._take_payload(data, start, end)

    def _check_head(self, first: int, second: int) -> None:
        """Refuses a frame by its first two bytes."""
        opcode = first & 0x0F
        if first & _RESERVED or (
            first & RSV1 and (self._inflater is None or opcode == CONTINUATION or opcode >= CLOSE)
        ):
            raise _Failed(PROTOCOL_ERROR, "reserved bit set")
        if opcode in _DATA:
            if (opcode == CONTINUATION) != bool(self._opcode):
                raise _Failed(PROTOCOL_ERROR, "fragments out of order")
        elif opcode not in _CONTROLS:
            raise _Failed(PROTOCOL_ERROR, "reserved opcode")
        elif not first & FIN or second & 0x7F > MAX_CONTROL:
            raise _Failed(PROTOCOL_ERROR, "control frame fragmented or too long")
        if not second & MASKED:
            raise _Failed(PROTOCOL_ERROR, "frame not masked")

    def _take_control(self, opcode: int, payload: bytes, controls: list[Control]) -> None:
        if opcode == PING:
            controls.append(Ping(payload))
        elif opcode == PONG:
            controls.append(Pong(payload))
        elif not payload:
            self._end(controls, Close(NO_CODE, ""))
        else:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) < 2 or not is_close_code(code):
                raise _Failed(PROTOCOL_ERROR, "invalid close code")
            self._end(controls, Close(code, payload[2:].decode()))

    def _begin_data(self, first: int, opcode: int, size: int) -> None:
        """Begins a frame of a message, and with its first frame the message."""
        if opcode:
            self._opcode = opcode
            self._size = 0
            self._compressed = bool(first & RSV1)
            self._decode = None
        # What does not compress gets longer by a few bytes.
        most = self._max_size - self._size
        if size > self._max_frame or size > (most + (most >> 8) + 64 if self._compressed else most):
            raise _Failed(TOO_BIG, "message too big")

    def _take_payload(self, data: bytes, at: int, end: int) -> int:
        """Takes what has arrived of a payload; where that ends."""
        stop = min(at + self._left, end)
        taken = stop - at
        self._left -= taken
        if taken:
            part = self._unmask(data, at, stop, self._mask)
            turned = taken & 3
            self._mask = self._mask[turned:] + self._mask[:turned]
            if self._compressed:
                assert self._inflater is not None
                part = self._inflater.inflate(part, self._max_size - self._size)
                self._inflated += len(part)
            self._keep(part)
        if not self._left:
            self._left = -1
            if self._fin:
                self._finish()
        return stop

    def _unmask(self, data: bytes, start: int, stop: int, mask: bytes) -> bytes:
        if stop - start < _VIEWED:
            return apply_mask(data[start:stop], mask)
        return apply_mask(memoryview(data)[start:stop], mask)

    def _keep(self, part: Any) -> None:
        if not part:
            return
        self._size += len(part)
        if self._opcode == TEXT:
            if self._decode is None:
                self._decode = _decoder().decode
            part = self._decode(part)
        parts = self._parts
        parts.append(part)
        if len(parts) >= _MANY:
            self._chunks.append(_join(parts))
            parts.clear()

    def _finish(self) -> None:
        """The last frame of a message is complete."""
        if self._compressed:
            assert self._inflater is not None
            part = self._inflater.finish(self._max_size - self._size)
            self._inflated += len(part)
            self._keep(part)
        parts = self._chunks + self._parts
        if self._decode is not None:
            parts.append(self._decode(b"", True))
        empty: str | bytes = "" if self._opcode == TEXT else b""
        self.messages.append(_join(parts) if parts else empty)
        self._chunks.clear()
        self._parts.clear()
        self._opcode = 0


def _join(parts: list[Any]) -> Any:
    """Text or bytes; there are some."""
    return parts[0] if len(parts) == 1 else type(parts[0])().join(parts)
