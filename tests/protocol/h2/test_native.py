"""The native engine: what it remembers, large content, and what it holds of a bad peer."""

from __future__ import annotations

import h2.events
import pytest
from hyperframe.frame import DataFrame, HeadersFrame

from pounce.protocol.h2 import connection, header_blocks, response_blocks
from pounce.protocol.h2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PRIORITY_UPDATE,
    frame,
    rst_stream,
    settings,
    window_update,
)
from pounce.protocol.h2.interface import (
    ConnectionFailed,
    DataReceived,
    ErrorCode,
    Event,
    H2Limits,
    RequestReceived,
    RequestRefused,
    SendReady,
)
from pounce.protocol.h2.native import NativeEngine, NativeEngines
from tests.protocol.h2.conformance_cases import GET_BLOCK, GREETING, data, get, post
from tests.protocol.h2_peer import GET, POST, Peer, parse_frames


def engine(limits: H2Limits | None = None) -> NativeEngine:
    made = NativeEngines(limits or H2Limits()).connect()
    made.receive(GREETING, 0.0)
    made.output(1 << 20)
    return made


def heads(events: object) -> list[object]:
    assert isinstance(events, list)
    return [event.head for event in events if isinstance(event, RequestReceived)]


# Blocks that come again


def request(stream_id: int, block: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block)


def test_the_same_block_is_the_same_head_from_the_third_time_on() -> None:
    one = engine()
    found = [heads(one.receive(get(2 * at + 1), 0.0))[0] for at in range(4)]
    assert found[1] is not found[0]
    assert found[3] is found[2] is found[1]


def test_a_block_is_forgotten_when_the_table_changes() -> None:
    one = engine()
    first = GET_BLOCK + b"\x40\x01a\x01b"
    again = GET_BLOCK + b"\xbe"
    other = GET_BLOCK + b"\x40\x01c\x01d"
    ids = iter(range(1, 100, 2))
    for block in [first, again, again, again]:
        head = heads(one.receive(request(next(ids), block), 0.0))[0]
        assert isinstance(head, header_blocks.RequestHead)
        assert head.pairs[-1] == (b"a", b"b")
    assert again in one._known_heads
    one.receive(request(next(ids), other), 0.0)
    assert not one._known_heads
    head = heads(one.receive(request(next(ids), again), 0.0))[0]
    assert isinstance(head, header_blocks.RequestHead)
    assert head.pairs[-1] == (b"c", b"d")


def test_a_known_block_with_the_obsolete_priority_is_known() -> None:
    one = engine()
    for stream_id in (1, 3):
        one.receive(get(stream_id), 0.0)
    [known] = one._known_heads.values()
    weighted = frame(HEADERS, 0x25, 5, b"\0\0\0\x03\x0f" + GET_BLOCK)
    assert heads(one.receive(weighted, 0.0)) == [known]
    itself = frame(HEADERS, 0x25, 7, b"\0\0\0\x07\x0f" + GET_BLOCK)
    assert heads(one.receive(itself, 0.0)) == []


def test_known_blocks_are_bounded() -> None:
    one = engine()
    stream_id = 1
    for number in range(400):
        block = GET_BLOCK + b"\x00\x01a\x03%03d" % number
        for _ in range(2):
            one.receive(request(stream_id, block), 0.0)
            one.reset(stream_id, ErrorCode.CANCEL)
            stream_id += 2
    assert 0 < len(one._known_heads) <= header_blocks.CACHED_HEADS
    assert len(one._resets) <= connection.REMEMBERED_RESETS


def test_response_heads_are_bounded_and_renewed() -> None:
    engines = NativeEngines(H2Limits())
    one = engines.connect()
    one.receive(GREETING + b"".join(get(2 * at + 1) for at in range(100)), 0.0)
    for at in range(100):
        one.respond(2 * at + 1, 200, [(b"x", b"%d" % at)], b"y")
    for at in range(2000):
        engines.responses.prepare(200, [(b"x", b"%d" % at)])
    assert len(engines.responses.known) <= response_blocks.CACHED_HEADS
    engines.set_default_fields(b"now", None, [])
    assert not engines.responses.known
    assert b"now" in engines.responses.prepare(200, []).block


