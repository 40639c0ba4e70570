"""Request bodies of HTTP/1.1: bytes to content (RFC 9112 sections 6 and 7).

A reader is fed what the socket gave and says what of it is content and what follows the message.
Nothing is delivered as complete that did not arrive completely.
"""

from __future__ import annotations

from typing import Final, Protocol

from pounce.errors import LimitError, ParseError
from pounce.protocol import grammar

MAX_CHUNK_LINE: Final = 4096
"""A longer chunk-size line is refused; no known client sends extensions at all."""

MAX_EXTENSION_BYTES: Final = 16384
"""All chunk extensions of a message together: they cost work and carry nothing."""


class BodyReader(Protocol):
    """Reads the content of one message."""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Takes what has arrived.

        Returns:
            The content in it, and what follows the end of the message: None while the message
            is incomplete, b"" when it ends with `data`.

        Raises:
            ParseError: The framing is broken (400).
            LimitError: The content is larger than the limit (413), or the trailer section (431).
        """
        ...


class LengthReader:
    """Content framed by Content-Length (RFC 9112 section 6.2)."""

    __slots__ = ("remaining",)

    def __init__(self, length: int) -> None:
        self.remaining = length

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        remaining = self.remaining
        size = len(data)
        if size < remaining:
            self.remaining = remaining - size
            return data, None
        self.remaining = 0
        if size == remaining:
            return data, b""
        return data[:remaining], data[remaining:]


class ChunkedReader:
    """Content in the chunked transfer coding (RFC 9112 section 7.1).

    Extensions are checked and ignored. Trailer fields are checked and dropped: ASGI has no place
    for them (RFC 9110 section 6.5.1 lets a recipient discard them).

    Args:
        max_size: Bytes of content, 0 for no limit.
        max_trailer: Bytes of the trailer section.
        max_fields: Lines of the trailer section.
    """

    __slots__ = (
        "_extension_bytes",
        "_fields_left",
        "_in_trailer",
        "_max_size",
        "_pending",
        "_remaining",
        "_scanned",
        "_size",
        "_trailer_left",
    )

    def __init__(self, max_size: int = 0, max_trailer: int = 65536, max_fields: int = 100) -> None:
        self._max_size = max_size
        self._trailer_left = max_trailer
        self._fields_left = max_fields
        self._pending = b""
        """The incomplete line, or half of a line end, that what was fed ended with."""
        self._scanned = 0
        """Bytes of the incomplete line that contain no line end."""
        self._remaining = 0
        """Bytes of the chunk that are still to come, with its closing CRLF."""
        self._size = 0
        self._extension_bytes = 0
        self._in_trailer = False

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        if self._pending:
            data = self._pending + data
            self._pending = b""
        position, end = 0, len(data)
        parts: list[bytes] = []
        while not self._in_trailer:
            if self._remaining:
                taken = self._take_chunk(data, position, parts)
                position += taken
                if self._remaining:
                    self._pending = data[position:]
                    return b"".join(parts), None
            if position >= end:
                return b"".join(parts), None
            line_end = self._line_end(data, position)
            # A line end that is half there does not count, as it does not in a whole line.
            if (line_end if line_end >= 0 else end - 1) - position > MAX_CHUNK_LINE:
                raise ParseError("chunk size line too long")
            if line_end < 0:
                return b"".join(parts), None
            self._begin_chunk(data[position:line_end])
            position = line_end + 2
        return b"".join(parts), self._read_trailer(data, position)

    def _take_chunk(self, data: bytes, position: int, parts: list[bytes]) -> int:
        """Takes what there is of the current chunk; its CRLF counts as the last two bytes."""
        available = len(data) - position
        content_left = self._remaining - 2
        taken = min(available, content_left)
        if taken > 0:
            parts.append(data[position : position + taken])
            self._remaining -= taken
        if available >= content_left + 2:
            if data[position + content_left : position + content_left + 2] != b"\r\n":
                raise ParseError("chunk data not followed by CRLF")
            self._remaining = 0
            return content_left + 2
        if taken == content_left and available > taken and data[position + taken] != 0x0D:
            raise ParseError("chunk data not followed by CRLF")
        return max(taken, 0)

    def _begin_chunk(self, line: bytes) -> None:
        match = grammar.CHUNK_LINE.fullmatch(line)
        if match is None:
            raise ParseError("malformed chunk size")
        self._extension_bytes += len(line) - len(match[1])
        if self._extension_bytes > MAX_EXTENSION_BYTES:
            raise ParseError("too many chunk extensions")
        size = int(match[1], 16)
        if size == 0:
            self._in_trailer = True
            return
        self._size += size
        if self._max_size and self._size > self._max_size:
            raise LimitError("request body too large")
        self._remaining = size + 2

    def _read_trailer(self, data: bytes, position: int) -> bytes | None:
        """What follows the trailer section, None while that is incomplete."""
        while True:
            line_end = self._line_end(data, position)
            size = (line_end if line_end >= 0 else len(data) - 1) - position
            if size > self._trailer_left:
                raise LimitError("trailer section too large", 431)
            if line_end < 0:
                return None
            if size == 0:
                return data[line_end + 2 :]
            if self._fields_left == 0:
                raise LimitError("too many trailer fields", 431)
            if grammar.FIELD_LINE.fullmatch(data, position, line_end) is None:
                raise ParseError("malformed trailer field")
            self._fields_left -= 1
            self._trailer_left = max(0, self._trailer_left - size - 2)
            position = line_end + 2

    def _line_end(self, data: bytes, position: int) -> int:
        """Where the line at `position` ends; -1 when it is incomplete, and then it is kept."""
        # A line that trickles in is not searched from its beginning each time.
        unseen = position + max(0, self._scanned - 1)
        self._scanned = 0
        end = data.find(b"\r\n", unseen)
        if end < 0:
            if grammar.BAD_LINE_END.search(data, unseen):
                raise ParseError("malformed line end in a chunked body")
            self._pending = data[position:]
            self._scanned = len(self._pending)
        return end
