"""What a client sends, in raw frames: whole, byte by byte, and split at every place."""

from __future__ import annotations

from typing import Any

import pytest

from pounce.protocol.ws.deflate import Inflater
from pounce.protocol.ws.frames import Close, Ping, Pong
from pounce.protocol.ws.reader import MessageReader
from tests.protocol.ws_frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    chunkings,
    close,
    deflated,
    frame,
    read,
    text,
)

Case = tuple[str, bytes, list[Any]]

LONG = "é" * 100
VERY_LONG = b"0123456789abcdef" * 4097

GOOD: list[Case] = [
    ("empty text", text(""), [""]),
    ("empty binary", frame(BINARY), [b""]),
    ("text", text("Hello-µ@ßöäüàá-UTF-8!!"), ["Hello-µ@ßöäüàá-UTF-8!!"]),
    ("binary", frame(BINARY, b"\xff\x00\xfe"), [b"\xff\x00\xfe"]),
    *[
        (f"{size} bytes", frame(BINARY, b"*" * size), [b"*" * size])
        for size in (125, 126, 127, 128, 4095, 4096)
    ],
    ("65,535 bytes", frame(BINARY, b"*" * 65535), [b"*" * 65535]),
    ("65,536 bytes", frame(BINARY, b"*" * 65536), [b"*" * 65536]),
    ("not a multiple of the mask", frame(BINARY, VERY_LONG + b"x"), [VERY_LONG + b"x"]),
    ("long text", text(LONG), [LONG]),
    ("several", text("a") + frame(BINARY, b"b") + text("c"), ["a", b"b", "c"]),
    (
        "fragments",
        text("Hel", fin=False) + frame(CONT, b"l", fin=False) + frame(CONT, b"o"),
        ["Hello"],
    ),
    (
        "empty fragments",
        text("", fin=False) + frame(CONT, b"", fin=False) + frame(CONT),
        [""],
    ),
    (
        "empty fragments around",
        frame(BINARY, fin=False) + frame(CONT, b"x", fin=False) + frame(CONT),
        [b"x"],
    ),
    (
        "a character in two fragments",
        frame(TEXT, "é".encode()[:1], fin=False) + frame(CONT, "é".encode()[1:]),
        ["é"],
    ),
    (
        "a ping between fragments",
        text("Hel", fin=False) + frame(PING, b"!") + frame(CONT, b"lo"),
        [Ping(b"!"), "Hello"],
    ),
    (
        "a message after a fragmented one",
        text("a", fin=False) + frame(CONT, b"b") + text("c") + frame(BINARY, b"d" * 200),
        ["ab", "c", b"d" * 200],
    ),
    ("pings", frame(PING) + frame(PING, b"x" * 125), [Ping(b""), Ping(b"x" * 125)]),
    ("a pong nobody asked for", frame(PONG, b"x") + text("a"), [Pong(b"x"), "a"]),
    ("close without a code", close(), [Close(1005, "")]),
    ("close with a code", close(1000), [Close(1000, "")]),
    ("close with a reason", close(1001, "weg é".encode()), [Close(1001, "weg é")]),
    ("the longest reason", close(1000, b"x" * 123), [Close(1000, "x" * 123)]),
    ("what follows a close", close(1000) + text("late") + b"\xff" * 20, [Close(1000, "")]),
    (
        "close between fragments",
        text("Hel", fin=False) + close(1000) + frame(CONT, b"lo"),
        [Close(1000, "")],
    ),
    *[
        (f"close with {code}", close(code), [Close(code, "")])
        for code in (1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4999)
    ],
]

