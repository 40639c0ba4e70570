"""The same bytes to our reader and to that of `websockets`: the same messages and the same end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("websockets")

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from pounce.protocol.ws.deflate import Deflater, Inflater
from pounce.protocol.ws.frames import Close, Ping, Pong, close_frame, control_frame, frame_head
from pounce.protocol.ws.reader import MessageReader
from tests.protocol.ws_frames import CLOSE, CONT, PING, PONG, deflated, frame, read

LIMIT = 4000

contents = st.one_of(
    st.binary(max_size=140),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([b"\xc3", b"\xa9", b"\xf0\x9d", b"x" * 126, b"y" * 200]),
)
# Here and below, nothing is wrong in two ways: either might be found first.
close_payloads = st.one_of(
    st.just(b""),
    st.tuples(st.one_of(st.integers(0, 65535), st.integers(1000, 1015)), st.text(max_size=10)).map(
        lambda pair: pair[0].to_bytes(2, "big") + pair[1].encode()
    ),
    st.binary(max_size=20).map(lambda reason: b"\x03\xe8" + reason),
)
keys = st.binary(min_size=4, max_size=4)
wild = st.builds(
    frame,
    st.integers(0, 15).filter(lambda opcode: opcode != CLOSE),
    st.binary(max_size=130),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0x40, 0x20, 0x10]),
    mask=st.sampled_from([True] * 9 + [False]),
    key=keys,
)


@st.composite
def good_messages(draw: st.DrawFn) -> bytes:
    """A message in fragments, with control frames between them."""
    content = draw(contents)
    places = sorted(draw(st.lists(st.integers(0, len(content)), max_size=3)))
    parts = [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]
    data = b""
    opcode = draw(st.sampled_from([1, 2]))
    for index, part in enumerate(parts):
        data += frame(opcode, part, fin=index == len(parts) - 1, key=draw(keys))
        opcode = CONT
        if draw(st.booleans()):
            control = draw(st.sampled_from([PING, PONG]))
            data += frame(control, draw(st.binary(max_size=125)))
    return data


streams = st.lists(
    st.one_of(
        good_messages(), good_messages(), wild, close_payloads.map(lambda p: frame(CLOSE, p))
    ),
    max_size=6,
).map(b"".join)


def what_websockets_says(data: bytes, *, deflate: bool = False) -> list[Any]:
    """Messages and control frames in order; the close code that it fails with at last."""
    protocol = Protocol(SERVER, state=OPEN, max_size=LIMIT)
    if deflate:
        protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
    protocol.receive_data(data)
    found: list[Any] = []
    parts: list[bytes] = []
    opcode = Opcode.TEXT
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode is Opcode.CLOSE:
            code = int.from_bytes(event.data[:2], "big") if event.data else 1005
            found.append(Close(code, bytes(event.data[2:]).decode()))
        elif event.opcode is Opcode.PING:
            found.append(Ping(bytes(event.data)))
        elif event.opcode is Opcode.PONG:
            found.append(Pong(bytes(event.data)))
        else:
            if event.opcode is not Opcode.CONT:
                opcode, parts = event.opcode, []
            parts.append(bytes(event.data))
            if opcode is Opcode.TEXT and not is_text(b"".join(parts), event.fin):
                return [*found, 1007]  # it leaves that to who joins them
            if event.fin:
                message = b"".join(parts)
                found.append(message.decode() if opcode is Opcode.TEXT else message)
    last = protocol.close_rcvd
    if last is not None and not (found and isinstance(found[-1], Close)):
        # It does not like one between fragments, where RFC 6455 section 5.4 allows it.
        found.append(Close(int(last.code), last.reason))
    if protocol.close_sent is not None and protocol.close_rcvd is None:
        found.append(int(protocol.close_sent.code))
    return found


def is_text(content: bytes, complete: bool) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return not complete and error.end == len(content) and "unexpected end" in error.reason
    return True


def what_we_say(data: bytes, cuts: list[int], *, deflate: bool = False) -> list[Any]:
    reader = MessageReader(LIMIT, max_queue=3, inflater=Inflater(15, True) if deflate else None)
    places = sorted({min(cut, len(data)) for cut in cuts})
    chunks = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    return read(reader, chunks)


def compare(ours: list[Any], theirs: list[Any]) -> None:
    # In one read, messages come before control frames.
    assert [x for x in ours if isinstance(x, (str, bytes))] == [
        x for x in theirs if isinstance(x, (str, bytes))
    ]
    assert [x for x in ours if not isinstance(x, (str, bytes))] == [
        x for x in theirs if not isinstance(x, (str, bytes))
    ]


@settings(max_examples=300, deadline=None)
@given(streams, st.lists(st.integers(0, 500), max_size=4))
def test_streams_are_read_alike(data: bytes, cuts: list[int]) -> None:
    compare(what_we_say(data, cuts), what_websockets_says(data))


compressed = st.builds(
    lambda content, fin, opcode: frame(opcode, deflated(content), fin=fin, rsv=0x40),
    st.one_of(st.text(max_size=80).map(str.encode), st.binary(max_size=100)),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([1, 2]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(compressed, good_messages(), wild), max_size=5).map(b"".join),
    st.lists(st.integers(0, 300), max_size=4),
)
def test_compressed_streams_are_read_alike(data: bytes, cuts: list[int]) -> None:
    ours = what_we_say(data, cuts, deflate=True)
    theirs = what_websockets_says(data, deflate=True)
    if 1007 in ours and 1002 in theirs:
        # What is not deflated properly is invalid data to us, a protocol error to websockets. Text
        # that is found invalid in the middle of a fragment ends before that.
        ours[ours.index(1007)] = 1002
    compare(ours, theirs)


@given(st.sampled_from([1, 2]), contents)
def test_what_we_write_is_read(opcode: int, content: bytes) -> None:
    client = _client()
    client.receive_data(frame_head(0x80 | opcode, len(content)) + content)
    (event,) = client.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.data, event.fin) == (Opcode(opcode), content, True)


@given(st.lists(st.text(max_size=200), max_size=5), st.integers(9, 15), st.booleans())
def test_what_we_compress_is_read(texts: list[str], bits: int, takeover: bool) -> None:
    client = _client()
    client.extensions = [PerMessageDeflate(not takeover, False, bits, 15)]
    deflater = Deflater(bits, takeover)
    for content in texts:
        payload = deflater.deflate(content.encode())
        client.receive_data(frame_head(0xC1, len(payload)) + payload)
    assert [
        bytes(event.data).decode() for event in client.events_received() if isinstance(event, Frame)
    ] == texts


@pytest.mark.parametrize("reason", ["", "weg", "é" * 61 + "x", "é" * 62, "x" * 200])
def test_close_frames_are_read(reason: str) -> None:
    client = _client()
    client.receive_data(close_frame(1001, reason))
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 1001
    assert reason.startswith(client.close_rcvd.reason)
    assert len(client.close_rcvd.reason.encode()) >= min(len(reason.encode()), 122)


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_are_read(opcode: int) -> None:
    client = _client()
    client.receive_data(control_frame(opcode, b"x" * 125))
    (event,) = client.events_received()
    assert isinstance(event, Frame)
    assert (event.opcode, event.data) == (Opcode(opcode), b"x" * 125)


def _client() -> Protocol:
    return Protocol(CLIENT, state=OPEN)
