"""Random conversations: frames of a peer, good and bad, and what the server says in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame
from hypothesis import strategies as st

from pounce.protocol.h2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_UPDATE,
    SETTINGS,
    frame,
    rst_stream,
    settings,
    window_update,
)
from pounce.protocol.h2.interface import (
    ConnectionFailed,
    DataReceived,
    Engine,
    ErrorCode,
    Event,
    GoAwayReceived,
    H2Limits,
    PingAcknowledged,
    RequestReceived,
    RequestRefused,
    SendReady,
    StreamReset,
)
from tests.protocol.h2.conformance_cases import GET_BLOCK, POST_BLOCK, block, data, literal
from tests.protocol.h2_peer import parse_frames

LIMITS = H2Limits(
    concurrent_streams=4, stream_window=70_000, connection_window=100_000, send_high_water=3000
)

# Blocks with and without the dynamic table, and some that no request may have.
_HEADS = st.sampled_from(
    [
        GET_BLOCK,
        GET_BLOCK,
        POST_BLOCK,
        POST_BLOCK + literal(b"content-length", b"5"),
        b"\x82\x87\x84\x41\x01a" + b"\x40\x01x\x01y",
        b"\x82\x87\x84\xbf\xbe",
        GET_BLOCK + literal(b"cookie", b"a=b") + literal(b"cookie", b"c=d"),
        GET_BLOCK + literal(b"priority", b"u=1, i"),
        GET_BLOCK + literal(b"te", b"trailers") + literal(b"expect", b"100-continue"),
        GET_BLOCK + literal(b"host", b"other.example"),
        GET_BLOCK + literal(b"A", b"b"),
        POST_BLOCK[5:],
    ]
)
_TRAILERS = st.sampled_from([block((b"a", b"b")), block((b":path", b"/"))])
_IDS = st.sampled_from([1, 1, 3, 3, 5, 7, 9, 2, 0])
_OPEN_IDS = st.sampled_from([1, 3, 5, 7])
_ENDS = st.sampled_from([0, END_STREAM])
_SIZES = st.sampled_from([0, 1, 5, 100, 16384])
_INCREMENTS = st.sampled_from([0, 1, 100, 5000, 65535, 2**31 - 1])
_SETTINGS = st.sampled_from(
    [
        (INITIAL_WINDOW_SIZE, 0),
        (INITIAL_WINDOW_SIZE, 10),
        (INITIAL_WINDOW_SIZE, 100_000),
        (INITIAL_WINDOW_SIZE, 2**31),
        (MAX_FRAME_SIZE, 2**20),
        (HEADER_TABLE_SIZE, 0),
        (HEADER_TABLE_SIZE, 65536),
    ]
)


def _pieces(stream_id: int, flags: int, content: bytes, cut: int) -> bytes:
    return frame(HEADERS, flags, stream_id, content[:cut]) + frame(
        CONTINUATION, END_HEADERS, stream_id, content[cut:]
    )


GOOD_FRAMES = st.one_of(
    st.builds(lambda i, f, b: frame(HEADERS, END_HEADERS | f, i, b), _OPEN_IDS, _ENDS, _HEADS),
    st.builds(_pieces, _OPEN_IDS, _ENDS, _HEADS, st.integers(0, 40)),
    st.builds(
        lambda i, f, b: frame(HEADERS, END_HEADERS | HAS_PRIORITY | f, i, b"\0\0\0\0\x09" + b),
        _OPEN_IDS, _ENDS, _HEADS,
    ),
    st.builds(lambda i, n, e: data(i, bytes(n), ended=bool(e)), _OPEN_IDS, _SIZES, _ENDS),
    st.builds(lambda i, e: frame(DATA, PADDED | e, i, b"\x03abc\0\0\0"), _OPEN_IDS, _ENDS),
    st.builds(lambda i, b: frame(HEADERS, END_HEADERS | END_STREAM, i, b), _OPEN_IDS, _TRAILERS),
    st.builds(rst_stream, _OPEN_IDS, st.just(8)),
    st.builds(window_update, st.just(0) | _OPEN_IDS, _INCREMENTS),
    st.builds(settings, st.lists(_SETTINGS, max_size=2, unique_by=lambda setting: setting[0])),
    st.just(frame(SETTINGS, ACK, 0)),
    st.just(frame(PING, 0, 0, b"12345678")),
    st.builds(lambda i: frame(PRIORITY, 0, i, b"\0\0\0\x0b\x09"), _OPEN_IDS),
    st.builds(
        lambda i, v: frame(PRIORITY_UPDATE, 0, 0, i.to_bytes(4, "big") + v),
        _OPEN_IDS, st.sampled_from([b"u=0", b"u=7,i", b"", b"=="]),
    ),
    st.just(frame(GOAWAY, 0, 0, bytes(8))),
    st.just(frame(0x42, 7, 3, b"unknown")),
)  # fmt: skip

ANY_FRAMES = GOOD_FRAMES | st.builds(
    frame,
    st.integers(0, 17),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF]),
    _IDS,
    st.binary(max_size=12) | _HEADS,
)


@dataclass(frozen=True)
class Answer:
    """What the server says on a stream, when it has it."""

    stream_id: int
    kind: str
    size: int


ANSWERS = st.builds(
    Answer,
    _OPEN_IDS,
    st.sampled_from(["respond", "parts", "trailers", "reset", "consume"]),
    st.sampled_from([0, 1, 20, 4000, 70_000]),
)
STEPS = st.lists(ANY_FRAMES | ANSWERS, max_size=25)
MOSTLY_GOOD_STEPS = st.lists(GOOD_FRAMES | ANSWERS, max_size=40)


@dataclass
class Record:
    """What an engine has told the server, and sent."""

    events: list[tuple[object, ...]] = field(default_factory=list)
    data: dict[int, bytes] = field(default_factory=dict)
    sent: bytes = b""

    def note(self, event: Event) -> None:
        """Takes an event in a form that does not depend on how reads were cut."""
        if isinstance(event, RequestReceived | RequestRefused):
            head = event.head
            refused = event.status if isinstance(event, RequestRefused) else event.ended
            said = (head.line.method, head.line.target, head.pairs, head.scheme)
            rest = (head.content_length, head.expect_continue, head.urgency, head.incremental)
            self.events.append((type(event).__name__, event.stream_id, refused, *said, *rest))
        elif isinstance(event, DataReceived):
            if event.data:
                self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
            if event.ended:
                self.events.append(("ended", event.stream_id))
        elif isinstance(event, StreamReset):
            self.events.append(("reset", event.stream_id, event.by_peer))
        elif isinstance(event, ConnectionFailed):
            self.events.append(("failed",))
        elif isinstance(event, PingAcknowledged | GoAwayReceived | SendReady):
            self.events.append((type(event).__name__,))


class Server:
    """An engine, and a server that does as it is told."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.record = Record()
        self.unconsumed: dict[int, int] = {}
        self.heads: set[int] = set()

    def receive(self, piece: bytes) -> list[tuple[object, ...]]:
        before = len(self.record.events)
        for event in self.engine.receive(piece, 0.0):
            self.record.note(event)
            if isinstance(event, DataReceived):
                seen = self.unconsumed.get(event.stream_id, 0)
                self.unconsumed[event.stream_id] = seen + event.size
        return self.record.events[before:]

    def answer(self, answer: Answer) -> None:
        engine, stream_id = self.engine, answer.stream_id
        fields = [(b"content-type", b"text/plain")]
        if answer.kind == "consume":
            engine.consumed(stream_id, self.unconsumed.pop(stream_id, 0))
        elif answer.kind == "reset":
            engine.reset(stream_id, ErrorCode.CANCEL)
        elif stream_id in self.heads or stream_id > engine.last_stream_id:
            return
        elif answer.kind == "respond":
            self.heads.add(stream_id)
            engine.respond(stream_id, 200, fields, bytes(answer.size))
        else:
            self.heads.add(stream_id)
            engine.send_head(stream_id, engine.prepare(200, fields))
            engine.send_data(stream_id, bytes(answer.size))
            if answer.kind == "trailers":
                engine.send_trailers(stream_id, [(b"x", b"y")])
            else:
                engine.send_data(stream_id, b"!", ended=True)

    def flush(self, limit: int = 1 << 20) -> bytes:
        """All that the windows let out."""
        sent = b""
        while self.engine.has_output:
            part = self.engine.output(limit)
            assert part, "has_output, but there is none"
            sent += part
        self.record.sent += sent
        return sent


@dataclass
class Sent:
    """What the frames of an engine say, by stream where their order is the engine's choice."""

    heads: dict[int, list[object]] = field(default_factory=dict)
    content: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    resets: set[int] = field(default_factory=set)
    goodbyes: int = 0


def read(sent: bytes) -> Sent:
    """Reads all frames; the blocks must decode in their order."""
    found = Sent()
    decoder = Decoder()
    decoder.max_allowed_table_size = 65536
    for each in _frames(sent):
        stream_id = each.stream_id
        if isinstance(each, HeadersFrame):
            found.heads.setdefault(stream_id, []).append(decoder.decode(each.data))
        elif isinstance(each, DataFrame):
            found.content[stream_id] = found.content.get(stream_id, 0) + len(each.data)
        elif isinstance(each, RstStreamFrame):
            found.resets.add(stream_id)
        elif isinstance(each, GoAwayFrame):
            found.goodbyes += 1
        if "END_STREAM" in each.flags:
            assert stream_id not in found.ended
            found.ended.add(stream_id)
    return found


def _frames(sent: bytes) -> Iterator[Frame]:
    yield from parse_frames(sent)