BAD: list[Case] = [
    *[(f"reserved bit {bit:#x}", frame(TEXT, b"x", rsv=bit), [1002]) for bit in (RSV2, RSV3)],
    ("RSV1 without an extension", frame(TEXT, b"x", rsv=RSV1), [1002]),
    ("reserved bit in a ping", frame(PING, rsv=RSV2), [1002]),
    *[(f"reserved opcode {code}", frame(code), [1002]) for code in (3, 4, 5, 6, 7, 11, 12, 15)],
    ("after a good one", text("good") + frame(3), ["good", 1002]),
    ("not masked", text("x", mask=False), [1002]),
    ("a ping that is not masked", frame(PING, mask=False), [1002]),
    ("an empty close that is not masked", frame(CLOSE, mask=False), [1002]),
    ("length in more bytes than it needs", frame(TEXT, b"x", length=3), [1002]),
    ("length in 8 bytes", frame(TEXT, b"x" * 200, length=9), [1002]),
    ("negative length", b"\x82\xff" + b"\x80" + bytes(7) + b"mask", [1002]),
    ("a fragmented ping", frame(PING, fin=False), [1002]),
    ("a fragmented close", frame(CLOSE, fin=False), [1002]),
    ("a ping too long", frame(PING, b"x" * 126), [1002]),
    ("a close too long", frame(CLOSE, b"\x03\xe8" + b"x" * 124), [1002]),
    ("continuation of nothing", frame(CONT, b"x"), [1002]),
    ("continuation after the end", text("a") + frame(CONT, b"x"), ["a", 1002]),
    ("last fragment twice", text("a", fin=False) + frame(CONT) + frame(CONT), ["a", 1002]),
    ("a message in another", text("a", fin=False) + text("b"), [1002]),
    ("close with one byte", frame(CLOSE, b"\x03"), [1002]),
    *[
        (f"close with {code}", close(code), [1002])
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ],
    ("close with an invalid reason", close(1000, b"\xff"), [1007]),
    ("invalid text", frame(TEXT, b"a\xff"), [1007]),
    ("overlong", frame(TEXT, b"\xc0\xaf"), [1007]),
    ("surrogate", frame(TEXT, "\ud800".encode(errors="surrogatepass")), [1007]),
    ("beyond Unicode", frame(TEXT, b"\xf4\x90\x80\x80"), [1007]),
    ("text cut in a character", frame(TEXT, b"\xc3"), [1007]),
    ("long text cut in a character", frame(TEXT, b"x" * 200 + b"\xc3"), [1007]),
    ("fragmented text cut", frame(TEXT, b"\xc3", fin=False) + frame(CONT), [1007]),
    ("invalid in a fragment", text("a", fin=False) + frame(CONT, b"\xff", fin=False), [1007]),
    ("invalid across fragments", frame(TEXT, b"\xf4", fin=False) + frame(CONT, b"\x90"), [1007]),
]

everything = pytest.mark.parametrize(
    ("data", "expected"), [pytest.param(*case[1:], id=case[0]) for case in GOOD + BAD]
)


@everything
def test_what_a_client_sends_is_read(data: bytes, expected: list[Any]) -> None:
    for chunks in chunkings(data):
        if len(data) > 4000 and len(chunks) > 3:
            chunks = [data[i : i + 997] for i in range(0, len(data), 997)]
        reader = MessageReader(1 << 20)
        found = read(reader, chunks)
        # What was in one read comes with its messages first.
        assert sorted(map(repr, found)) == sorted(map(repr, expected)), chunks
        assert reader.ended == (isinstance(expected[-1], (int, Close)))
        if reader.ended:
            assert found[-1] == expected[-1]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_may_come_byte_by_byte_in_frames(opcode: int) -> None:
    content = "é0123456789".encode() * 200
    frames = [frame(CONT if i else opcode, content[i : i + 1], fin=False) for i in range(2400)]
    reader = MessageReader(1 << 20)
    expected = content.decode() if opcode == TEXT else content
    assert read(reader, [b"".join(frames) + frame(CONT)]) == [expected]
    assert read(reader, [frame(opcode, b"next")]) == ["next" if opcode == TEXT else b"next"]


def test_nothing_counts_after_the_end() -> None:
    reader = MessageReader(1000)
    assert read(reader, [close(1000), text("x"), frame(3)]) == [Close(1000, "")]


@pytest.mark.parametrize("start", [frame(3)[:2], frame(PING, fin=False)[:2], text("", mask=False)])
def test_a_wrong_head_fails_before_the_frame_is_there(start: bytes) -> None:
    assert read(MessageReader(1000), [start[:1], start[1:2]]) == [1002]


