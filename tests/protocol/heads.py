"""Request heads for tests: what we make of one, what h11 makes of it, and how to spoil one."""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

import h11

from pounce.errors import ProtocolError
from pounce.protocol.h1_head import FieldBlock, HeadParser, RequestHead, RequestLine

CRLF2: Final = b"\r\n\r\n"

Facts = dict[str, Any]


def parse(head: bytes, parser: HeadParser | None = None) -> RequestHead:
    """What the parser says of `head`, cut out as the connection cuts it out."""
    parser = parser or HeadParser()
    return parser.parse(head, head.index(b"\r\n"), head.index(CRLF2))


def facts(head: RequestHead) -> Facts:
    """All that is known of a head, comparable."""
    found = {name: getattr(head.line, name) for name in RequestLine.__slots__}
    found.update((name, getattr(head.block, name)) for name in FieldBlock.__slots__)
    return found


def verdict(head: bytes, parser: HeadParser | None = None) -> Facts | int:
    """All that is known of an accepted head, the status for a refused one."""
    try:
        return facts(parse(head, parser))
    except ProtocolError as exc:
        return exc.status


def as_head(data: bytes) -> bytes:
    """A head as a connection cuts it out: up to its end, without empty lines before it."""
    while data.startswith(b"\r\n"):
        data = data[2:]
    data += CRLF2
    return data[: data.index(CRLF2) + 4]


class NotingParser(HeadParser):
    """Notes which of the two ways a head went."""

    delegated = False

    def _delegate(self, line: RequestLine, raw_line: bytes, raw_block: bytes) -> RequestHead:
        self.delegated = True
        return super()._delegate(line, raw_line, raw_block)


class H11Verdict(NamedTuple):
    """What h11 says of a head it accepts."""

    method: bytes
    target: bytes
    http_version: bytes
    headers: list[tuple[bytes, bytes]]
    content_length: int
    """0 when there is no content, -1 for the chunked coding."""
    persists: bool | None
    """None where only a content too long to be sent here would tell."""


def ask_h11(head: bytes) -> H11Verdict | None:
    """What h11 says of `head`, by what it does with the bytes after it; None when it refuses."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 30)
    connection.receive_data(head)
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        after = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    length = 0
    if not isinstance(after, h11.EndOfMessage):
        assert after is h11.NEED_DATA
        fields = dict(request.headers)
        length = -1 if b"transfer-encoding" in fields else int(fields[b"content-length"])
        if length > 1 << 16:
            return H11Verdict(*_line(request), list(request.headers), length, None)
        connection.receive_data(b"0\r\n\r\n" if length < 0 else b"x" * length)
        while not isinstance(after, h11.EndOfMessage):
            assert after is not h11.PAUSED
            after = connection.next_event()
    if connection.their_state not in (h11.DONE, h11.MUST_CLOSE):
        connection.send(h11.Response(status_code=403, headers=[]))  # it does not switch
    persists = connection.their_state is not h11.MUST_CLOSE
    return H11Verdict(*_line(request), list(request.headers), length, persists)


def _line(request: h11.Request) -> tuple[bytes, bytes, bytes]:
    return request.method, request.target, request.http_version


def disagreement(ours: RequestHead, theirs: H11Verdict | None) -> str | None:
    """Where our verdict on an accepted head differs from h11's; None when it does not."""
    if theirs is None:
        return "h11 refuses"
    line, block = ours
    differing = []
    if line.method.encode() != theirs.method:
        differing.append(f"method {line.method!r} {theirs.method!r}")
    if line.authority is None:
        if line.target != theirs.target:
            differing.append(f"target {line.target!r} {theirs.target!r}")
    elif not theirs.target.lower().partition(b"://")[2].startswith(line.authority.lower()):
        differing.append(f"authority {line.authority!r} {theirs.target!r}")
    if line.http_version != ("1.0" if theirs.http_version == b"1.0" else "1.1"):
        differing.append(f"version {line.http_version!r} {theirs.http_version!r}")
    pairs, headers = list(block.pairs), theirs.headers
    if line.authority is not None:
        # RFC 9112 section 3.2.2: an absolute-form target overrides Host.
        assert pairs[0] == (b"host", line.authority)
        pairs = [pair for pair in pairs if pair[0] != b"host"]
        headers = [pair for pair in headers if pair[0] != b"host"]
    # h11 writes the coding in small letters.
    pairs = [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in pairs]
    if pairs != headers:
        differing.append(f"fields {pairs!r} {headers!r}")
    length = -1 if block.chunked else max(0, block.content_length)
    if length != theirs.content_length:
        differing.append(f"length {length} {theirs.content_length}")
    # h11 never keeps an HTTP/1.0 connection.
    if line.http_version == "1.1" and theirs.persists not in (None, not block.close):
        differing.append(f"close {block.close}, persists {theirs.persists}")
    return "; ".join(differing) or None


