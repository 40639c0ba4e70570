"""Broken rules of RFC 9113 and RFC 7541, one by one, asked of each engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hyperframe.frame import GoAwayFrame, PingFrame, RstStreamFrame

from pounce.protocol.h2.frames import PING, frame
from pounce.protocol.h2.interface import (
    ConnectionFailed,
    DataReceived,
    ErrorCode,
    RequestReceived,
    RequestRefused,
    StreamReset,
)
from tests.protocol.h2.conformance_cases import CASES, Case
from tests.protocol.h2_peer import ENGINES, parse_frames

# What the `h2` library decides otherwise: an error, but not this one.
_CODE = (
    "the library has PROTOCOL_ERROR for what hpack cannot decode and for wrong sizes of SETTINGS"
)
_WHOLE = "the library ends the connection, as RFC 9113 section 5.4.1 permits for any error"
_STREAM = "the library resets a stream that is closed, where the RFC has an error of the connection"
_AGAIN = "the library resets such a stream again for each frame; the peer ignores these"
LIBRARY_DIFFERS = {
    **{
        case.name: _CODE
        for case in CASES
        if case.fails == ErrorCode.COMPRESSION_ERROR
        or case.name == "an acknowledgement with settings"
    },
    **dict.fromkeys(
        [
            "HEADERS that depend on themselves",
            "a short PRIORITY",
            "a PRIORITY that depends on itself",
            "WINDOW_UPDATE of 0 on a stream",
            "a stream's window that is overrun",
            "a second head without the end",
            "trailers without the end",
        ],
        _WHOLE,
    ),
    "DATA on a closed stream": _STREAM,
    "what is under way on a stream that was reset is ignored": _AGAIN,
}
LIBRARY_ACCEPTS = {
    "fields behind CONNECT": "the library takes them for trailers",
    "NO_RFC7540_PRIORITIES of 2": "the library does not know this setting",
}

_MARK = b"the end."


@dataclass
class Outcome:
    """What came of a case."""

    failed: int | None = None
    resets: list[tuple[int, int]] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    told: list[tuple[int, int]] = field(default_factory=list)
    """Streams that the server was told are reset."""
    answered: bool = False
    """Whether the connection still answers a PING."""


def outcome(engine_name: str, case: Case, pieces: list[bytes]) -> Outcome:
    """What an engine makes of the pieces."""
    engine = ENGINES[engine_name](case.limits).connect()
    found = Outcome()
    sent = b""
    failed = None
    for piece in pieces:
        for event in engine.receive(piece, 0.0):
            assert failed is None, "an event behind the end"
            if isinstance(event, RequestReceived | RequestRefused):
                found.requests.append(event.stream_id)
            elif isinstance(event, StreamReset) and not event.by_peer:
                found.told.append((event.stream_id, event.code))
            elif isinstance(event, ConnectionFailed):
                failed = event.code
            if (
                isinstance(event, RequestReceived | DataReceived)
                and event.ended
                and event.stream_id in case.answers
            ):
                engine.respond(event.stream_id, 200, [], b"yes")
        sent += engine.output(1 << 20)
        assert not engine.has_output
        assert engine.closed == (failed is not None)
    frames = parse_frames(sent)
    goodbyes = [frame for frame in frames if isinstance(frame, GoAwayFrame)]
    found.failed = goodbyes[0].error_code if goodbyes else None
    assert len(goodbyes) <= 1
    assert found.failed == failed
    found.resets = [(f.stream_id, f.error_code) for f in frames if isinstance(f, RstStreamFrame)]
    found.answered = any(isinstance(f, PingFrame) and f.opaque_data == _MARK for f in frames)
    assert set(found.told) <= set(found.resets)
    return found


def judge(engine_name: str, case: Case, found: Outcome) -> None:
    if engine_name == "h2" and case.name in LIBRARY_ACCEPTS:
        return
    if engine_name == "h2" and case.name in LIBRARY_DIFFERS:
        assert found.failed is not None or found.resets
    elif case.fails is None:
        assert found.failed is None
        assert found.answered
        assert found.resets == list(case.resets)
    else:
        assert found.failed == case.fails
        assert not found.answered
    assert found.requests == list(case.requests)
    # The server learns of a reset of what it has; of the others it has never heard.
    assert {stream_id for stream_id, _ in found.told} <= set(case.requests)


def _raw(case: Case) -> bytes:
    return case.greeting + case.sent + frame(PING, 0, 0, _MARK)


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_rule(engine_name: str, case: Case) -> None:
    # Answers take effect between two reads: what is sent behind them comes in the next one.
    raw = _raw(case)
    found = outcome(engine_name, case, list(_frames(raw)) if case.answers else [raw])
    judge(engine_name, case, found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_broken_rule_byte_by_byte(engine_name: str, case: Case) -> None:
    raw = _raw(case)
    most = 2048  # of the longer ones the middle comes at once
    edges = len(raw) if len(raw) <= most else most // 2
    pieces = [raw[at : at + 1] for at in range(edges)]
    if edges < len(raw):
        pieces.append(raw[edges : len(raw) - 64])
        pieces += [raw[at : at + 1] for at in range(len(raw) - 64, len(raw))]
    judge(engine_name, case, outcome(engine_name, case, pieces))


def _frames(raw: bytes) -> list[bytes]:
    pieces = [raw[:24]]
    at = 24
    while at < len(raw):
        size = 9 + int.from_bytes(raw[at : at + 3], "big")
        pieces.append(raw[at : at + size])
        at += size
    return pieces


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