@pytest.mark.parametrize(
    ("before", "last"),
    [
        (text("κόσμε", fin=False), frame(CONT, b"\xf4\x90" + b"x" * 200)[:10]),
        (b"", frame(TEXT, b"\xed\xa0\x80" + b"x" * 300)[:12]),
        (b"", frame(TEXT, b"abc\xff" + b"x" * 70000)[:20]),
    ],
)
def test_invalid_text_fails_before_the_frame_is_there(before: bytes, last: bytes) -> None:
    assert read(MessageReader(1 << 20), [before, last]) == [1007]


def test_incomplete_text_is_no_failure() -> None:
    reader = MessageReader(1000)
    for byte in "𝄞".encode()[:-1]:
        assert (
            read(reader, [frame(TEXT if not reader._opcode else CONT, bytes([byte]), fin=False)])
            == []
        )
    assert read(reader, [frame(CONT, "𝄞".encode()[-1:])]) == ["𝄞"]


class TestLimits:
    @pytest.mark.parametrize("size", [0, 1, 10, 125, 126, 1000])
    def test_the_largest_message_is_taken(self, size: int) -> None:
        data = frame(BINARY, b"x" * size)
        assert read(MessageReader(size or 1), [data]) == [b"x" * size]

    @pytest.mark.parametrize("limit", [1, 10, 124, 125, 126, 1000])
    def test_a_larger_one_fails_by_its_head(self, limit: int) -> None:
        data = frame(BINARY, b"x" * (limit + 1))
        assert read(MessageReader(limit), [data]) == [1009]
        head = data[: -limit - 1]
        assert read(MessageReader(limit), [head]) == [1009]

    def test_fragments_count_together(self) -> None:
        parts = [frame(BINARY, b"x" * 50, fin=False), frame(CONT, b"x" * 50, fin=False)]
        assert read(MessageReader(100), [*parts, frame(CONT)]) == [b"x" * 100]
        assert read(MessageReader(100), [*parts, frame(CONT, b"x")]) == [1009]

    def test_each_message_counts_anew(self) -> None:
        data = frame(BINARY, b"x" * 60, fin=False) + frame(CONT, b"x" * 40)
        assert read(MessageReader(100), [data * 3]) == [b"x" * 100] * 3

    def test_text_counts_in_bytes(self) -> None:
        assert read(MessageReader(4), [text("éé")]) == ["éé"]
        assert read(MessageReader(3), [text("éé")]) == [1009]

    def test_a_frame_has_a_limit_of_its_own(self) -> None:
        parts = frame(BINARY, b"x" * 10, fin=False) + frame(CONT, b"x" * 10)
        assert read(MessageReader(100, max_frame=10), [parts]) == [b"x" * 20]
        assert read(MessageReader(100, max_frame=10), [frame(BINARY, b"x" * 11)]) == [1009]

    def test_no_more_messages_wait_than_may(self) -> None:
        reader = MessageReader(100, max_queue=3)
        assert reader.feed(text("x") * 5 + frame(PING)) == []
        assert list(reader.messages) == ["x"] * 3
        assert reader.has_more
        assert reader.feed(text("late")) == []
        reader.messages.clear()
        assert reader.feed(b"") == [Ping(b"")]
        assert list(reader.messages) == ["x", "x", "late"]
        assert not reader.has_more