# Content


def test_large_bodies_both_ways_through_small_windows() -> None:
    limits = H2Limits(stream_window=3000, connection_window=70_000, frame_size=16384)
    peer = Peer(NativeEngines(limits).connect(), initial_window_size=1500)
    ids = [1, 3, 5]
    bodies = {stream_id: bytes([stream_id]) * 200_000 for stream_id in ids}
    sent = dict.fromkeys(ids, 0)
    got: dict[int, bytes] = dict.fromkeys(ids, b"")
    for stream_id in ids:
        peer.client.send_headers(stream_id, POST)
    seen = 0
    ended: set[int] = set()
    for _ in range(5000):
        for stream_id in ids:
            room = min(peer.client.local_flow_control_window(stream_id), 1000)
            part = bodies[stream_id][sent[stream_id] : sent[stream_id] + room]
            if part:
                sent[stream_id] += len(part)
                is_last = sent[stream_id] == len(bodies[stream_id])
                peer.client.send_data(stream_id, part, end_stream=is_last)
        for event in peer.pass_on():
            if isinstance(event, DataReceived):
                got[event.stream_id] += event.data
                peer.engine.consumed(event.stream_id, event.size)
                if event.ended:
                    peer.engine.respond(event.stream_id, 200, [], bodies[event.stream_id])
        for heard in peer.client_events[seen:]:
            if isinstance(heard, h2.events.DataReceived):
                peer.client.acknowledge_received_data(heard.flow_controlled_length, heard.stream_id)
            elif isinstance(heard, h2.events.StreamEnded):
                ended.add(heard.stream_id)
        seen = len(peer.client_events)
        if ended == set(ids):
            break
    peer.pass_on()
    assert got == bodies
    assert {stream_id: peer.content(stream_id) for stream_id in ids} == bodies
    assert peer.engine.open_streams == 0
    assert max(len(part.data) for part in peer.sent(DataFrame)) <= 16384


def test_frames_are_within_the_limit_of_the_write_and_the_peer() -> None:
    one = engine()
    windows = settings([(INITIAL_WINDOW_SIZE, 2**30)]) + window_update(0, 2**30)
    one.receive(windows + get(1) + get(3), 0.0)
    one.output(1 << 20)
    for stream_id in (1, 3):
        one.respond(stream_id, 200, [], bytes(1_000_000))
    total = 0
    while one.has_output:
        written = one.output(50_000)
        assert len(written) <= 50_000 + 16384 + 9
        total += sum(len(f.data) for f in parse_frames(written) if isinstance(f, DataFrame))
    assert total == 2_000_000
    assert one.open_streams == 0


def test_a_large_response_does_not_hold_up_a_small_one() -> None:
    one = engine()
    one.receive(settings([(INITIAL_WINDOW_SIZE, 2**30)]) + window_update(0, 2**30) + get(1), 0.0)
    one.output(1 << 20)
    one.respond(1, 200, [], bytes(5_000_000))
    one.output(65536)
    one.receive(get(3), 0.0)
    one.respond(3, 200, [], b"small")
    assert b"small" in one.output(65536)
    assert one.queued(1) > 4_000_000


def test_a_long_head_goes_in_several_frames() -> None:
    peer = Peer(NativeEngines(H2Limits()).connect())
    peer.request(GET)
    fields = [(b"x-%d" % at, b"v" * 8000) for at in range(6)]
    peer.engine.respond(1, 200, fields, b"body")
    peer.client.decoder.max_header_list_size = 1 << 20
    peer.pass_on()
    [response] = peer.heard(h2.events.ResponseReceived)
    assert list(response.headers)[1:] == fields
    assert peer.content(1) == b"body"


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_a_response_without_content(method: bytes, status: int) -> None:
    for in_parts in (False, True):
        peer = Peer(NativeEngines(H2Limits()).connect())
        peer.request([(b":method", method), *GET[1:]])
        if in_parts:
            peer.engine.send_head(1, peer.engine.prepare(status, []))
            assert peer.engine.send_data(1, b"dropped", ended=True)
            peer.engine.send_trailers(1, [(b"a", b"b")])
        else:
            peer.engine.respond(1, status, [(b"content-length", b"7")], b"dropped")
        peer.pass_on()
        assert "END_STREAM" in peer.sent(HeadersFrame)[0].flags
        assert not peer.sent(DataFrame)
        assert peer.engine.open_streams == 0


