"""A strict reader of HTTP/1.1 responses, so that tests see what was on the wire.

It shares nothing with the server: what it accepts is written from RFC 9112 alone, and it raises
`MalformedResponse` where clients would forgive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-5][0-9]{2}) ([\t \x21-\x7e\x80-\xff]*)")
_FIELD_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t \x21-\x7e\x80-\xff]*"
    rb"[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)")

Headers = list[tuple[bytes, bytes]]


class MalformedResponse(AssertionError):
    """The bytes break RFC 9112."""


class IncompleteResponse(Exception):
    """The bytes are the beginning of a response."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response; header names are lower-case."""

    version: str
    status: int
    reason: bytes
    headers: Headers
    body: bytes
    trailers: Headers
    ends_with_connection: bool
    """The length of the body is told by the end of the connection only."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of all header lines of this name."""
        return [value for key, value in self.headers if key == name.lower()]

    def value(self, name: bytes) -> bytes:
        """The value of the one header line of this name."""
        values = self.values(name)
        assert len(values) == 1, f"{len(values)} header lines {name!r} in {self.headers}"
        return values[0]

    @property
    def closes(self) -> bool:
        """Whether the response says that the connection ends after it (RFC 9112 section 9.3)."""
        options = b",".join(self.values(b"connection")).lower().replace(b" ", b"").split(b",")
        return b"close" in options or (self.version == "1.0" and b"keep-alive" not in options)


def parse_responses(
    data: bytes, methods: Sequence[str] = ("GET",), *, closed: bool = False
) -> tuple[list[Response], bytes]:
    """The responses to requests of these methods, in order, and what follows the last of them.

    1xx responses come in addition to one final response for each method. `closed` says that the
    connection has ended, which completes a body without a length. Raises IncompleteResponse when
    bytes are missing.
    """
    responses: list[Response] = []
    for method in methods:
        while True:
            response, data = _parse_one(data, method, closed)
            responses.append(response)
            if response.status >= 200:
                break
    return responses, data


def parse_response(data: bytes, method: str = "GET") -> Response:
    """The one final response that a closed connection carried, with nothing after it."""
    responses, rest = parse_responses(data, [method], closed=True)
    assert rest == b"", f"{len(rest)} bytes after the response: {rest[:200]!r}"
    return responses[-1]


def _parse_one(data: bytes, method: str, closed: bool) -> tuple[Response, bytes]:
    lines, data = _take_head(data)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise MalformedResponse(f"no status line: {lines[0]!r}")
    version, status, reason = match[1].decode(), int(match[2]), match[3]
    headers = _parse_fields(lines[1:])
    body, trailers, data, ends_with_connection = _take_body(data, method, status, headers, closed)
    return (
        Response(version, status, reason, headers, body, trailers, ends_with_connection),
        data,
    )


def _take_head(data: bytes) -> tuple[list[bytes], bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        raise IncompleteResponse
    lines = head.split(b"\r\n")
    for line in lines:
        if b"\n" in line or b"\r" in line:
            raise MalformedResponse(f"bare CR or LF: {line!r}")
    return lines, rest


def _parse_fields(lines: list[bytes]) -> Headers:
    headers: Headers = []
    for line in lines:
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            raise MalformedResponse(f"no header line: {line!r}")
        headers.append((match[1].lower(), match[2]))
    return headers


def _take_body(
    data: bytes, method: str, status: int, headers: Headers, closed: bool
) -> tuple[bytes, Headers, bytes, bool]:
    """RFC 9112 section 6.3, in its order."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (lengths or status < 200 or status == 204):
        raise MalformedResponse(f"Transfer-Encoding is not allowed here: {status} {headers}")
    if lengths and (status < 200 or status == 204):
        raise MalformedResponse(f"Content-Length is not allowed here: {status} {headers}")
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise MalformedResponse(f"Content-Length: {lengths}")
    if method == "HEAD" or status < 200 or status in (204, 304):
        return b"", [], data, False
    if codings:
        if codings != [b"chunked"]:
            raise MalformedResponse(f"Transfer-Encoding: {codings}")
        return (*_take_chunks(data), False)
    if lengths:
        length = int(lengths[0])
        if len(data) < length:
            raise IncompleteResponse
        return data[:length], [], data[length:], False
    if not closed:
        raise IncompleteResponse
    return data, [], b"", True


def _take_chunks(data: bytes) -> tuple[bytes, Headers, bytes]:
    body = bytearray()
    position = 0
    while True:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            raise IncompleteResponse
        match = _CHUNK_SIZE.fullmatch(data, position, line_end)
        if match is None:
            raise MalformedResponse(f"no chunk size: {data[position:line_end]!r}")
        size = int(match[1], 16)
        position = line_end + 2
        if size == 0:
            break
        end = position + size
        if len(data) < end + 2:
            raise IncompleteResponse
        if data[end : end + 2] != b"\r\n":
            raise MalformedResponse(f"no CRLF after a chunk: {data[end : end + 2]!r}")
        body += data[position:end]
        position = end + 2
    rest = data[position:]
    if rest.startswith(b"\r\n"):
        return bytes(body), [], rest[2:]
    lines, rest = _take_head(rest)
    return bytes(body), _parse_fields(lines), rest
