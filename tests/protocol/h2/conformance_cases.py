"""What a peer can do wrong by RFC 9113 and RFC 7541, as raw frames, and what must come of it.

Each case follows a good greeting, unless it says otherwise. A few are about what must NOT be an
error, because implementations have got it wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pounce.protocol.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    NO_RFC7540_PRIORITIES,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_UPDATE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    rst_stream,
    settings,
    window_update,
)
from pounce.protocol.h2.interface import ErrorCode, H2Limits

Pair = tuple[bytes, bytes]

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
CLOSED = ErrorCode.STREAM_CLOSED
SIZE = ErrorCode.FRAME_SIZE_ERROR
COMPRESSION = ErrorCode.COMPRESSION_ERROR
REFUSED = ErrorCode.REFUSED_STREAM
CALM = ErrorCode.ENHANCE_YOUR_CALM

GREETING = PREFACE + settings([])

GET: tuple[Pair, ...] = (
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/"),
    (b":authority", b"example.org"),
)
POST: tuple[Pair, ...] = ((b":method", b"POST"), *GET[1:])


def literal(name: bytes, value: bytes) -> bytes:
    """A field without indexing; name and value below 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def block(*pairs: Pair) -> bytes:
    return b"".join([literal(*pair) for pair in pairs])


GET_BLOCK = block(*GET)
POST_BLOCK = block(*POST)


def head(stream_id: int, *pairs: Pair, ended: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream_id, block(*pairs))


def get(stream_id: int, *fields: Pair) -> bytes:
    return head(stream_id, *GET, *fields)


def post(stream_id: int, *fields: Pair) -> bytes:
    """A request whose body is still to come."""
    return head(stream_id, *POST, *fields, ended=False)


def data(stream_id: int, content: bytes, *, ended: bool = False) -> bytes:
    return frame(DATA, END_STREAM if ended else 0, stream_id, content)


@dataclass(frozen=True)
class Case:
    """What the peer sends, and the codes that must come of it.

    Args:
        fails: The code of the GOAWAY, None when the connection goes on.
        resets: The stream and code of each RST_STREAM.
        requests: The streams that reach the server.
        answers: The streams which the server answers as soon as they have ended.
    """

    name: str
    sent: bytes
    fails: ErrorCode | None = None
    resets: tuple[tuple[int, ErrorCode], ...] = ()
    requests: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()
    greeting: bytes = GREETING
    limits: H2Limits = field(default_factory=H2Limits)


def fails(name: str, sent: bytes, code: ErrorCode, *requests: int, greeting: bytes = GREETING,
          answers: tuple[int, ...] = (), limits: H2Limits | None = None) -> Case:  # fmt: skip
    return Case(name, sent, code, (), requests, answers, greeting, limits or H2Limits())


def resets(name: str, sent: bytes, code: ErrorCode, *requests: int, stream: int = 1,
           limits: H2Limits | None = None) -> Case:  # fmt: skip
    return Case(name, sent, None, ((stream, code),), requests, limits=limits or H2Limits())


def fine(name: str, sent: bytes, *requests: int, answers: tuple[int, ...] = (),
         limits: H2Limits | None = None) -> Case:  # fmt: skip
    return Case(name, sent, None, (), requests, answers, limits=limits or H2Limits())


def malformed(name: str, *pairs: Pair) -> Case:
    """A request that RFC 9113 section 8.1.1 calls malformed."""
    return resets(name, head(1, *pairs), PROTOCOL)


def _without(name: bytes) -> tuple[Pair, ...]:
    return tuple(pair for pair in GET if pair[0] != name)


def _with(name: bytes, value: bytes) -> tuple[Pair, ...]:
    return tuple((n, value if n == name else v) for n, v in GET)


_PRIORITY_OF_3 = (3).to_bytes(4, "big") + b"\x10"
_PRIORITY_OF_1 = (1).to_bytes(4, "big") + b"\x10"
_ALL = END_HEADERS | END_STREAM