def test_a_peer_with_a_small_table_is_told_that_ours_is_empty() -> None:
    one = engine()
    one.receive(settings([(HEADER_TABLE_SIZE, 100)]) + get(1) + get(3), 0.0)
    one.output(1 << 20)
    for stream_id in (1, 3):
        one.respond(stream_id, 200, [], b"x")
    blocks = [f.data for f in parse_frames(one.output(1 << 20)) if isinstance(f, HeadersFrame)]
    assert blocks == [b"\x20\x88", b"\x88"]


def test_no_event_for_a_queue_that_emptied_at_the_end() -> None:
    one = engine(H2Limits(send_high_water=10))
    one.receive(get(1), 0.0)
    one.send_head(1, one.prepare(200, []))
    assert not one.send_data(1, bytes(20), ended=True)
    one.output(1 << 20)
    assert SendReady(1) not in one.receive(b"", 0.0)


# Bad peers


def until_it_fails(one: NativeEngine, pieces: list[bytes], now: float = 0.0) -> Event | None:
    for piece in pieces:
        for event in one.receive(piece, now):
            if isinstance(event, ConnectionFailed):
                return event
        assert len(one.output(1 << 20)) < 100_000
    return None


def test_requests_that_break_rules_count_as_resets() -> None:
    one = engine(H2Limits(resets=10))
    bad = [get(2 * at + 1, (b"te", b"gzip")) for at in range(12)]
    failed = until_it_fails(one, bad)
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == ErrorCode.ENHANCE_YOUR_CALM


def test_resets_of_complete_responses_count_for_nothing() -> None:
    one = engine(H2Limits(resets=10))
    for at in range(50):
        stream_id = 2 * at + 1
        one.receive(post(stream_id), 0.0)
        one.respond(stream_id, 200, [], b"x")
        assert until_it_fails(one, [rst_stream(stream_id, 8)]) is None


def test_a_reset_in_the_head_of_a_read_of_requests() -> None:
    one = engine(H2Limits(resets=100))
    pieces = [get(2 * at + 1) + rst_stream(2 * at + 1, 8) for at in range(200)]
    failed = until_it_fails(one, [b"".join(pieces)])
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == ErrorCode.ENHANCE_YOUR_CALM


def test_blocks_on_streams_that_were_reset_are_counted() -> None:
    one = engine(H2Limits(control_frames=20))
    one.receive(post(1), 0.0)
    one.reset(1, ErrorCode.CANCEL)
    failed = until_it_fails(one, [get(1)] * 30)
    assert isinstance(failed, ConnectionFailed)


def test_priorities_of_streams_to_come_are_bounded() -> None:
    one = engine(H2Limits(concurrent_streams=5))
    for at in range(50):
        payload = (2 * at + 1).to_bytes(4, "big") + b"u=1"
        one.receive(frame(PRIORITY_UPDATE, 0, 0, payload), 0.0)
    assert len(one._early_priorities) == 5
    one.receive(get(1), 0.0)
    assert one.priority_of(1) == (1, False)
    one.receive(get(99), 0.0)  # the others can no longer come
    assert not one._early_priorities


def test_gaps_are_bounded() -> None:
    one = engine()
    for stream_id in range(1, 4001, 4):
        one.receive(get(stream_id), 0.0)
        one.respond(stream_id, 200, [], b"x")
    assert len(one._gaps) <= connection.REMEMBERED_GAPS


