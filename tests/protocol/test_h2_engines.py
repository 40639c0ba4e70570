"""What every engine does, asked of each."""

from __future__ import annotations

import math
from collections.abc import Callable

import h2.events
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from pounce.protocol.h2.interface import (
    ConnectionFailed,
    DataReceived,
    Engine,
    Engines,
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
from tests.protocol.h2_peer import ENGINES, GET, POST, Peer, parse_frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GREATEST = 2**31 - 1

Make = Callable[..., Peer]


@pytest.fixture(params=ENGINES)
def engines(request: pytest.FixtureRequest) -> Callable[[H2Limits], Engines]:
    return ENGINES[request.param]


@pytest.fixture
def connect(engines: Callable[[H2Limits], Engines]) -> Make:
    def make(limits: H2Limits | None = None, **client_settings: int) -> Peer:
        return Peer(engines(limits or H2Limits()).connect(), **client_settings)

    return make


@pytest.fixture
def bare(engines: Callable[[H2Limits], Engines]) -> Engine:
    return engines(H2Limits()).connect()


def only(events: object, kind: type) -> object:
    assert isinstance(events, list)
    assert [type(event) for event in events] == [kind]
    return events[0]


# The beginning


def test_the_first_output_is_settings(connect: Make) -> None:
    peer = connect(H2Limits(concurrent_streams=7, stream_window=70000, header_list_size=5000))
    assert isinstance(peer.frames[0], SettingsFrame)
    assert peer.frames[0].settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == 7
    assert peer.frames[0].settings[SettingsFrame.INITIAL_WINDOW_SIZE] == 70000
    assert peer.frames[0].settings[SettingsFrame.MAX_HEADER_LIST_SIZE] == 5000


def test_the_connection_window_is_opened(connect: Make) -> None:
    peer = connect(H2Limits(connection_window=100_000))
    assert [f.window_increment for f in peer.sent(WindowUpdateFrame)] == [100_000 - 65535]


@pytest.mark.parametrize("begin", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSX"])
def test_another_preface_ends_the_connection(bare: Engine, begin: bytes) -> None:
    bare.output(1 << 20)
    failed = list(bare.receive(begin, 0.0))[-1]
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == ErrorCode.PROTOCOL_ERROR
    assert bare.closed


def test_the_first_frame_must_be_settings(bare: Engine) -> None:
    events = list(bare.receive(PREFACE + PingFrame(0, opaque_data=b"12345678").serialize(), 0.0))
    assert isinstance(events[-1], ConnectionFailed)


def test_bytes_may_come_one_by_one(connect: Make) -> None:
    peer = connect()
    peer.client.send_headers(1, POST)
    peer.client.send_data(1, b"body", end_stream=True)
    events: list[Event] = []
    for byte in peer.client.data_to_send():
        events += peer.engine.receive(bytes([byte]), 0.0)
    assert [type(event) for event in events] == [RequestReceived, DataReceived]


# Requests


def test_a_request_without_a_body(connect: Make) -> None:
    peer = connect()
    stream_id, events = peer.request([*GET, (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b")])
    event = only(events, RequestReceived)
    assert isinstance(event, RequestReceived)
    assert (event.stream_id, event.ended) == (stream_id, True)
    head = event.head
    assert (head.line.method, head.line.path, head.line.http_version) == ("GET", "/", "2")
    assert head.pairs == ((b"host", b"example.org"), (b"x-a", b"1"), (b"cookie", b"a=1; b"))
    assert head.scheme == "https"


def test_a_request_with_a_body(connect: Make) -> None:
    peer = connect()
    _, events = peer.request([*POST, (b"content-length", b"4")], b"body")
    assert [type(event) for event in events] == [RequestReceived, DataReceived]
    head, data = events
    assert isinstance(head, RequestReceived)
    assert head.head.content_length == 4
    assert isinstance(data, DataReceived)
    assert (data.data, data.size, data.ended) == (b"body", 4, True)


def test_padding_counts_against_the_window(connect: Make) -> None:
    peer = connect()
    peer.client.send_headers(1, POST)
    peer.client.send_data(1, b"body", pad_length=10)
    events = peer.pass_on()
    assert isinstance(events[1], DataReceived)
    assert events[1].data == b"body"
    assert events[1].size == 15


def test_trailers_end_the_body(connect: Make) -> None:
    peer = connect()
    peer.client.send_headers(1, POST)
    peer.client.send_data(1, b"body")
    peer.client.send_headers(1, [(b"x-sum", b"1")], end_stream=True)
    events = peer.pass_on()
    assert events[-1] == DataReceived(1, b"", 0, True)


@pytest.mark.parametrize(
    "fields",
    [
        [*GET, (b"X-Upper", b"1")],
        [*GET, (b"connection", b"close")],
        [*GET, (b"transfer-encoding", b"chunked")],
        [*GET, (b"te", b"gzip")],
        [*GET, (b"x", b" 1")],
        [*GET, (b"x", b"a\nb")],
        [*GET, (b"x y", b"1")],
        [*GET, (b":path", b"/b")],
        [*GET, (b":new", b"1")],
        [*GET, (b"host", b"other.org")],
        [(b"x", b"1"), *GET],
        [field for field in GET if field[0] != b":path"],
        [field for field in GET if field[0] != b":method"],
        [field for field in GET if field[0] != b":scheme"],
        [*GET[:2], (b":path", b""), GET[3]],
        [*GET[:2], (b":path", b"no-slash"), GET[3]],
        [*GET, (b"content-length", b"+1")],
        [*GET, (b"content-length", b"1")],
        [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
        [(b":method", b"CONNECT"), *GET[1:]],
    ],
)
def test_a_malformed_request_resets_its_stream(
    connect: Make, fields: list[tuple[bytes, bytes]]
) -> None:
    peer = connect()
    stream_id, events = peer.request(fields)
    assert events == []
    (reset,) = peer.heard(h2.events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (stream_id, ErrorCode.PROTOCOL_ERROR)
    # The connection lives on.
    only(peer.request()[1], RequestReceived)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([*GET, (b"x", b"y" * 1000)], 431),
        ([*GET, *[(b"x%d" % n, b"") for n in range(11)]], 431),
        ([*GET[:2], (b":path", b"/" + b"x" * 200), GET[3]], 414),
        ([*GET[:2], (b":path", b"/\xff"), GET[3]], 400),
        ([*GET[:3], (b":authority", b"a b")], 400),
        ([*GET[:3]], 400),
        ([*GET, (b"expect", b"tea")], 417),
    ],
)
def test_what_is_too_much_is_answered(
    connect: Make, fields: list[tuple[bytes, bytes]], status: int
) -> None:
    limits = H2Limits(header_list_size=1000, header_fields=10, target_size=200)
    peer = connect(limits)
    refused = only(peer.request(fields)[1], RequestRefused)
    assert isinstance(refused, RequestRefused)
    assert refused.status == status


def test_a_body_that_is_announced_too_large_is_refused(connect: Make) -> None:
    peer = connect(H2Limits(body_size=10))
    peer.client.send_headers(1, [*POST, (b"content-length", b"11")])
    refused = only(peer.pass_on(), RequestRefused)
    assert isinstance(refused, RequestRefused)
    assert refused.status == 413


@pytest.mark.parametrize("body", [b"1234", b"123456"])
def test_content_of_another_length_resets_the_stream(connect: Make, body: bytes) -> None:
    peer = connect()
    _, events = peer.request([*POST, (b"content-length", b"5")], body)
    assert events[-1] == StreamReset(1, ErrorCode.PROTOCOL_ERROR, False)
    assert peer.engine.open_streams == 0


def test_streams_beyond_the_limit_are_refused(connect: Make) -> None:
    peer = connect(H2Limits(concurrent_streams=1))
    peer.client.remote_settings[3] = 100
    peer.client.remote_settings.acknowledge()
    first, _ = peer.request()
    second, events = peer.request()
    assert events == []
    assert [(e.stream_id, e.error_code) for e in peer.heard(h2.events.StreamReset)] == [
        (second, ErrorCode.REFUSED_STREAM)
    ]
    peer.engine.respond(first, 200, (), b"")
    assert [type(e) for e in peer.request()[1]] == [RequestReceived]


def test_the_peer_may_reset_a_stream(connect: Make) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    peer.client.reset_stream(stream_id, ErrorCode.CANCEL)
    assert peer.pass_on() == [StreamReset(stream_id, ErrorCode.CANCEL, True)]
    assert peer.engine.open_streams == 0
    # What comes too late does nothing.
    peer.engine.respond(stream_id, 200, (), b"late")
    assert not peer.engine.has_output


# Responses


def test_a_whole_response(connect: Make) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    peer.engine.respond(stream_id, 200, [(b"Content-Type", b"text/plain")], b"hello")
    assert peer.engine.has_output
    peer.pass_on()
    (response,) = peer.heard(h2.events.ResponseReceived)
    assert response.headers == [(b":status", b"200"), (b"content-type", b"text/plain")]
    assert peer.content(stream_id) == b"hello"
    assert peer.heard(h2.events.StreamEnded, stream_id)
    assert peer.engine.open_streams == 0
    assert not peer.engine.has_output


def test_default_fields(engines: Callable[[H2Limits], Engines]) -> None:
    made = engines(H2Limits())
    made.set_default_fields(b"now", b"pounce", [(b"X-Extra", b"1")])
    peer = Peer(made.connect())
    first, _ = peer.request()
    peer.engine.respond(first, 200, (), b"")
    peer.pass_on()
    second, _ = peer.request()
    peer.engine.respond(second, 200, [(b"date", b"then"), (b"server", b"mine")], b"")
    made.set_default_fields(b"later", None, ())
    third, _ = peer.request()
    peer.engine.respond(third, 200, (), b"")
    peer.pass_on()
    found = [sorted(e.headers) for e in peer.heard(h2.events.ResponseReceived)]
    status = (b":status", b"200")
    assert found == [
        [status, (b"date", b"now"), (b"server", b"pounce"), (b"x-extra", b"1")],
        [status, (b"date", b"then"), (b"server", b"mine"), (b"x-extra", b"1")],
        [status, (b"date", b"later")],
    ]


def test_a_head_is_prepared_once_for_many_streams(connect: Make) -> None:
    peer = connect()
    fields = [[b"Content-Length", b"3"], [b"x", b"1"]]
    head = peer.engine.prepare(200, fields)  # type: ignore[arg-type]
    assert (head.has_content, head.content_length) == (True, 3)
    first, _ = peer.request()
    second, _ = peer.request()
    peer.engine.send_response(first, head, b"one")
    peer.engine.send_head(second, head)
    peer.engine.send_data(second, b"two", ended=True)
    peer.pass_on()
    assert [peer.content(first), peer.content(second)] == [b"one", b"two"]
    for response in peer.heard(h2.events.ResponseReceived):
        assert response.headers == [(b":status", b"200"), (b"content-length", b"3"), (b"x", b"1")]


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (200, [], (True, -1)),
        (404, [(b"content-length", b"0")], (True, 0)),
        (304, [(b"content-length", b"5")], (False, 5)),
        (204, [(b"content-length", b"5")], (False, 5)),
    ],
)
def test_what_a_prepared_head_says_of_its_content(
    connect: Make, status: int, fields: list[tuple[bytes, bytes]], expected: tuple[bool, int]
) -> None:
    prepare = connect().engine.prepare
    for _ in range(2):
        head = prepare(status, fields)
        assert (head.has_content, head.content_length) == expected


@pytest.mark.parametrize("value", [bytearray(b"1"), "1", 1])
def test_fields_that_are_not_bytes_are_refused_each_time(connect: Make, value: object) -> None:
    prepare = connect().engine.prepare
    prepare(200, [(b"x", b"1")])
    for _ in range(2):
        with pytest.raises(TypeError):
            prepare(200, [[b"x", value]])  # type: ignore[list-item]


def test_a_response_in_parts_with_trailers(connect: Make) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    engine = peer.engine
    engine.send_informational(stream_id, 103, [(b"link", b"</a.css>")])
    engine.send_head(stream_id, engine.prepare(200, ()))
    assert engine.send_data(stream_id, b"one")
    assert engine.send_data(stream_id, b"two")
    engine.send_trailers(stream_id, [(b"X-Sum", b"6")])
    peer.pass_on()
    assert peer.heard(h2.events.InformationalResponseReceived)[0].headers == [
        (b":status", b"103"),
        (b"link", b"</a.css>"),
    ]
    assert peer.content(stream_id) == b"onetwo"
    assert peer.heard(h2.events.TrailersReceived)[0].headers == [(b"x-sum", b"6")]
    assert engine.open_streams == 0


def test_fields_of_http_1_are_dropped(connect: Make) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    fields = [(b"connection", b"close"), (b"transfer-encoding", b"chunked"), (b"upgrade", b"x")]
    peer.engine.respond(stream_id, 200, fields, b"")
    peer.pass_on()
    assert peer.heard(h2.events.ResponseReceived)[0].headers == [(b":status", b"200")]


@pytest.mark.parametrize(
    ("status", "fields", "error"),
    [
        (200, [(b"x y", b"")], ValueError),
        (200, [(b"x", b"a\r\nb")], ValueError),
        (200, [("x", b"")], TypeError),
        (99, [], ValueError),
        (200, [(b"content-length", b"x")], ValueError),
    ],
)
def test_a_malformed_response_raises_and_sends_nothing(
    connect: Make, status: int, fields: list[tuple[bytes, bytes]], error: type[Exception]
) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    with pytest.raises(error):
        peer.engine.respond(stream_id, status, fields, b"")
    assert not peer.engine.has_output
    peer.engine.respond(stream_id, 200, (), b"")
    peer.pass_on()
    assert peer.heard(h2.events.ResponseReceived)


# Flow control


def test_content_waits_for_the_windows(connect: Make) -> None:
    peer = connect(initial_window_size=10)
    stream_id, _ = peer.request()
    peer.engine.respond(stream_id, 200, (), b"0123456789abcdef")
    peer.pass_on()
    assert peer.content(stream_id) == b"0123456789"
    assert peer.engine.queued(stream_id) == 6
    assert peer.engine.unsent() == [stream_id]
    assert peer.engine.is_blocked()
    assert not peer.engine.has_output
    peer.client.increment_flow_control_window(100, stream_id)
    peer.pass_on()
    assert peer.content(stream_id) == b"0123456789abcdef"
    assert peer.engine.unsent() == []
    assert not peer.engine.is_blocked()


def test_a_full_queue_is_ready_again_when_it_has_room(connect: Make) -> None:
    peer = connect(H2Limits(send_high_water=8), initial_window_size=0)
    stream_id, _ = peer.request()
    peer.engine.send_head(stream_id, peer.engine.prepare(200, ()))
    assert peer.engine.send_data(stream_id, b"1234")
    assert not peer.engine.send_data(stream_id, b"5678")
    assert peer.pass_on() == []
    peer.client.increment_flow_control_window(6, stream_id)
    events = peer.pass_on()
    # The queue may get its room with `output`, and then says so with the next that is received.
    peer.client.ping(b"12345678")
    events += peer.pass_on()
    assert events == [SendReady(stream_id)]
    assert peer.engine.queued(stream_id) == 2


def test_the_window_opens_as_content_is_consumed(connect: Make) -> None:
    peer = connect(H2Limits(stream_window=65535, connection_window=65535))
    peer.client.send_headers(1, POST)
    for _ in range(3):
        peer.client.send_data(1, b"x" * 16384)
    events = peer.pass_on()
    updates = len(peer.sent(WindowUpdateFrame))
    assert peer.client.local_flow_control_window(1) == 65535 - 3 * 16384
    for event in events[1:]:
        assert isinstance(event, DataReceived)
        peer.engine.consumed(1, event.size)
    peer.pass_on()
    assert len(peer.sent(WindowUpdateFrame)) > updates
    assert peer.client.local_flow_control_window(1) > 40000


def test_what_a_reset_stream_held_no_longer_fills_the_connection(connect: Make) -> None:
    peer = connect(H2Limits(stream_window=65535, connection_window=65535))
    for stream_id in (1, 3, 5, 7):
        peer.client.send_headers(stream_id, POST)
        for _ in range(3):
            peer.client.send_data(stream_id, b"x" * 16384)
        peer.pass_on()
        peer.engine.reset(stream_id, ErrorCode.CANCEL)
        peer.pass_on()
    assert peer.client.outbound_flow_control_window > 16384


def test_what_nobody_consumed_of_an_answered_stream_no_longer_fills_the_connection(
    connect: Make,
) -> None:
    peer = connect(H2Limits(stream_window=65535, connection_window=65535))
    for _ in range(8):  # twice the window of the connection
        stream_id, _ = peer.request(POST, b"x" * 16384)
        peer.engine.respond(stream_id, 200, (), b"")
        peer.pass_on()
    assert peer.engine.open_streams == 0


def test_urgent_content_goes_first(connect: Make) -> None:
    peer = connect()
    late, _ = peer.request([*GET, (b"priority", b"u=5")])
    soon, _ = peer.request([*GET, (b"priority", b"u=1")])
    assert peer.engine.priority_of(late) == (5, False)
    peer.engine.respond(late, 200, (), b"a" * 20000)
    peer.engine.respond(soon, 200, (), b"b" * 20000)
    peer.pass_on()
    order = [frame.stream_id for frame in peer.sent(DataFrame)]
    assert order == [soon, soon, late, late]


def test_incremental_content_takes_turns(connect: Make) -> None:
    peer = connect()
    first, _ = peer.request([*GET, (b"priority", b"i")])
    second, _ = peer.request([*GET, (b"priority", b"u=3, i")])
    peer.engine.respond(first, 200, (), b"a" * 30000)
    peer.engine.respond(second, 200, (), b"b" * 30000)
    peer.pass_on()
    order = [frame.stream_id for frame in peer.sent(DataFrame)]
    assert order == [first, second, first, second]


def test_output_ends_near_its_limit(connect: Make) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    peer.engine.respond(stream_id, 200, (), b"a" * 60000)
    first = peer.engine.output(20000)
    assert 20000 <= len(first) <= 20000 + 16384 + 9
    assert peer.engine.has_output
    assert not peer.engine.is_blocked()


# The connection


def test_pings_are_answered_and_sent(connect: Make) -> None:
    peer = connect()
    peer.client.ping(b"12345678")
    peer.engine.ping()
    assert peer.pass_on() == [PingAcknowledged()]
    assert peer.heard(h2.events.PingAckReceived)


def test_what_was_begun_goes_on_after_a_go_away_of_either_side(connect: Make) -> None:
    peer = connect()
    stream_id, _ = peer.request()
    assert peer.feed(GoAwayFrame(0, last_stream_id=0).serialize()) == [GoAwayReceived(0)]
    peer.engine.respond(stream_id, 200, (), b"still")
    peer.pass_on()
    assert peer.content(stream_id) == b"still"


def test_a_drain_says_goodbye_twice(connect: Make) -> None:
    peer = connect()
    first, _ = peer.request()
    peer.engine.go_away(final=False)
    second_head = HeadersFrame(3, flags={"END_HEADERS", "END_STREAM"})
    second_head.data = peer.client.encoder.encode(GET)
    # A client ends with the first GOAWAY here, so the rest is said in frames.
    events = list(peer.engine.receive(second_head.serialize(), 0.0))
    assert [type(event) for event in events] == [RequestReceived]
    peer.engine.go_away(final=True)
    third = HeadersFrame(5, flags={"END_HEADERS", "END_STREAM"})
    third.data = peer.client.encoder.encode(GET)
    assert list(peer.engine.receive(third.serialize(), 0.0)) == []
    peer.engine.respond(first, 200, (), b"")
    peer.engine.respond(3, 200, (), b"")
    frames = parse_frames(peer.engine.output(1 << 20))
    assert [f.last_stream_id for f in frames if isinstance(f, GoAwayFrame)] == [GREATEST, 3]
    resets = [(f.stream_id, f.error_code) for f in frames if isinstance(f, RstStreamFrame)]
    assert resets == [(5, ErrorCode.REFUSED_STREAM)]
    assert [f.stream_id for f in frames if isinstance(f, HeadersFrame)] == [1, 3]


# What a peer may not do too often


def failed_with(events: object, code: ErrorCode) -> bool:
    assert isinstance(events, list)
    return isinstance(events[-1], ConnectionFailed) and events[-1].code == code


def test_rapid_resets(connect: Make) -> None:
    peer = connect(H2Limits(resets=5))
    events = []
    for _ in range(6):
        stream_id = peer.client.get_next_available_stream_id()
        peer.client.send_headers(stream_id, GET, end_stream=True)
        peer.client.reset_stream(stream_id, ErrorCode.CANCEL)
    events = list(peer.engine.receive(peer.client.data_to_send(), 0.0))
    assert failed_with(events, ErrorCode.ENHANCE_YOUR_CALM)
    assert peer.engine.closed


def test_resets_that_take_their_time(connect: Make) -> None:
    peer = connect(H2Limits(resets=2, rate_window=10.0))
    for _ in range(6):
        stream_id, _ = peer.request()
        peer.client.reset_stream(stream_id, ErrorCode.CANCEL)
        peer.pass_on()
        peer.now += 6.0
    assert not peer.engine.closed


@pytest.mark.parametrize(
    "frame",
    [
        PingFrame(0, opaque_data=b"12345678").serialize(),
        SettingsFrame(0).serialize(),
        b"\x00\x00\x07\x10\x00\x00\x00\x00\x00\x00\x00\x00\x01u=1",
        b"\x00\x00\x00\xfa\x00\x00\x00\x00\x00",
    ],
    ids=["ping", "settings", "priority-update", "unknown"],
)
def test_control_frames(connect: Make, frame: bytes) -> None:
    peer = connect(H2Limits(control_frames=10))
    events = list(peer.engine.receive(frame * 11, 0.0))
    assert failed_with(events, ErrorCode.ENHANCE_YOUR_CALM)


UPDATE = b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01"


def test_window_updates_that_answer_nothing(connect: Make) -> None:
    peer = connect(H2Limits(control_frames=10))
    assert not peer.engine.receive(UPDATE * 10, 0.0)
    events = list(peer.engine.receive(UPDATE, 1000.0))
    assert failed_with(events, ErrorCode.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("size", [1, 50_000])
def test_window_updates_for_each_stream_and_data_frame(connect: Make, size: int) -> None:
    peer = connect(H2Limits(control_frames=10))
    peer.client.increment_flow_control_window(2**30)
    for _ in range(20):
        stream_id, _ = peer.request()
        peer.engine.respond(stream_id, 200, (), b"x" * size)
        peer.pass_on()
        assert len(peer.content(stream_id)) == size
    earned = 10 * (20 + (0 if size == 1 else 20 * math.ceil(size / 16384)))
    assert not peer.engine.receive(UPDATE * earned, 0.0)
    assert not peer.engine.closed
    events = list(peer.engine.receive(UPDATE * (10 + 10 * 20), 0.0))
    assert failed_with(events, ErrorCode.ENHANCE_YOUR_CALM)


def test_empty_data(connect: Make) -> None:
    peer = connect(H2Limits(empty_frames=10))
    peer.client.send_headers(1, POST)
    peer.pass_on()
    events = list(peer.engine.receive(DataFrame(1).serialize() * 11, 0.0))
    assert failed_with(events, ErrorCode.ENHANCE_YOUR_CALM)


def test_continuations(connect: Make) -> None:
    peer = connect(H2Limits(continuation_frames=3))
    data = HeadersFrame(1).serialize() + ContinuationFrame(1).serialize() * 4
    events = list(peer.engine.receive(data, 0.0))
    assert failed_with(events, ErrorCode.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x00\x40\x01" + DataFrame(1).serialize()[3:], ErrorCode.FRAME_SIZE_ERROR),
        (RstStreamFrame(1).serialize(), ErrorCode.PROTOCOL_ERROR),
        (WindowUpdateFrame(0, window_increment=GREATEST).serialize(), ErrorCode.FLOW_CONTROL_ERROR),
        (GoAwayFrame(0).serialize()[:5] + b"\x00\x00\x00\x01" + bytes(8), ErrorCode.PROTOCOL_ERROR),
        (ContinuationFrame(1).serialize(), ErrorCode.PROTOCOL_ERROR),
        (HeadersFrame(1).serialize() + DataFrame(1).serialize(), ErrorCode.PROTOCOL_ERROR),
        (
            HeadersFrame(1, data=b"\xff\xff\xff", flags={"END_HEADERS"}).serialize(),
            ErrorCode.COMPRESSION_ERROR,
        ),
        (HeadersFrame(2, flags={"END_HEADERS"}).serialize(), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_broken_rules_end_the_connection(connect: Make, data: bytes, code: ErrorCode) -> None:
    peer = connect()
    events = list(peer.engine.receive(data, 0.0))
    failed = only(events, ConnectionFailed)
    assert isinstance(failed, ConnectionFailed)
    if code != ErrorCode.COMPRESSION_ERROR:
        assert failed.code == code
    assert peer.engine.has_output
    assert peer.engine.receive(PriorityFrame(1).serialize(), 0.0) == []