class TestInflation:
    def test_messages_are_inflated(self) -> None:
        payload = deflated(b"Hello" * 100)
        data = frame(TEXT, payload, rsv=RSV1) + text("plain") + frame(BINARY, payload, rsv=RSV1)
        for chunks in chunkings(data):
            reader = MessageReader(1000, inflater=Inflater(15, False))
            assert read(reader, chunks) == ["Hello" * 100, "plain", b"Hello" * 100]

    def test_fragments_are_inflated(self) -> None:
        payload = deflated("é".encode() * 300)
        data = frame(TEXT, payload[:3], rsv=RSV1, fin=False) + frame(PING)
        data += frame(CONT, payload[3:5], fin=False) + frame(CONT, payload[5:])
        reader = MessageReader(1000, inflater=Inflater(15, True))
        assert read(reader, [data]) == ["é" * 300, Ping(b"")]

    def test_a_message_may_refer_to_the_one_before(self) -> None:
        # RFC 7692 section 7.2.3.2
        first, second = bytes.fromhex("f248cdc9c90700"), bytes.fromhex("f200110000")
        data = frame(TEXT, first, rsv=RSV1) + frame(TEXT, second, rsv=RSV1)
        assert read(MessageReader(9, inflater=Inflater(15, True)), [data]) == ["Hello"] * 2
        assert read(MessageReader(9, inflater=Inflater(15, False)), [data]) == ["Hello", 1007]

    @pytest.mark.parametrize(
        "payload",
        [
            "f248cdc9c90700",  # section 7.2.3.1
            "000500faff48656c6c6f00",  # 7.2.3.3, no compression
            "f348cdc9c9070000",  # 7.2.3.4, the last block
            "f248050000 00ffffcac9c90700",  # 7.2.3.5, two blocks
        ],
    )
    def test_every_form_of_the_rfc(self, payload: str) -> None:
        data = frame(TEXT, bytes.fromhex(payload), rsv=RSV1)
        for chunks in chunkings(data * 2):
            reader = MessageReader(9, inflater=Inflater(15, True))
            assert read(reader, chunks) == ["Hello"] * 2

    @pytest.mark.parametrize("limit", [1, 999, 1000])
    def test_what_counts_is_what_it_inflates_to(self, limit: int) -> None:
        data = frame(BINARY, deflated(b"x" * (limit + 1)), rsv=RSV1)
        reader = MessageReader(limit, max_frame=2000, inflater=Inflater(15, True))
        assert read(reader, [data]) == [1009]
        data = frame(BINARY, deflated(b"x" * limit), rsv=RSV1)
        reader = MessageReader(limit, max_frame=2000, inflater=Inflater(15, True))
        assert read(reader, [data]) == [b"x" * limit]

    def test_a_bomb_is_never_inflated_further_than_it_may(self) -> None:
        bomb = frame(BINARY, deflated(bytes(1 << 24)), rsv=RSV1)
        inflater = Inflater(15, True)
        assert read(MessageReader(1000, max_frame=1 << 20, inflater=inflater), [bomb]) == [1009]

    def test_what_does_not_compress_may_be_as_long_as_it_may(self) -> None:
        noise = bytes((i * 7919 + i // 251) & 0xFF for i in range(65536))
        payload = b"\x00\xff\xff\x00\x00" + noise[:65535] + b"\x00\x01\x00\xfe\xff" + noise[-1:]
        payload += b"\x00"
        reader = MessageReader(65536, max_frame=1 << 20, inflater=Inflater(15, True))
        assert read(reader, [frame(BINARY, payload, rsv=RSV1)]) == [noise]

    def test_a_message_may_not_have_ends_without_end(self) -> None:
        ends = b"\x03\x00" * 100_000
        reader = MessageReader(1 << 20, inflater=Inflater(15, True))
        assert read(reader, [frame(BINARY, ends, rsv=RSV1)]) == [1007]
        # Each message has its own.
        data = frame(BINARY, b"\x03\x00" * 5 + b"\x00", rsv=RSV1) * 10
        assert read(MessageReader(9, inflater=Inflater(15, True)), [data]) == [b""] * 10

    def test_many_that_inflate_wait(self) -> None:
        data = frame(BINARY, deflated(bytes(600_000)), rsv=RSV1) * 5
        reader = MessageReader(1 << 20, inflater=Inflater(15, False))
        reader.feed(data)
        assert len(reader.messages) == 2
        assert reader.has_more
        assert len(read(reader, [b""])) == 5

    @pytest.mark.parametrize("opcode", [CONT, PING, CLOSE])
    def test_only_the_first_frame_is_marked(self, opcode: int) -> None:
        start = text("x", fin=False) if opcode == CONT else b""
        reader = MessageReader(1000, inflater=Inflater(15, True))
        assert read(reader, [start + frame(opcode, rsv=RSV1)]) == [1002]

    @pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x07\x00"])
    def test_damaged_data(self, payload: bytes) -> None:
        reader = MessageReader(1000, inflater=Inflater(15, True))
        assert read(reader, [frame(BINARY, payload, rsv=RSV1)]) == [1007]

    def test_text_is_checked_after_inflation(self) -> None:
        reader = MessageReader(1000, inflater=Inflater(15, True))
        assert read(reader, [frame(TEXT, deflated(b"a\xff"), rsv=RSV1)]) == [1007]
