"""Request heads of HTTP/2: a decoded field section to a `RequestHead` (RFC 9113 section 8).

What RFC 9113 calls malformed is an error of the stream, and nothing of it reaches the application.
What is well-formed HTTP/2, but more than the limits allow or nothing that an HTTP server takes, is
answered with a status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

from pounce.errors import ProtocolError
from pounce.protocol import grammar
from pounce.protocol.h1_head import Pair, RequestLine
from pounce.protocol.h2.interface import H2Limits, RequestHead
from pounce.protocol.h2.priority import parse_priority

_REMEMBERED_FIELDS: Final = 2048
"""Of all connections, as their clients send much the same; a full table is emptied."""

_REMEMBERED_BYTES: Final = 256
"""Of name and value; longer fields are checked each time."""

_known_fields: dict[Pair, int] = {}
"""Fields that are well-formed, and their kinds."""

ENTRY_OVERHEAD: Final = 32
"""What each field counts beyond its name and value (RFC 9113 section 6.5.2)."""


class MalformedHead(ProtocolError):
    """The stream is reset with PROTOCOL_ERROR (RFC 9113 section 8.1.1)."""


class Refusal(NamedTuple):
    """What a request is answered with that the application shall not see."""

    status: int
    reason: str


# RFC 9113 section 8.2.1: names are lower case. Names that are no token are refused too, which the
# RFC leaves open: an application that writes them on would write something else.
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9110 section 5.5; no white space around it (RFC 9113 section 8.2.1).
_VALUE: Final = re.compile(
    rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
)
_METHOD: Final = re.compile(grammar.TOKEN)
_SCHEME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_TARGET: Final = re.compile(grammar.TARGET_CHAR + rb"+")

_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority", b":protocol"})

_HOST, _LENGTH, _COOKIE, _EXPECT, _TE, _FORWARDED, _PRIORITY, _CONNECTION = range(1, 9)
_SPECIAL: Final = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"cookie": _COOKIE,
    b"expect": _EXPECT,
    b"te": _TE,
    b"x-forwarded-for": _FORWARDED,
    b"x-forwarded-proto": _FORWARDED,
    b"priority": _PRIORITY,
    # RFC 9113 section 8.2.2.
    b"connection": _CONNECTION,
    b"proxy-connection": _CONNECTION,
    b"keep-alive": _CONNECTION,
    b"transfer-encoding": _CONNECTION,
    b"upgrade": _CONNECTION,
}


def list_size(pairs: Iterable[Pair]) -> int:
    """The size that SETTINGS_MAX_HEADER_LIST_SIZE limits (RFC 9113 section 6.5.2)."""
    return sum([len(name) + len(value) + ENTRY_OVERHEAD for name, value in pairs])


def read_request_head(
    pairs: Sequence[Pair], limits: H2Limits, size: int | None = None
) -> tuple[RequestHead, Refusal | None]:
    """The head of a request, and what to answer where the application shall not see it.

    Args:
        pairs: As they were decoded, pseudo-fields among them.
        size: Their `list_size`, where that is known.

    Raises:
        MalformedHead: RFC 9113 sections 8.2 and 8.3 forbid it.
    """
    pseudo, fields = _part(pairs)
    line, scheme, refusal = _read_line(pseudo, limits)
    head = RequestHead(line, (), scheme)
    head.protocol = _text(pseudo.get(b":protocol"))
    refusal = _read_fields(head, fields, limits) or refusal
    # What is too much is said first: the rest of such a head is nobody's concern.
    if len(pairs) > limits.header_fields + len(pseudo):
        refusal = Refusal(431, "too many header fields")
    elif (list_size(pairs) if size is None else size) > limits.header_list_size:
        refusal = Refusal(431, "header fields too large")
    elif len(pseudo.get(b":path", b"")) > limits.target_size:
        refusal = Refusal(414, "request target too long")
    return head, refusal


def check_trailers(pairs: Iterable[Pair]) -> None:
    """Trailers carry no pseudo-fields (RFC 9113 section 8.1).

    Raises:
        MalformedHead: They do, or a field is malformed.
    """
    for name, value in pairs:
        _check_field(name, value)
        if _SPECIAL.get(name) == _CONNECTION:
            raise MalformedHead("connection-specific field in trailers")


def _part(pairs: Sequence[Pair]) -> tuple[dict[bytes, bytes], Sequence[Pair]]:
    """The pseudo-fields, which come first, and the others."""
    pseudo: dict[bytes, bytes] = {}
    at = 0
    for name, value in pairs:
        if not name.startswith(b":"):
            break
        if name not in _PSEUDO:
            raise MalformedHead("unknown pseudo-field")
        if name in pseudo:
            raise MalformedHead("repeated pseudo-field")
        if _VALUE.fullmatch(value) is None:
            raise MalformedHead("malformed pseudo-field")
        pseudo[name] = value
        at += 1
    return pseudo, pairs[at:]


def _read_line(
    pseudo: dict[bytes, bytes], limits: H2Limits
) -> tuple[RequestLine, str, Refusal | None]:
    """What a request line would say (RFC 9113 sections 8.3.1 and 8.5)."""
    method = pseudo.get(b":method", b"")
    if _METHOD.fullmatch(method) is None:
        raise MalformedHead("no method")
    path, scheme = pseudo.get(b":path"), pseudo.get(b":scheme")
    authority = pseudo.get(b":authority")
    is_extended = b":protocol" in pseudo
    if is_extended and not (limits.extended_connect and method == b"CONNECT"):
        raise MalformedHead("extended CONNECT was not offered")
    if method == b"CONNECT" and not is_extended:
        if path is not None or scheme is not None or authority is None:
            raise MalformedHead("CONNECT has an authority and nothing else")
        refusal = None
        if grammar.AUTHORITY_FORM.fullmatch(authority) is None:
            refusal = Refusal(400, "CONNECT needs a host and a port")
        return _line(method, authority, authority), "", refusal
    if not path or scheme is None or _SCHEME.fullmatch(scheme) is None:
        raise MalformedHead("no path or no scheme")
    if is_extended and authority is None:
        raise MalformedHead("extended CONNECT without authority")
    refusal = None
    if not (path.startswith(b"/") or (path == b"*" and method == b"OPTIONS")):
        raise MalformedHead("malformed path")
    if _TARGET.fullmatch(path) is None:
        refusal = Refusal(400, "malformed request target")
    elif authority is not None and grammar.HOST.fullmatch(authority) is None:
        refusal = Refusal(400, "malformed authority")
    return _line(method, path, authority), scheme.decode("ascii").lower(), refusal


def _line(method: bytes, target: bytes, authority: bytes | None) -> RequestLine:
    if not target.isascii():  # it is refused, but the log has it
        target = quote_from_bytes(target, safe=_QUOTE_NOT).encode("ascii")
    return RequestLine(method.decode("ascii"), target, "2", authority)


_QUOTE_NOT: Final = bytes(range(0x21, 0x7F))


def _read_fields(head: RequestHead, fields: Sequence[Pair], limits: H2Limits) -> Refusal | None:
    """Takes the fields into `head`."""
    pairs: list[Pair] = []
    refusal = None
    host = head.line.authority
    is_host_given = False
    cookie_at = -1
    crumbs: list[bytes] = []
    priorities: list[bytes] = []
    for pair in fields:
        kind = _known_fields.get(pair)
        if kind is None:
            kind = _kind_of(pair)
        if kind == 0:
            pairs.append(pair)
            continue
        value = pair[1]
        if kind == _HOST:
            if is_host_given or (host is not None and value.lower() != host.lower()):
                raise MalformedHead("Host contradicts the authority")
            is_host_given = True
            host = host or value
            continue  # it goes first
        if kind == _CONNECTION or (kind == _TE and value.lower() != b"trailers"):
            raise MalformedHead("connection-specific field")
        if kind == _COOKIE:
            crumbs.append(value)
            if cookie_at >= 0:
                continue
            cookie_at = len(pairs)
        elif kind == _LENGTH:
            _read_length(head, value)
        elif kind == _TE:
            head.takes_trailers = True
        elif kind == _FORWARDED:
            head.forwarded = True
        elif kind == _PRIORITY:
            priorities.append(value)
        elif value.lower() == b"100-continue":
            head.expect_continue = True
        else:
            refusal = Refusal(417, "expectation failed")
        pairs.append(pair)
    if len(crumbs) > 1:  # RFC 9113 section 8.2.3
        pairs[cookie_at] = (b"cookie", b"; ".join(crumbs))
    if host is None:
        refusal = refusal or Refusal(400, "no authority")
    else:
        if head.line.authority is None and grammar.HOST.fullmatch(host) is None:
            refusal = refusal or Refusal(400, "malformed Host")
        pairs.insert(0, (b"host", host))
    if priorities:
        head.urgency, head.incremental = parse_priority(b",".join(priorities))
    if limits.body_size and head.content_length > limits.body_size:
        refusal = Refusal(413, "request body too large")
    head.pairs = tuple(pairs)
    return refusal


def _kind_of(pair: Pair) -> int:
    """Which special field it is, 0 for one that is only carried; remembered for the next time."""
    name, value = pair
    _check_field(name, value)
    kind = _SPECIAL.get(name, 0)
    if len(name) + len(value) <= _REMEMBERED_BYTES:
        if len(_known_fields) >= _REMEMBERED_FIELDS:
            _known_fields.clear()
        _known_fields[pair] = kind
    return kind


def _check_field(name: bytes, value: bytes) -> None:
    if _NAME.fullmatch(name) is None:
        raise MalformedHead("malformed field name")
    if _VALUE.fullmatch(value) is None:
        raise MalformedHead("malformed field value")


def _read_length(head: RequestHead, value: bytes) -> None:
    if head.content_length >= 0 or grammar.CONTENT_LENGTH.fullmatch(value) is None:
        raise MalformedHead("malformed or repeated content-length")
    head.content_length = int(value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
