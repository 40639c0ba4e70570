"""Frames of HTTP/2 as bytes (RFC 9113 sections 4 and 6)."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
PRIORITY_UPDATE: Final = 0x10  # RFC 9218 section 7.1

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

# RFC 9113 section 6.5.2, RFC 8441 section 3, RFC 9218 section 2.1.
HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8
NO_RFC7540_PRIORITIES: Final = 0x9

GREATEST_ID: Final = 2**31 - 1
GREATEST_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65535
DEFAULT_TABLE_SIZE: Final = 4096
SMALLEST_FRAME_LIMIT: Final = 16384
"""What every peer takes in one frame; SETTINGS_MAX_FRAME_SIZE begins there."""
GREATEST_FRAME_LIMIT: Final = 2**24 - 1

HEADER: Final = Struct(">IBI")
"""Length (24 bits) and type (8) in one number, flags, stream with its reserved bit."""
HEADER_SIZE: Final = 9
_SETTING: Final = Struct(">HI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*setting) for setting in values]))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """What a SETTINGS frame says, in its order. The length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def go_away(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY frame; `debug` is for who reads logs."""
    return frame(GOAWAY, 0, 0, last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def header_block(stream_id: int, block: bytes, flags: int, frame_limit: int) -> list[bytes]:
    """HEADERS with as many CONTINUATION frames as the peer's frame size asks for.

    Args:
        flags: END_STREAM or 0; END_HEADERS goes where the block ends.
    """
    if len(block) <= frame_limit:
        return [frame(HEADERS, flags | END_HEADERS, stream_id, block)]
    pieces = [block[at : at + frame_limit] for at in range(0, len(block), frame_limit)]
    return [
        frame(HEADERS, flags, stream_id, pieces[0]),
        *[frame(CONTINUATION, 0, stream_id, piece) for piece in pieces[1:-1]],
        frame(CONTINUATION, END_HEADERS, stream_id, pieces[-1]),
    ]
