"""Any conversation: what must hold whatever a peer sends, and what both engines agree on."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from pounce.protocol.h2.frames import PREFACE, PUSH_PROMISE
from pounce.protocol.h2.frames import settings as settings_frame
from pounce.protocol.h2.interface import Engine
from pounce.protocol.h2.library import LibraryEngines
from pounce.protocol.h2.native import NativeEngine, NativeEngines
from pounce.protocol.h2.stream_states import StreamState
from tests.protocol.h2.conversations import (
    LIMITS,
    MOSTLY_GOOD_STEPS,
    STEPS,
    Answer,
    Server,
    read,
)

GREETING = PREFACE + settings_frame([])

Steps = Sequence[bytes | Answer]


def check(server: Server) -> None:
    """What holds between any two calls."""
    engine = server.engine
    assert isinstance(engine, NativeEngine)
    assert engine.open_streams == len(engine._streams) <= LIMITS.concurrent_streams
    assert not (engine.closed and engine.open_streams)
    assert engine._window >= 0
    assert 0 <= engine._direct <= max(engine._window, 0)
    waiting = blocked = 0
    unconsumed = 0
    for stream_id, stream in engine._streams.items():
        unconsumed += stream.unconsumed
        assert not (stream.remote_ended and stream.local_ended), stream_id
        outgoing = stream.outgoing
        if outgoing is not None:
            assert outgoing.size == sum(map(len, outgoing.parts))
            waiting += outgoing.is_waiting
            blocked += stream_id in engine._scheduler.blocked
            has_window = engine._initial_window + stream.send_credit > 0
            assert outgoing.is_waiting == bool(outgoing.size and has_window)
            assert (stream_id in engine._scheduler.blocked) == bool(
                outgoing.size and not has_window
            )
    assert waiting == engine._scheduler.waiting
    assert blocked == len(engine._scheduler.blocked)
    if not engine.closed:
        # Each byte of the connection's window is with the peer, with the server, or on its way.
        held = engine._receive_window + engine._unreturned + unconsumed
        assert held == LIMITS.connection_window


def run(server: Server, steps: Steps, cut: int) -> None:
    """Goes through the steps, the peer's bytes in pieces of `cut`."""
    for step in [GREETING, *steps]:
        if isinstance(step, Answer):
            server.answer(step)
        else:
            for at in range(0, len(step), cut):
                server.receive(step[at : at + cut])
                check(server)
        check(server)
        server.flush()
        check(server)


@settings(max_examples=250, deadline=None)
@given(STEPS, st.sampled_from([1, 2, 7, 50]))
def test_cuts_change_nothing(steps: Steps, cut: int) -> None:
    whole, cut_up = (Server(NativeEngines(LIMITS).connect()) for _ in range(2))
    run(whole, steps, 1 << 20)
    if sum(len(step) for step in steps if isinstance(step, bytes)) > 20_000:
        cut = max(cut, 7)
    run(cut_up, steps, cut)
    assert cut_up.record.events == whole.record.events
    assert cut_up.record.data == whole.record.data
    assert cut_up.record.sent == whole.record.sent


# Where the engines part, and neither is wrong. The conversation ends there.
#
# - What is an error of a stream for one may be one of the connection for the other (RFC 9113
#   section 5.4.1): codes and kinds are not compared, only that both see an error.
# - A frame on a stream that is closed: the library answers some with another RST_STREAM, and looks
#   at the increment of a WINDOW_UPDATE that means nothing any more.
# - Of a PUSH_PROMISE, which no client may send, the library awaits the end.
_CLOSED = {
    StreamState.SKIPPED,
    StreamState.CLOSED,
    StreamState.RESET_BY_US,
    StreamState.RESET_BY_PEER,
}


def _is_argued(step: bytes | Answer, engine: Engine) -> bool:
    assert isinstance(engine, NativeEngine)
    if isinstance(step, Answer):
        return False
    stream_id = int.from_bytes(step[5:9], "big")
    if step[3] == PUSH_PROMISE:
        return True
    return bool(stream_id) and engine._state(stream_id) in _CLOSED


def _is_error(events: Sequence[tuple[object, ...]], resets: set[int]) -> bool:
    return bool(resets) or any(
        event == ("failed",) or (event[0] == "reset" and not event[2]) for event in events
    )


def _until_error(steps: Steps) -> None:
    native = Server(NativeEngines(LIMITS).connect())
    library = Server(LibraryEngines(LIMITS).connect())
    for step in [GREETING, *steps]:
        argued = _is_argued(step, native.engine)
        told: list[list[tuple[object, ...]]] = []
        for server in (native, library):
            if isinstance(step, Answer):
                server.answer(step)
                told.append(server.receive(b""))
            else:
                told.append(server.receive(step))
            server.flush()
        sent = [read(server.record.sent) for server in (native, library)]
        asked = {step.stream_id} if isinstance(step, Answer) and step.kind == "reset" else set()
        errors = [
            _is_error(events, found.resets - asked)
            for events, found in zip(told, sent, strict=True)
        ]
        assert errors[0] == errors[1] or argued, (step, told)
        if errors[0] or errors[1] or asked:
            return
        assert told[0] == told[1], step
        assert native.record.data == library.record.data
        assert sum(sent[0].content.values()) == sum(sent[1].content.values()), step
        assert sent[0].heads == sent[1].heads
        assert native.engine.open_streams == library.engine.open_streams
        assert native.engine.last_stream_id == library.engine.last_stream_id
        assert native.engine.is_blocked() == library.engine.is_blocked()


@settings(max_examples=400, deadline=None)
@given(MOSTLY_GOOD_STEPS)
def test_both_engines_agree(steps: Steps) -> None:
    _until_error(steps)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_both_engines_agree_on_what_is_wrong(steps: Steps) -> None:
    _until_error(steps)