def test_content_for_a_stream_that_was_reset_gives_its_window_back() -> None:
    one = engine(H2Limits(connection_window=65535, stream_window=65535))
    one.receive(post(1), 0.0)
    one.reset(1, ErrorCode.NO_ERROR)
    for _ in range(20):
        assert until_it_fails(one, [data(1, bytes(16384))]) is None


def test_what_is_far_too_large_ends_the_connection() -> None:
    one = engine(H2Limits(header_list_size=1000))
    block = GET_BLOCK + b"\x40\x01a\x7f\x81\x03" + b"v" * 512 + b"\xbe" * 20
    failed = until_it_fails(one, [request(1, block)])
    assert isinstance(failed, ConnectionFailed)
    assert failed.code == ErrorCode.ENHANCE_YOUR_CALM


def test_what_is_too_large_is_answered_and_the_table_stays_in_step() -> None:
    one = engine(H2Limits(header_list_size=1000))
    block = GET_BLOCK + b"\x40\x01a\x7f\xe9\x06" + b"v" * 1000
    [refused] = one.receive(request(1, block), 0.0)
    assert isinstance(refused, RequestRefused)
    assert refused.status == 431
    [refused] = one.receive(request(3, GET_BLOCK + b"\xbe"), 0.0)
    assert isinstance(refused, RequestRefused)
    [good] = one.receive(get(5), 0.0)
    assert isinstance(good, RequestReceived)


def test_the_end_is_the_end() -> None:
    one = engine()
    one.receive(get(1) + frame(DATA, 0, 0, b"x"), 0.0)
    assert one.closed
    one.respond(1, 200, [], b"nobody")
    one.ping()
    one.go_away(final=True)
    one.reset(1, ErrorCode.CANCEL)
    assert b"nobody" not in one.output(1 << 20)
    assert not one.receive(get(3), 0.0)
    assert not one.has_output
    assert not one.is_blocked()


# Windows


def content(one: NativeEngine) -> bytes:
    """What leaves of it now."""
    sent = parse_frames(one.output(1 << 20))
    return b"".join(bytes(f.data) for f in sent if isinstance(f, DataFrame))


def test_a_window_below_the_default_binds_from_the_acknowledgement_on() -> None:
    limits = H2Limits(stream_window=100, connection_window=200_000)
    one = engine(limits)
    assert until_it_fails(one, [post(1) + data(1, bytes(16000))]) is None
    assert one.open_streams == 1
    acknowledged = frame(4, 1, 0)
    one.receive(acknowledged + data(1, b"x"), 0.0)
    assert one.open_streams == 0  # it is beyond by far, and it could have known
    one.receive(post(3) + data(3, bytes(100)), 0.0)
    assert one.open_streams == 1


def test_the_smallest_window_lets_single_bytes_through() -> None:
    one = engine()
    one.receive(settings([(INITIAL_WINDOW_SIZE, 1)]) + get(1), 0.0)
    one.output(1 << 20)
    one.respond(1, 200, [], b"abc")
    sent = b""
    for _ in range(3):
        sent += content(one)
        assert one.is_blocked() == (sent != b"abc")
        one.receive(window_update(1, 1), 0.0)
    assert sent == b"abc"
    assert one.open_streams == 0


def test_a_window_may_be_negative_and_comes_back() -> None:
    one = engine()
    one.receive(get(1), 0.0)
    one.output(1 << 20)
    one.send_head(1, one.prepare(200, []))
    one.send_data(1, bytes(1000))
    one.output(1 << 20)
    one.receive(settings([(INITIAL_WINDOW_SIZE, 10)]), 0.0)
    one.output(1 << 20)
    one.send_data(1, b"late", ended=True)
    assert one.is_blocked()
    one.receive(window_update(1, 990), 0.0)
    assert one.is_blocked()
    one.receive(window_update(1, 2), 0.0)
    assert content(one) == b"la"
    one.receive(settings([(INITIAL_WINDOW_SIZE, 65535)]), 0.0)
    assert content(one) == b"te"
    assert one.open_streams == 0
