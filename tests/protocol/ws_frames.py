"""Frames as clients send them, and what a reader makes of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from pounce.protocol.ws.frames import Close, Control, Failure
from pounce.protocol.ws.reader import MessageReader

KEY = b"\x37\xfa\x21\x3d"
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10


def masked(payload: bytes, key: bytes = KEY) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = True,
    length: int | None = None,
    key: bytes = KEY,
) -> bytes:
    """A frame.

    Args:
        length: How many bytes its length field has, 1, 3 or 9, where not the shortest.
    """
    size = len(payload)
    if length is None:
        length = 1 if size < 126 else 3 if size < 65536 else 9
    first = (0x80 if fin else 0) | rsv | opcode
    bit = 0x80 if mask else 0
    if length == 1:
        head = bytes((first, bit | size))
    else:
        head = bytes((first, bit | (126 if length == 3 else 127)))
        head += size.to_bytes(length - 1, "big")
    return head + (key + masked(payload, key) if mask else payload)


def text(content: str, **options: Any) -> bytes:
    return frame(TEXT, content.encode(), **options)


def close(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def deflated(content: bytes, bits: int = 15) -> bytes:
    """A message by itself as RFC 7692 section 7.2.1 compresses it."""
    context = zlib.compressobj(wbits=-bits)
    return (context.compress(content) + context.flush(zlib.Z_SYNC_FLUSH))[:-4]


def chunkings(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and split at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    # Long payloads are all the same in their middle.
    places = range(1, len(data)) if len(data) < 400 else [*range(1, 40), len(data) // 2]
    for place in places:
        yield [data[:place], data[place:]]


def read(reader: MessageReader, chunks: Iterable[bytes]) -> list[Any]:
    """All that comes of it: messages, control frames; a failure without its text."""
    found: list[Any] = []
    for chunk in chunks:
        controls = reader.feed(chunk)
        take(reader, found, controls)
        while reader.has_more:
            take(reader, found, reader.feed(b""))
    return found


def take(reader: MessageReader, found: list[Any], controls: list[Control]) -> None:
    found.extend(reader.messages)
    reader.messages.clear()
    found.extend(
        control.code if isinstance(control, Failure) else control
        for control in controls
        # A close frame is told with its code and reason.
        if not isinstance(control, Close) or control.code
    )
