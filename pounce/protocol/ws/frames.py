"""What goes on the wire: frame heads, control frames, close codes (RFC 6455 sections 5 and 7)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40
"""Set in the first frame of a compressed message (RFC 7692 section 6)."""
MASKED: Final = 0x80

MAX_CONTROL: Final = 125
"""The most payload of a control frame (section 5.5)."""
MAX_REASON: Final = MAX_CONTROL - 2

NORMAL: Final = 1000
PROTOCOL_ERROR: Final = 1002
NO_CODE: Final = 1005
"""Never sent: the close frame had no code."""
ABNORMAL: Final = 1006
"""Never sent: the connection ended without a close frame."""
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012

_SENDABLE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_SHORT_HEADS: Final = {
    first: tuple(bytes((first, size)) for size in range(126))
    for first in (FIN | TEXT, FIN | BINARY, FIN | CLOSE, FIN | PING, FIN | PONG)
}
TEXT_HEADS: Final = _SHORT_HEADS[FIN | TEXT]
"""Heads of whole text messages of less than 126 bytes, by their size."""
BINARY_HEADS: Final = _SHORT_HEADS[FIN | BINARY]
_medium_head: Final = struct.Struct(">BBH").pack
_long_head: Final = struct.Struct(">BBQ").pack


class Ping(NamedTuple):
    """Asks for a pong with the same payload (section 5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """Answers a ping, or none (section 5.5.3)."""

    payload: bytes


class Close(NamedTuple):
    """The peer's last frame (section 5.5.1)."""

    code: int
    """`NO_CODE` where it has none."""
    reason: str


class Failure(NamedTuple):
    """The peer broke the protocol or a limit: the connection is to be failed (section 7.1.7)."""

    code: int
    reason: str


Control = Ping | Pong | Close | Failure


def is_close_code(code: int) -> bool:
    """Whether a close frame may have this code (section 7.4, and the registry of IANA)."""
    return code in _SENDABLE or 3000 <= code <= 4999


def frame_head(first: int, size: int) -> bytes:
    """The head of an unmasked frame.

    Args:
        first: Its first byte.
        size: Bytes of payload.
    """
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return _medium_head(first, 126, size)
    return _long_head(first, 127, size)


def control_frame(opcode: int, payload: bytes) -> bytes:
    """A ping or pong; `payload` is at most `MAX_CONTROL` bytes."""
    return _SHORT_HEADS[FIN | opcode][len(payload)] + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; a reason that is too long is cut. With `NO_CODE` an empty one.

    Raises:
        ValueError: No close frame may have this code.
    """
    if code == NO_CODE:
        return control_frame(CLOSE, b"")
    if not is_close_code(code):
        raise ValueError(f"{code!r} is no close code that can be sent")
    text = reason.encode()
    if len(text) > MAX_REASON:
        text = text[:MAX_REASON].decode(errors="ignore").encode()
    return control_frame(CLOSE, code.to_bytes(2, "big") + text)
