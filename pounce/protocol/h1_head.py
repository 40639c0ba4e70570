"""Request heads of HTTP/1.x: bytes to `RequestLine` and `FieldBlock` (RFC 9112 sections 2 to 6).

Two ways lead to a head. The **recogniser** takes the common case: an origin-form target, HTTP/1.1,
well-formed field lines, one Host, at most one plain Content-Length. Everything else is checked for
the leniencies that h11 has (line ends, folding) and then **given to h11**, whose verdict counts.
Whatever the recogniser accepts, h11 accepts with the same result; a property test holds that.

Both remember what they decided. A client sends the same request line or the same block of fields
again and again, so a bounded table from the raw bytes to the verdict saves nearly all of the work.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar
from urllib.parse import unquote

import h11

from pounce.errors import LimitError, ParseError
from pounce.protocol import grammar

CACHED_ENTRIES: Final = 1024
"""How many request lines, and how many blocks, are remembered. A full table is emptied."""

CACHED_BYTES: Final = 2048
"""Longer request lines and blocks are parsed each time, which bounds the tables to 4 MiB."""

NO_LENGTH: Final = -1
"""`FieldBlock.content_length` of a message without Content-Length."""

# Fields that decide how a message is framed or answered; all others are only carried.
_HOST, _LENGTH, _CODING, _CONNECTION, _EXPECT, _UPGRADE, _TE, _FORWARDED = range(1, 9)
_SPECIAL: Final = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
    b"te": _TE,
    b"x-forwarded-for": _FORWARDED,
    b"x-forwarded-proto": _FORWARDED,
}
# What the recogniser leaves to h11.
_DELEGATED: Final = frozenset({_CODING, _EXPECT, _UPGRADE})

Pair = tuple[bytes, bytes]
_Verdict = TypeVar("_Verdict")


class HeadLimits(NamedTuple):
    """Sizes in bytes, and the number of field lines, beyond which a head is refused."""

    request_line: int = 8190
    fields: int = 100
    head: int = 65536


class RequestLine:
    """A request line, taken apart. Immutable, shared by all requests with the same line."""

    __slots__ = (
        "authority",
        "http_version",
        "method",
        "path",
        "query_string",
        "raw_path",
        "target",
    )

    def __init__(
        self, method: str, target: bytes, http_version: str, authority: bytes | None = None
    ) -> None:
        self.method = method
        self.target = target
        self.http_version = http_version
        self.authority = authority
        """The host of an absolute-form target, which overrides Host (RFC 9112 section 3.2.2)."""
        raw_path, _, self.query_string = target.partition(b"?")
        path = raw_path.decode("ascii")
        self.raw_path = raw_path
        self.path = unquote(path) if "%" in path else path


class FieldBlock:
    """The field lines of a head and what they say about framing. Immutable, shared likewise."""

    __slots__ = (
        "chunked",
        "close",
        "content_length",
        "expect_continue",
        "forwarded",
        "keep_alive",
        "pairs",
        "plain",
        "takes_trailers",
        "upgrade",
    )

    def __init__(self, pairs: tuple[Pair, ...]) -> None:
        self.pairs = pairs
        self.content_length = NO_LENGTH
        self.chunked = False
        self.close = False
        self.keep_alive = False
        self.expect_continue = False
        self.upgrade: bytes | None = None
        self.takes_trailers = False
        self.forwarded = False
        self.plain = True
        """No body, nothing to negotiate, the connection persists: the most common request."""


class RequestHead(NamedTuple):
    """A request line with its fields."""

    line: RequestLine
    block: FieldBlock


class HeadParser:
    """Parses the request heads of one worker. Holds the tables that all its connections share."""

    __slots__ = ("_blocks", "_field_lines", "_lines", "limits")

    def __init__(self, limits: HeadLimits | None = None) -> None:
        self.limits = limits or HeadLimits()
        self._lines: dict[bytes, RequestLine] = {}
        self._blocks: dict[bytes, FieldBlock] = {}
        self._field_lines: dict[bytes, tuple[Pair, int]] = {}

    def parse(self, data: bytes, line_end: int, head_end: int) -> RequestHead:
        """The head in `data[:head_end]`.

        Args:
            data: Begins with the request line.
            line_end: Where the first CRLF is.
            head_end: Where the first CRLF CRLF is (the same place when there are no fields).

        Raises:
            ParseError: The head is malformed (400), or asks for what no HTTP/1.1 origin server
                does: 417 (RFC 9110 section 10.1.1), 501 (RFC 9112 section 6.1), 505.
            LimitError: 414 for the request line, 431 for the fields (RFC 6585 section 5).
        """
        line = self._lines.get(data[:line_end])
        if line is not None:
            block = self._blocks.get(data[line_end + 2 : head_end])
            if block is not None:
                return RequestHead(line, block)
        return self._parse_new(data, line_end, head_end)

    def _parse_new(self, data: bytes, line_end: int, head_end: int) -> RequestHead:
        raw_line = data[:line_end]
        raw_block = data[line_end + 2 : head_end]
        self._check_limits(raw_line, raw_block)
        match = grammar.ORIGIN_FORM.fullmatch(raw_line)
        if match is not None:
            block = self._blocks.get(raw_block) or self._recognise(raw_block)
            if block is not None:
                line = RequestLine(match[1].decode("ascii"), match[2], "1.1")
                _remember(self._lines, raw_line, line)
                return RequestHead(line, block)
        line = parse_request_line(raw_line)
        return self._delegate(line, raw_line, raw_block)

    def _check_limits(self, raw_line: bytes, raw_block: bytes) -> None:
        limits = self.limits
        if len(raw_line) > limits.request_line:
            raise LimitError("request line too long", 414)
        if len(raw_block) > limits.head:
            raise LimitError("header fields too large", 431)
        if raw_block.count(b"\r\n") >= limits.fields:
            raise LimitError("too many header fields", 431)

    def _recognise(self, raw_block: bytes) -> FieldBlock | None:
        """The verdict on a common block of fields, None for one that h11 shall judge."""
        known = self._field_lines
        pairs: list[Pair] = []
        special: list[tuple[int, bytes]] = []
        for raw in raw_block.split(b"\r\n"):
            entry = known.get(raw)
            if entry is None:
                match = grammar.FIELD_LINE.fullmatch(raw)
                if match is None:
                    return None
                name = match[1].lower()
                entry = ((name, match[2]), _SPECIAL.get(name, 0))
                _remember(known, raw, entry)
            pair, kind = entry
            pairs.append(pair)
            if kind:
                if kind in _DELEGATED:
                    return None
                special.append((kind, pair[1]))
        block = FieldBlock(tuple(pairs))
        _interpret(block, special, "1.1")
        _remember(self._blocks, raw_block, block)
        return block

    def _delegate(self, line: RequestLine, raw_line: bytes, raw_block: bytes) -> RequestHead:
        # The verdict depends on the version too (Host, Transfer-Encoding), never on the target.
        key = line.http_version.encode() + b"\n" + raw_block
        block = self._blocks.get(key)
        if block is None:
            block = _judged_by_h11(line, raw_line, raw_block)
            _remember(self._blocks, key, block)
        if line.authority is not None:
            block = _with_host(block, line.authority)
        return RequestHead(line, block)


def _remember(table: dict[bytes, _Verdict], key: bytes, value: _Verdict) -> None:
    if len(key) <= CACHED_BYTES:
        if len(table) >= CACHED_ENTRIES:
            table.clear()
        table[key] = value


def parse_request_line(raw: bytes) -> RequestLine:
    """Any form of request line (RFC 9112 section 3).

    Raises:
        ParseError: 400, or 505 for a major version other than 1.
    """
    match = grammar.REQUEST_LINE.fullmatch(raw)
    if match is None:
        raise ParseError("malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise ParseError("HTTP version not supported", 505)
    # RFC 9110 section 2.5: a higher minor version is served as the highest one known.
    version = "1.0" if minor == b"0" else "1.1"
    if method == b"CONNECT":
        if grammar.AUTHORITY_FORM.fullmatch(target) is None:
            raise ParseError("CONNECT needs an authority-form target")
        return RequestLine("CONNECT", target, version)
    if target.startswith(b"/"):
        return RequestLine(method.decode("ascii"), target, version)
    if target == b"*":
        if method != b"OPTIONS":
            raise ParseError("an asterisk-form target needs OPTIONS")
        return RequestLine("OPTIONS", target, version)
    absolute = grammar.ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or grammar.HOST.fullmatch(absolute[1]) is None:
        raise ParseError("malformed request target")
    rest = absolute[2] or b"/"
    if rest.startswith(b"?"):
        rest = b"/" + rest
    return RequestLine(method.decode("ascii"), rest, version, absolute[1])


def _judged_by_h11(line: RequestLine, raw_line: bytes, raw_block: bytes) -> FieldBlock:
    if raw_block:
        for raw in raw_block.split(b"\r\n"):
            # h11 joins folded lines and takes most controls; RFC 9112 section 5.2, RFC 9110 5.5.
            if grammar.FIELD_LINE.fullmatch(raw) is None:
                raise ParseError("malformed header field")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 30)
    # h11 judges an origin-form stand-in: the form of the target has been judged already.
    stand_in = b"%b / HTTP/%b" % (raw_line.split(b" ", 1)[0], line.http_version.encode())
    fields = raw_block + b"\r\n" if raw_block else b""
    connection.receive_data(stand_in + b"\r\n" + fields + b"\r\n")
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise ParseError(str(exc), exc.error_status_hint) from exc
    if not isinstance(event, h11.Request):
        raise ParseError("malformed request head")
    block = FieldBlock(tuple(event.headers))
    special = [(_SPECIAL[name], value) for name, value in block.pairs if name in _SPECIAL]
    _interpret(block, special, line.http_version)
    return block


def _with_host(block: FieldBlock, authority: bytes) -> FieldBlock:
    pairs = tuple(pair for pair in block.pairs if pair[0] != b"host")
    replaced = FieldBlock(((b"host", authority), *pairs))
    for name in FieldBlock.__slots__:
        if name != "pairs":
            setattr(replaced, name, getattr(block, name))
    return replaced


def _interpret(block: FieldBlock, special: list[tuple[int, bytes]], version: str) -> None:
    """Reads the fields that frame the message into `block`; strict where parsers disagree."""
    hosts = lengths = codings = 0
    for kind, value in special:
        if kind == _HOST:
            hosts += 1
            if grammar.HOST.fullmatch(value) is None:
                raise ParseError("malformed Host")
        elif kind == _LENGTH:
            lengths += 1
            if grammar.CONTENT_LENGTH.fullmatch(value) is None:
                raise ParseError("malformed Content-Length")
            block.content_length = int(value)
        elif kind == _CONNECTION:
            tokens = [token.strip(b" \t") for token in value.lower().split(b",")]
            block.close = block.close or b"close" in tokens
            block.keep_alive = block.keep_alive or b"keep-alive" in tokens
        elif kind == _CODING:
            codings += 1
            if value.lower() != b"chunked":
                raise ParseError("transfer coding not implemented", 501)
            block.chunked = True
        elif kind == _EXPECT:
            if value.lower() != b"100-continue":
                raise ParseError("expectation failed", 417)
            # RFC 9110 section 10.1.1: from an HTTP/1.0 client it must be ignored.
            block.expect_continue = version == "1.1"
        elif kind == _UPGRADE:
            block.upgrade = value
        elif kind == _TE:
            # RFC 9110 section 10.1.4: the client will not drop trailer fields.
            block.takes_trailers = b"trailers" in value.lower().replace(b" ", b"").split(b",")
        else:
            block.forwarded = True
    # RFC 9112 section 3.2: exactly one Host in HTTP/1.1, never more than one.
    if hosts != 1 and (hosts > 1 or version == "1.1"):
        raise ParseError("exactly one Host is needed")
    # RFC 9112 section 6.3: several or contradicting lengths; refused, never repaired.
    if lengths > 1 or codings > 1 or (lengths and codings):
        raise ParseError("conflicting message lengths")
    if codings and version == "1.0":
        raise ParseError("Transfer-Encoding in an HTTP/1.0 request")
    block.plain = (
        version == "1.1"
        and block.content_length <= 0
        and not block.chunked
        and not block.close
        and not block.expect_continue
        and not block.takes_trailers
    )