STARTING = [  # section 3.4
    fails("another preface", b"", PROTOCOL, greeting=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    fails("a preface that ends wrong", b"", PROTOCOL, greeting=PREFACE[:-2] + b"xx"),
    fails("no settings", b"", PROTOCOL, greeting=PREFACE + frame(PING, 0, 0, bytes(8))),
    fails("settings that acknowledge", b"", PROTOCOL, greeting=PREFACE + frame(SETTINGS, ACK, 0)),
    fails("a request first", b"", PROTOCOL, greeting=PREFACE + get(1)),
]

FRAMES = [  # section 4
    fine("an unknown type", frame(0x55, 0xFF, 0, b"what") + frame(0xFE, 0, 9, b"") + get(1), 1),
    fine("unknown flags", frame(PING, 0xFE, 0, bytes(8))),
    fine("the reserved bit", frame(HEADERS, _ALL, 1 | 1 << 31, GET_BLOCK), 1),
    fails("too large a DATA frame", post(1) + data(1, bytes(16385)), SIZE, 1),
    fails("too large a HEADERS frame", frame(HEADERS, _ALL, 1, bytes(16385)), SIZE),
    fails("too large an unknown frame", frame(0x55, 0, 0, bytes(16385)), SIZE),
    fails("too large a SETTINGS frame", frame(SETTINGS, 0, 0, bytes(6 * 2731)), SIZE),
]

# "x-test", with seven bits of padding, which is the most.
_HUFFMAN_NAME = b"\x00\x85\xf2\xb2\x4a\x84\xff"

BLOCKS = [  # section 4.3, RFC 7541
    fails("an index of 0", frame(HEADERS, _ALL, 1, b"\x80"), COMPRESSION),
    fails("an index beyond the tables", frame(HEADERS, _ALL, 1, b"\xff\x80\x01"), COMPRESSION),
    fails("an index of the empty table", frame(HEADERS, _ALL, 1, b"\xbe"), COMPRESSION),
    fails("a name beyond the tables", frame(HEADERS, _ALL, 1, b"\x7f\x60\x00"), COMPRESSION),
    fails("a literal that ends early", frame(HEADERS, _ALL, 1, b"\x00\x05ab"), COMPRESSION),
    fails("a value that ends early", frame(HEADERS, _ALL, 1, b"\x00\x01a\x05b"), COMPRESSION),
    fails("a literal without value", frame(HEADERS, _ALL, 1, b"\x00\x01a"), COMPRESSION),
    fails("an integer that ends early", frame(HEADERS, _ALL, 1, b"\xff\x80"), COMPRESSION),
    fails("an endless integer", frame(HEADERS, _ALL, 1, b"\xff" + b"\x80" * 20 + b"\x01"),
          COMPRESSION),
    fails("a huge table", frame(HEADERS, _ALL, 1, b"\x3f\xe2\x1f" + GET_BLOCK), COMPRESSION),
    fails("a table update behind a field", frame(HEADERS, _ALL, 1, GET_BLOCK + b"\x20"),
          COMPRESSION),
    fine("a table update before the fields", frame(HEADERS, _ALL, 1, b"\x20\x3f\xe1\x1f" +
         GET_BLOCK), 1),
    fails("Huffman padding of a byte", frame(HEADERS, _ALL, 1, GET_BLOCK + _HUFFMAN_NAME
          + b"\x84\x49\x50\x9f\xff"), COMPRESSION),
    fails("Huffman padding that is not EOS", frame(HEADERS, _ALL, 1, GET_BLOCK + _HUFFMAN_NAME
          + b"\x83\x49\x50\x90"), COMPRESSION),
    fails("Huffman with EOS", frame(HEADERS, _ALL, 1, GET_BLOCK + _HUFFMAN_NAME
          + b"\x87\x49\x50\x9f\xff\xff\xff\xff"), COMPRESSION),
    fine("Huffman", frame(HEADERS, _ALL, 1, GET_BLOCK + _HUFFMAN_NAME + b"\x83\x49\x50\x9f"), 1),
    fails("a broken block in trailers", post(1) + frame(HEADERS, _ALL, 1, b"\x80"), COMPRESSION, 1),
    fails("a block behind a reset still counts",
          post(1, (b"te", b"gzip")) + frame(HEADERS, _ALL, 1, b"\x80"), COMPRESSION),
    fails("DATA in a block", frame(HEADERS, 0, 1, GET_BLOCK) + data(1, b"x"), PROTOCOL),
    fails("another stream's CONTINUATION in a block", frame(HEADERS, 0, 1, GET_BLOCK)
          + frame(CONTINUATION, END_HEADERS, 3, b""), PROTOCOL),
    fails("HEADERS in a block", frame(HEADERS, 0, 1, GET_BLOCK) + get(3), PROTOCOL),
    fails("PRIORITY in a block", frame(HEADERS, 0, 1, GET_BLOCK)
          + frame(PRIORITY, 0, 1, _PRIORITY_OF_3), PROTOCOL),
    fails("an unknown frame in a block", frame(HEADERS, 0, 1, GET_BLOCK) + frame(0x55, 0, 0),
          PROTOCOL),
    fine("a block in pieces", frame(HEADERS, END_STREAM, 1, GET_BLOCK[:5])
         + frame(CONTINUATION, 0, 1, GET_BLOCK[5:9]) + frame(CONTINUATION, 0, 1, b"")
         + frame(CONTINUATION, END_HEADERS, 1, GET_BLOCK[9:]), 1),
]  # fmt: skip

STATES = [  # section 5.1
    fails("DATA on an idle stream", data(1, b"x"), PROTOCOL),
    fails("RST_STREAM on an idle stream", rst_stream(1, 8), PROTOCOL),
    fails("WINDOW_UPDATE on an idle stream", window_update(1, 1), PROTOCOL),
    fails("CONTINUATION on an idle stream", frame(CONTINUATION, END_HEADERS, 1), PROTOCOL),
    fails("DATA on a stream of ours", data(2, b"x"), PROTOCOL),
    fails("WINDOW_UPDATE on a stream of ours", window_update(2, 1), PROTOCOL),
    fails("RST_STREAM on a stream of ours", rst_stream(2, 8), PROTOCOL),
    resets("DATA behind the end of the request", get(1) + data(1, b"x"), CLOSED, 1),
    resets("HEADERS behind the end of the request", get(1) + get(1), CLOSED, 1),
    fails("CONTINUATION behind the end of the request",
          get(1) + frame(CONTINUATION, END_HEADERS, 1, GET_BLOCK), PROTOCOL, 1),
    fails("DATA on a closed stream", get(1) + data(1, b"x"), CLOSED, 1, answers=(1,)),
    fails("HEADERS on a closed stream", get(1) + get(1), CLOSED, 1, answers=(1,)),
    fails("CONTINUATION on a closed stream",
          get(1) + frame(CONTINUATION, END_HEADERS, 1, GET_BLOCK), PROTOCOL, 1, answers=(1,)),
    resets("DATA behind the peer's reset", post(1) + rst_stream(1, 8) + data(1, b"x"), CLOSED, 1),
    resets("HEADERS behind the peer's reset", post(1) + rst_stream(1, 8) + get(1), CLOSED, 1),
    fine("WINDOW_UPDATE, RST_STREAM and PRIORITY on a closed stream",
         get(1) + window_update(1, 1) + rst_stream(1, 8) + frame(PRIORITY, 0, 1, _PRIORITY_OF_3), 1,
         answers=(1,)),
    resets("what is under way on a stream that was reset is ignored",
           post(1, (b"te", b"gzip")) + data(1, b"x") + window_update(1, 1)
           + head(1, (b"a", b"b")) + rst_stream(1, 8), PROTOCOL),
    fails("an even stream", get(2), PROTOCOL),
    fails("a lower stream", get(5) + get(3), PROTOCOL, 5),
    fails("stream 0", frame(HEADERS, _ALL, 0, GET_BLOCK), PROTOCOL),
    resets("one stream too many", post(1) + post(3) + post(5), REFUSED, 1, 3, stream=5,
           limits=H2Limits(concurrent_streams=2)),
]  # fmt: skip

DATA_FRAMES = [  # section 6.1
    fails("DATA on stream 0", data(0, b"x"), PROTOCOL),
    fails("more padding than DATA", post(1) + frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL, 1),
    fails("as much padding as DATA", post(1) + frame(DATA, PADDED, 1, b"\x04abc"), PROTOCOL, 1),
    fails("padded DATA without length", post(1) + frame(DATA, PADDED, 1, b""), SIZE, 1),
    fine("DATA of padding only", post(1) + frame(DATA, PADDED | END_STREAM, 1, b"\x03\0\0\0"), 1),
]

HEADERS_FRAMES = [  # sections 6.2, 6.10
    fails("more padding than HEADERS", frame(HEADERS, _ALL | PADDED, 1, b"\xff" + GET_BLOCK),
          PROTOCOL),
    fails("padded HEADERS without length", frame(HEADERS, _ALL | PADDED, 1, b""), SIZE),
    fails("HEADERS without its priority", frame(HEADERS, _ALL | HAS_PRIORITY, 1, b"\0\0"), SIZE),
    fine("padding and priority", frame(HEADERS, _ALL | PADDED | HAS_PRIORITY, 1,
         b"\x02" + _PRIORITY_OF_3 + GET_BLOCK + b"\0\0"), 1),
    resets("HEADERS that depend on themselves", frame(HEADERS, _ALL | HAS_PRIORITY, 1,
           _PRIORITY_OF_1 + GET_BLOCK), PROTOCOL),
    fails("CONTINUATION of nothing", get(1) + frame(CONTINUATION, END_HEADERS, 1), PROTOCOL, 1),
    fails("CONTINUATION on stream 0", frame(HEADERS, END_STREAM, 1, GET_BLOCK)
          + frame(CONTINUATION, END_HEADERS, 0), PROTOCOL),
    fails("many CONTINUATION frames", frame(HEADERS, END_STREAM, 1, GET_BLOCK)
          + frame(CONTINUATION, 0, 1) * 17, CALM),
]  # fmt: skip

PRIORITY_FRAMES = [  # section 6.3, RFC 9218
    fine("PRIORITY on an idle stream", frame(PRIORITY, 0, 1, _PRIORITY_OF_3) + get(1), 1),
    fails("PRIORITY on stream 0", frame(PRIORITY, 0, 0, _PRIORITY_OF_3), PROTOCOL),
    resets("a short PRIORITY", post(1) + frame(PRIORITY, 0, 1, b"\0\0\0\3"), SIZE, 1),
    resets("a PRIORITY that depends on itself",
           post(1) + frame(PRIORITY, 0, 1, _PRIORITY_OF_1), PROTOCOL, 1),
    fails("PRIORITY_UPDATE on a stream", post(1) + frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\1u=1"),
          PROTOCOL, 1),
    fails("PRIORITY_UPDATE of stream 0", frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\0u=1"), PROTOCOL),
    fails("a short PRIORITY_UPDATE", frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0"), SIZE),
    fine("PRIORITY_UPDATE of an idle stream", frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\1u=1")
         + get(1), 1),
    fine("a PRIORITY_UPDATE of nonsense", post(1) + frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\1==,"),
         1),
]  # fmt: skip

RESETS = [  # section 6.4
    fails("RST_STREAM on stream 0", rst_stream(0, 8), PROTOCOL),
    fails("a short RST_STREAM", post(1) + frame(RST_STREAM, 0, 1, b"\0\0\0"), SIZE, 1),
    fails("a long RST_STREAM", post(1) + frame(RST_STREAM, 0, 1, bytes(5)), SIZE, 1),
    fine("RST_STREAM with an unknown code", post(1) + rst_stream(1, 0xFFFF), 1),
]

SETTINGS_FRAMES = [  # section 6.5
    fails("SETTINGS on a stream", frame(SETTINGS, 0, 1), PROTOCOL),
    fails("an acknowledgement with settings", frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    fails("half a setting", frame(SETTINGS, 0, 0, bytes(3)), SIZE),
    fails("ENABLE_PUSH of 2", settings([(ENABLE_PUSH, 2)]), PROTOCOL),
    fails("too large an initial window", settings([(INITIAL_WINDOW_SIZE, 2**31)]), FLOW),
    fails("too small a frame size", settings([(MAX_FRAME_SIZE, 16383)]), PROTOCOL),
    fails("too large a frame size", settings([(MAX_FRAME_SIZE, 2**24)]), PROTOCOL),
    fails("ENABLE_CONNECT_PROTOCOL of 2", settings([(ENABLE_CONNECT_PROTOCOL, 2)]), PROTOCOL),
    fails("NO_RFC7540_PRIORITIES of 2", settings([(NO_RFC7540_PRIORITIES, 2)]), PROTOCOL),
    fine("an unknown setting", settings([(0xFF, 1)])),
    fine("the largest settings", settings([(INITIAL_WINDOW_SIZE, 2**31 - 1),
         (MAX_FRAME_SIZE, 2**24 - 1)])),
    fails("an initial window that overflows a stream's",
          post(1) + window_update(1, 2**31 - 1 - 65535)
          + settings([(INITIAL_WINDOW_SIZE, 65536)]), FLOW, 1),
]  # fmt: skip

OTHERS = [  # sections 6.6 to 6.9
    fails("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2"), PROTOCOL),
    fails("PING on a stream", post(1) + frame(PING, 0, 1, bytes(8)), PROTOCOL, 1),
    fails("a short PING", frame(PING, 0, 0, bytes(6)), SIZE),
    fails("a long PING", frame(PING, ACK, 0, bytes(9)), SIZE),
    fine("an acknowledgement of no PING", frame(PING, ACK, 0, bytes(8))),
    fails("GOAWAY on a stream", post(1) + frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL, 1),
    fails("a short GOAWAY", frame(GOAWAY, 0, 0, bytes(7)), SIZE),
    fine("GOAWAY, and what goes on", post(1) + frame(GOAWAY, 0, 0, bytes(8) + b"bye")
         + data(1, b"x", ended=True), 1),
    fails("WINDOW_UPDATE of 0", window_update(0, 0), PROTOCOL),
    resets("WINDOW_UPDATE of 0 on a stream", post(1) + window_update(1, 0), PROTOCOL, 1),
    fails("a short WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    fails("a long WINDOW_UPDATE", post(1) + frame(WINDOW_UPDATE, 0, 1, bytes(5)), SIZE, 1),
    fails("a window that overflows", window_update(0, 2**31 - 65535), FLOW),
    fine("the largest window", window_update(0, 2**31 - 1 - 65535)),
    resets("a stream's window that overflows", post(1) + window_update(1, 2**31 - 65535), FLOW, 1),
    fails("a connection's window that is overrun", post(1) + post(3)
          + (data(1, bytes(16384)) + data(3, bytes(16384))) * 3, FLOW, 1, 3,
          limits=H2Limits(connection_window=65535)),
    resets("a stream's window that is overrun", frame(SETTINGS, ACK, 0) + post(1)
           + data(1, bytes(101)), FLOW, 1, limits=H2Limits(stream_window=100)),
]  # fmt: skip

MALFORMED = [  # section 8
    resets("a second head without the end", post(1) + head(1, *POST, ended=False), PROTOCOL, 1),
    resets("trailers without the end", post(1) + head(1, (b"a", b"b"), ended=False), PROTOCOL, 1),
    resets("a pseudo-field in trailers", post(1) + head(1, (b":method", b"GET")), PROTOCOL, 1),
    resets("a connection field in trailers", post(1) + head(1, (b"connection", b"a")), PROTOCOL, 1),
    fine("trailers", post(1) + data(1, b"x") + head(1, (b"a", b"b")), 1),
    malformed("an upper case name", *GET, (b"Accept", b"a")),
    malformed("an empty name", *GET, (b"", b"a")),
    malformed("a space in a name", *GET, (b"a b", b"a")),
    malformed("a colon in a name", *GET, (b"a:", b"a")),
    malformed("a control in a name", *GET, (b"a\x01", b"a")),
    malformed("beyond ASCII in a name", *GET, (b"a\xe4", b"a")),
    malformed("a NUL in a value", *GET, (b"a", b"a\0b")),
    malformed("a CR in a value", *GET, (b"a", b"a\rb")),
    malformed("an LF in a value", *GET, (b"a", b"a\nb")),
    malformed("a space before a value", *GET, (b"a", b" a")),
    malformed("a tab behind a value", *GET, (b"a", b"a\t")),
    malformed("a LF in the path", *_with(b":path", b"/\nb")),
    malformed("an unknown pseudo-field", *GET, (b":test", b"a")),
    malformed("a pseudo-field of responses", *GET, (b":status", b"200")),
    malformed("a pseudo-field behind a field", *GET[:3], (b"a", b"b"), GET[3]),
    malformed("no method", *_without(b":method")),
    malformed("no scheme", *_without(b":scheme")),
    malformed("no path", *_without(b":path")),
    malformed("an empty path", *_with(b":path", b"")),
    malformed("a method that is no token", *_with(b":method", b"G T")),
    *[malformed(f"a second {name.decode()}", *GET, (name, value)) for name, value in GET],
    malformed(":protocol that was not offered", *_with(b":method", b"CONNECT"),
              (b":protocol", b"websocket")),
    malformed("CONNECT with a path", *_with(b":method", b"CONNECT")),
    malformed("CONNECT without authority", (b":method", b"CONNECT")),
    malformed("connection", *GET, (b"connection", b"close")),
    malformed("keep-alive", *GET, (b"keep-alive", b"timeout=5")),
    malformed("proxy-connection", *GET, (b"proxy-connection", b"close")),
    malformed("transfer-encoding", *GET, (b"transfer-encoding", b"chunked")),
    malformed("upgrade", *GET, (b"upgrade", b"h2c")),
    malformed("te that is more than trailers", *GET, (b"te", b"trailers, deflate")),
    fine("te", get(1, (b"te", b"trailers")), 1),
    malformed("a host that contradicts the authority", *GET, (b"host", b"example.com")),
    fine("a host that is the authority", get(1, (b"host", b"Example.ORG")), 1),
    malformed("a content-length that is no number", *GET, (b"content-length", b"+1")),
    malformed("two content-lengths", *GET, (b"content-length", b"0"), (b"content-length", b"0")),
    malformed("a content-length without content", *GET, (b"content-length", b"1")),
    resets("less content than content-length",
           post(1, (b"content-length", b"2")) + data(1, b"x", ended=True), PROTOCOL, 1),
    resets("more content than content-length",
           post(1, (b"content-length", b"1")) + data(1, b"xy"), PROTOCOL, 1),
    resets("trailers before content-length is reached",
           post(1, (b"content-length", b"2")) + data(1, b"x") + head(1, (b"a", b"b")), PROTOCOL, 1),
    fine("content of the length it has",
         post(1, (b"content-length", b"2")) + data(1, b"x") + data(1, b"y", ended=True), 1),
]  # fmt: skip

_CONNECT = ((b":method", b"CONNECT"), (b":authority", b"example.org:443"))
_EXTENDED = (*_with(b":method", b"CONNECT"), (b":protocol", b"websocket"))
_OFFERED = H2Limits(extended_connect=True)

TUNNELS = [  # section 8.5, RFC 8441
    fine("CONNECT", head(1, *_CONNECT, ended=False) + data(1, b"x"), 1),
    malformed("CONNECT with a scheme", *_CONNECT, (b":scheme", b"https")),
    resets("fields behind CONNECT", head(1, *_CONNECT, ended=False) + head(1, (b"a", b"b")),
           PROTOCOL, 1),
    fine("extended CONNECT", head(1, *_EXTENDED, ended=False) + data(1, b"x"), 1, limits=_OFFERED),
    resets("extended CONNECT without a path",
           head(1, *[pair for pair in _EXTENDED if pair[0] != b":path"]), PROTOCOL,
           limits=_OFFERED),
    resets("extended CONNECT without a scheme",
           head(1, *[pair for pair in _EXTENDED if pair[0] != b":scheme"]), PROTOCOL,
           limits=_OFFERED),
    resets(":protocol without CONNECT", head(1, *GET, (b":protocol", b"websocket")), PROTOCOL,
           limits=_OFFERED),
]  # fmt: skip

CASES = [
    *STARTING,
    *FRAMES,
    *BLOCKS,
    *STATES,
    *DATA_FRAMES,
    *HEADERS_FRAMES,
    *PRIORITY_FRAMES,
    *RESETS,
    *SETTINGS_FRAMES,
    *OTHERS,
    *MALFORMED,
    *TUNNELS,
]
