"""Request heads of HTTP/1.x: bytes to `RequestLine` and `FieldBlock` (RFC 9112 sections 2 to 6).

Two ways lead to a head. The **recogniser** takes the common case: an origin-form target, HTTP/1.1,
well-formed field lines, one Host, at most one plain Content-Length. Everything else is checked for
the leniencies that h11 has (line ends, folding) and then **given to h11**, whose verdict counts.
Whatever the recogniser accepts, h11 accepts with the same result; a property test holds that.

Both remember what they decided. A client sends the same request line or the same block of fields
again and again, so a bounded table from the raw bytes to the verdict saves nearly all of the work.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeVar, cast
from urllib.parse import unquote

import h11

from pounce.errors import LimitError, ParseError
from pounce.protocol import grammar

CACHED_ENTRIES: Final = 1024
"""How many request lines, and how many blocks, are remembered. A full table is emptied."""

CACHED_BYTES: Final = 2048
"""Longer request lines and blocks are parsed each time, which bounds the tables: 50 MiB where
somebody fills them on purpose, with heads of a hundred fields and paths beyond ASCII."""

SEEN_ENTRIES: Final = 8192
"""How many keys are known to have come once. A full set is emptied."""

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
# What is looked for in Connection and TE; the rest is not worth remembering.
_TOKENS: Final = frozenset({b"close", b"keep-alive", b"trailers"})
# What the recogniser leaves to h11.
_DELEGATED: Final = frozenset({_CODING, _EXPECT, _UPGRADE})

Pair = tuple[bytes, bytes]
_Field = tuple[Pair, int, Any]
"""A field, its kind (0 for one that is only carried), and the verdict on its value."""

_Remembered = TypeVar("_Remembered")


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

    __slots__ = (
        "_blocks",
        "_blocks_1_0",
        "_lines",
        "_ordinary",
        "_seen_once",
        "_special",
        "limits",
    )

    def __init__(self, limits: HeadLimits | None = None) -> None:
        self.limits = limits or HeadLimits()
        self._lines: dict[bytes, RequestLine] = {}
        self._blocks: dict[bytes, FieldBlock] = {}
        """Verdicts for HTTP/1.1, whoever gave them: none depends on the rest of the line."""
        self._blocks_1_0: dict[bytes, FieldBlock] = {}
        self._ordinary: dict[bytes, Pair] = {}
        """Field lines that are only carried."""
        self._special: dict[bytes, _Field] = {}
        """Field lines that decide something."""
        self._seen_once: set[int] = set()

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
        block = self._blocks.get(data[line_end + 2 : head_end])
        if line is not None and block is not None:
            return RequestHead(line, block)
        return self._parse_new(data[:line_end], data[line_end + 2 : head_end], line)

    def _parse_new(
        self, raw_line: bytes, raw_block: bytes, line: RequestLine | None
    ) -> RequestHead:
        self._check_limits(raw_line, raw_block)
        if line is None:
            match = grammar.ORIGIN_FORM.fullmatch(raw_line)
            if match is not None:
                line = RequestLine(match[1].decode("ascii"), match[2], "1.1")
                self._remember(self._lines, raw_line, line)
        if line is not None:
            block = self._blocks.get(raw_block) or self._recognise(raw_block)
            if block is not None:
                return RequestHead(line, block)
        return self._delegate(line or parse_request_line(raw_line), raw_line, raw_block)

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
        lines = raw_block.split(b"\r\n")
        pairs = list(map(self._ordinary.get, lines))
        special: list[tuple[int, bytes]] = []
        for index, pair in enumerate(pairs):
            if pair is None:
                field = self._special.get(lines[index]) or self._parse_field(lines[index])
                if field is None or field[1] in _DELEGATED:
                    return None
                pairs[index], kind, verdict = field
                if kind:
                    special.append((kind, verdict))
        block = FieldBlock(tuple(cast(list[Pair], pairs)))
        _interpret(block, special, "1.1")
        self._remember(self._blocks, raw_block, block)
        return block

    def _parse_field(self, raw: bytes) -> _Field | None:
        """A field line; None when it is malformed."""
        match = grammar.FIELD_LINE.fullmatch(raw)
        if match is None:
            return None
        name = match[1].lower()
        pair = (name, match[2])
        kind = _SPECIAL.get(name, 0)
        if not kind:
            self._remember(self._ordinary, raw, pair)
            return pair, 0, None
        if kind in _DELEGATED:
            return pair, kind, None
        field = (pair, kind, _judge(kind, match[2]))
        self._remember(self._special, raw, field)
        return field

    def _delegate(self, line: RequestLine, raw_line: bytes, raw_block: bytes) -> RequestHead:
        # The verdict depends on the version (Host, Transfer-Encoding), never on the target. It must
        # be found by what was sent and nothing else: a key put together from version and block
        # could be sent as a block.
        blocks = self._blocks if line.http_version == "1.1" else self._blocks_1_0
        block = blocks.get(raw_block)
        if block is None:
            block = _judged_by_h11(line, raw_line, raw_block)
            self._remember(blocks, raw_block, block)
        if line.authority is not None:
            block = _with_host(block, line.authority)
        return RequestHead(line, block)

    def _remember(self, table: dict[bytes, _Remembered], key: bytes, value: _Remembered) -> None:
        """Keeps a verdict from the second time on: what never comes again costs no room, and
        does not crowd out what does."""
        if len(key) > CACHED_BYTES:
            return
        mark = hash(key)
        if mark in self._seen_once:
            if len(table) >= CACHED_ENTRIES:
                table.clear()
            table[key] = value
        else:
            if len(self._seen_once) >= SEEN_ENTRIES:
                self._seen_once.clear()
            self._seen_once.add(mark)


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
    pairs: list[Pair] = []
    for raw in raw_block.split(b"\r\n") if raw_block else ():
        # h11 joins folded lines and takes most controls; RFC 9112 section 5.2, RFC 9110 5.5.
        match = grammar.FIELD_LINE.fullmatch(raw)
        if match is None:
            raise ParseError("malformed header field")
        pairs.append((match[1].lower(), match[2]))
    # What was sent is read, not what h11 makes of it: it merges several lengths into one.
    block = FieldBlock(tuple(pairs))
    kinds = [(_SPECIAL[name], value) for name, value in pairs if name in _SPECIAL]
    special = [(kind, _judge(kind, value)) for kind, value in kinds]
    _interpret(block, special, line.http_version)
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
    return block


def _with_host(block: FieldBlock, authority: bytes) -> FieldBlock:
    pairs = tuple(pair for pair in block.pairs if pair[0] != b"host")
    replaced = FieldBlock(((b"host", authority), *pairs))
    for name in FieldBlock.__slots__:
        if name != "pairs":
            setattr(replaced, name, getattr(block, name))
    return replaced


def _judge(kind: int, value: bytes) -> Any:
    """What the value of a special field says, whatever else is in the head.

    Raises:
        ParseError: The value is malformed, or asks for what is not implemented.
    """
    if kind == _HOST:
        if grammar.HOST.fullmatch(value) is None:
            raise ParseError("malformed Host")
    elif kind == _LENGTH:
        if grammar.CONTENT_LENGTH.fullmatch(value) is None:
            raise ParseError("malformed Content-Length")
        return int(value)
    elif kind in (_CONNECTION, _TE):
        return _TOKENS.intersection(token.strip(b" \t") for token in value.lower().split(b","))
    elif kind == _CODING:
        if value.lower() != b"chunked":
            raise ParseError("transfer coding not implemented", 501)
    elif kind == _EXPECT and value.lower() != b"100-continue":
        raise ParseError("expectation failed", 417)
    return value


def _interpret(block: FieldBlock, special: list[tuple[int, Any]], version: str) -> None:
    """Reads what frames the message into `block`; strict where parsers disagree.

    Args:
        special: The kind of each special field and the verdict on it.
    """
    hosts = lengths = codings = 0
    http_1_1 = version == "1.1"
    for kind, verdict in special:
        if kind == _HOST:
            hosts += 1
        elif kind == _CONNECTION:
            block.close = block.close or b"close" in verdict
            block.keep_alive = block.keep_alive or b"keep-alive" in verdict
        elif kind == _LENGTH:
            lengths += 1
            block.content_length = verdict
        elif kind == _CODING:
            codings += 1
            block.chunked = True
        elif kind == _EXPECT:
            # RFC 9110 section 10.1.1: from an HTTP/1.0 client it must be ignored.
            block.expect_continue = http_1_1
        elif kind == _UPGRADE:
            # RFC 9110 section 7.8: from an HTTP/1.0 client it must be ignored.
            block.upgrade = verdict if http_1_1 else None
        elif kind == _TE:
            # RFC 9110 section 10.1.4: the client will not drop trailer fields.
            block.takes_trailers = block.takes_trailers or b"trailers" in verdict
        else:
            block.forwarded = True
    # RFC 9112 section 3.2: exactly one Host in HTTP/1.1, never more than one.
    if hosts != 1 and (hosts > 1 or http_1_1):
        raise ParseError("exactly one Host is needed")
    # RFC 9112 section 6.3: several or contradicting lengths; refused, never repaired.
    if lengths > 1 or codings > 1 or (lengths and codings):
        raise ParseError("conflicting message lengths")
    if codings and version == "1.0":
        raise ParseError("Transfer-Encoding in an HTTP/1.0 request")
    block.plain = (
        http_1_1
        and block.content_length <= 0
        and not block.chunked
        and not block.close
        and not block.expect_continue
        and not block.takes_trailers
        and not (block.upgrade and b"websocket" in block.upgrade.lower())
    )
