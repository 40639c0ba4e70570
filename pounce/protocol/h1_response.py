"""Response heads of HTTP/1.1 as ready bytes (RFC 9112 sections 4 and 6).

An application sends the same status with the same fields again and again, so the encoded head is
remembered per (status, fields). What changes from response to response (Date, the length, the fate
of the connection) is joined to it when it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

from pounce.protocol import grammar

CACHED_HEADS: Final = 512
"""How many heads are remembered. A full table is emptied."""

CACHED_FIELDS: Final = 32
"""Heads with more fields are encoded each time."""

CACHED_BYTES: Final = 4096
"""Longer heads and field lines are encoded each time, which bounds the tables whatever an
application sends."""

UNKNOWN_LENGTH: Final = -1

Pair = tuple[bytes, bytes]

_REASONS: Final = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}

# RFC 9110 section 6.4.1: these never have content.
BODILESS: Final = frozenset({204, 304})

_LENGTH, _CODING, _CONNECTION, _DATE, _SERVER = range(1, 6)
_SPECIAL: Final = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"date": _DATE,
    b"server": _SERVER,
}

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"


def status_line(status: int) -> bytes:
    """The status line with its CRLF; an unregistered status has an empty reason (RFC 9112 4)."""
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))


class ResponseHead:
    """A status line and the fields of the application, encoded, and what they say of framing."""

    __slots__ = ("close", "content_length", "encoded", "has_body", "tail")

    def __init__(self, status: int) -> None:
        self.encoded = b""
        """Status line and field lines, each with CRLF, without the empty line."""
        self.content_length = UNKNOWN_LENGTH
        self.close = False
        self.has_body = status not in BODILESS
        self.tail = 0
        """Index into `tails()`: which of Date and Server the application sent itself."""


class ResponseEncoder:
    """Encodes response heads. Holds the tables that all connections of a worker share."""

    __slots__ = ("_field_lines", "_heads")

    def __init__(self) -> None:
        self._heads: dict[tuple[object, ...], ResponseHead] = {}
        self._field_lines: dict[Pair, tuple[bytes, int]] = {}

    def encode(self, status: int, fields: Iterable[Sequence[bytes]]) -> ResponseHead:
        """The head for `status` and `fields`.

        Connection options other than "close", Transfer-Encoding, and a Content-Length where none
        may be (RFC 9110 section 8.6) are the server's to decide and are left out.

        Raises:
            TypeError: A name or value is not bytes.
            ValueError: The status is no final status, a name is no token, a value contains CR,
                LF or NUL (RFC 9110 section 5.5), or Content-Length is malformed.
        """
        key: tuple[Any, ...] = (status, *fields)
        try:
            head = self._heads.get(key)
        except TypeError:  # fields given as lists, or with values that cannot be remembered
            key = (status, *[(name, value) for name, value in key[1:]])
            for pair in key[1:]:
                encode_field(*pair)
            head = self._heads.get(key)
        if head is None:
            head = self._encode_new(status, key[1:])
            if len(key) <= CACHED_FIELDS and len(head.encoded) <= CACHED_BYTES:
                if len(self._heads) >= CACHED_HEADS:
                    self._heads.clear()
                self._heads[key] = head
        return head

    def _encode_new(self, status: int, fields: Sequence[Pair]) -> ResponseHead:
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ValueError(f"{status!r} is not a final status code")
        head = ResponseHead(status)
        lines = [status_line(status)]
        known = self._field_lines
        for pair in fields:
            entry = known.get(pair)
            if entry is None:
                entry = encode_field(*pair)
                if len(entry[0]) <= CACHED_BYTES:
                    if len(known) >= CACHED_HEADS:
                        known.clear()
                    known[pair] = entry
            line, kind = entry
            if kind and self._note(head, status, kind, pair[1]):
                continue
            lines.append(line)
        head.encoded = b"".join(lines)
        return head

    @staticmethod
    def _note(head: ResponseHead, status: int, kind: int, value: bytes) -> bool:
        """Takes a special field into account; True when it is not to be written as it is."""
        if kind == _LENGTH:
            if grammar.CONTENT_LENGTH.fullmatch(value) is None:
                raise ValueError(f"malformed content-length {value!r}")
            length = int(value)
            if head.content_length not in (UNKNOWN_LENGTH, length):
                raise ValueError("conflicting content-length fields")
            repeated = head.content_length == length
            head.content_length = length
            return repeated or status == 204
        if kind == _CONNECTION:
            tokens = [token.strip() for token in value.lower().split(b",")]
            head.close = head.close or b"close" in tokens
            return True
        if kind == _CODING:
            return True
        head.tail |= 1 if kind == _DATE else 2
        return False


def encode_field(name: bytes, value: bytes) -> tuple[bytes, int]:
    """A field line with its CRLF, and the kind of field it is.

    Raises:
        TypeError: Name or value is not bytes.
        ValueError: They would not be one field line (response splitting).
    """
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise TypeError(f"header names and values must be bytes, not {name!r}: {value!r}")
    if grammar.RESPONSE_NAME.fullmatch(name) is None:
        raise ValueError(f"malformed header name {name!r}")
    if grammar.RESPONSE_VALUE_BAD.search(value):
        raise ValueError(f"header {name!r} has a CR, LF or NUL in its value")
    return b"%b: %b\r\n" % (name, value.strip(b" \t")), _SPECIAL.get(name.lower(), 0)


def encode_fields(fields: Iterable[Sequence[bytes]]) -> bytes:
    """Field lines as they stand: for trailers, 1xx responses and configured fields.

    Raises:
        TypeError, ValueError: As `encode_field`.
    """
    return b"".join([encode_field(name, value)[0] for name, value in fields])


def tails(date: bytes | None, server: bytes | None, extra: bytes = b"") -> tuple[bytes, ...]:
    """What ends every head, by `ResponseHead.tail`: Server, Date, configured fields, CRLF.

    Args:
        date: An IMF-fixdate (RFC 9110 section 5.6.7), None to send no Date.
        server: The product (RFC 9110 section 10.2.4), None to send no Server.
        extra: Encoded field lines.
    """
    date_line = b"" if date is None else b"date: %b\r\n" % date
    server_line = b"" if server is None else b"server: %b\r\n" % server
    return tuple(
        b"%b%b%b\r\n" % (b"" if tail & 2 else server_line, b"" if tail & 1 else date_line, extra)
        for tail in range(4)
    )


def chunk(data: bytes) -> bytes:
    """One chunk of the chunked transfer coding (RFC 9112 section 7.1). `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)