# Heads to begin from: the ordinary ones and one for each rule.
SEEDS: Final = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /plaintext HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: */*\r\n\r\n",
    (
        b"GET /a/b?c=d&e=%20 HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X11)\r\n"
        b"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en;q=0.5\r\n"
        b"Accept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nCookie: a=b; c=d\r\n"
        b"Upgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\n\r\n"
    ),
    (
        b"POST /form HTTP/1.1\r\nHost: a:80\r\nContent-Type: text/plain\r\n"
        b"Content-Length: 12\r\n\r\n"
    ),
    b"POST / HTTP/1.1\r\nContent-Length: 0\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"PUT /u HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n",
    b"PUT /u HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n",
    b"PUT /u HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: x, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET http://b.example/x?y HTTP/1.1\r\nHost: a\r\nX: \xe4\t y \r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.2\r\nHost: [2001:db8::1]:8080\r\nX-Forwarded-For: 192.0.2.1, 10.0.0.1\r\n\r\n",
    b"DELETE /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\nEmpty:\r\nTE: trailers\r\n\r\n",
]

# What is put in somewhere: the bytes that parsers disagree on, and pieces that mean something.
TOKENS: Final = [
    *[bytes([byte]) for byte in b"\r\n\x00\t :;,/#\\\"'%?@[]{}|<>=*+-_.0159aZ\x01\x0b\x0c\x1f\x7f"],
    *[b"\x80", b"\xff", b"\r\n", b"\n\n", b"\r\r\n", b"\n ", b"\r\n ", b"\r\n\t", b"\r\n\r", b"  "],
    *[
        b"Host: a\r\n",
        b"Host:\r\n",
        b"Host: a:b\r\n",
        b"Host: u@a\r\n",
        b"Host: a/b\r\n",
        b"host:a",
    ],
    *[
        b"Content-Length: 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"1_0",
        b"0x",
    ],
    *[b"Content-Length : 5\r\n", b"Content-Length: 99999999999999999999\r\n", b"5,", b" 5", b"-1"],
    *[b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"xchunked"],
    *[b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding\r\n", b"Transfer-Encoding: \r\n"],
    *[b"Expect: 100-continue\r\n", b"Expect: more\r\n", b"Upgrade: h2c\r\n", b"TE: trailers\r\n"],
    *[b"Connection: close\r\n", b"Connection: x, Close\r\n", b"Connection: clos e\r\n", b", close"],
    *[
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"HTTP/1.10",
        b"http/1.1",
        b"HTTP/11",
        b" HTTP/1.1\r\n",
    ],
    *[
        b"1.1\n",
        b"1.0\n",
        b"http://",
        b"https://h:1",
        b"//",
        b"/../",
        b"%00",
        b"*",
        b"CONNECT ",
        b"GET ",
    ],
]


def mutate(rng: random.Random) -> bytes:
    """A seed with one to four small changes, still ending like a head."""
    head = bytearray(rng.choice(SEEDS))
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 4))):
        _CHANGES[int(rng.random() * len(_CHANGES))](head, rng)
    return as_head(bytes(head))


def _position(head: bytearray, rng: random.Random) -> int:
    return int(rng.random() * (len(head) + 1))


def _insert_token(head: bytearray, rng: random.Random) -> None:
    position = _position(head, rng)
    head[position:position] = rng.choice(TOKENS)


def _insert_line(head: bytearray, rng: random.Random) -> None:
    position = head.find(b"\r\n", _position(head, rng)) + 2
    token = rng.choice(TOKENS)
    head[position:position] = token if token.endswith(b"\n") else token + b"\r\n"


def _replace_by_token(head: bytearray, rng: random.Random) -> None:
    position = _position(head, rng)
    head[position : position + rng.randrange(4)] = rng.choice(TOKENS)


def _flip_bit(head: bytearray, rng: random.Random) -> None:
    head[_position(head, rng) - 1] ^= 1 << rng.randrange(8)


def _set_byte(head: bytearray, rng: random.Random) -> None:
    head[_position(head, rng) - 1] = rng.randrange(256)


def _delete(head: bytearray, rng: random.Random) -> None:
    position = _position(head, rng)
    if len(head) > 8:
        del head[position : position + rng.choice((1, 1, 2, 4))]


def _swap_case(head: bytearray, rng: random.Random) -> None:
    position = _position(head, rng)
    head[position : position + 8] = head[position : position + 8].swapcase()


def _repeat_line(head: bytearray, rng: random.Random) -> None:
    lines = bytes(head).split(b"\r\n")
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    head[:] = b"\r\n".join(lines)


def _splice(head: bytearray, rng: random.Random) -> None:
    other = rng.choice(SEEDS)
    begin = rng.randrange(len(other))
    position = _position(head, rng)
    head[position:position] = other[begin : begin + rng.randrange(40)]


_CHANGES: Final = (
    _insert_token,
    _insert_line,
    _insert_line,
    _replace_by_token,
    _flip_bit,
    _set_byte,
    _delete,
    _swap_case,
    _repeat_line,
    _splice,
)
