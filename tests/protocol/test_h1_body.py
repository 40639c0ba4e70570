from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.errors import LimitError, ParseError
from pounce.protocol.h1_body import (
    MAX_CHUNK_LINE,
    MAX_EXTENSION_BYTES,
    BodyReader,
    ChunkedReader,
    LengthReader,
)
from pounce.protocol.h1_response import chunk
from tests.protocol.bodies import (
    CHUNKED,
    MALFORMED,
    NEXT,
    Reading,
    ask_h11,
    bytewise,
    cut,
    mutate,
    read,
    splits,
)

chunked_bodies = pytest.mark.parametrize(("body", "content"), CHUNKED.items())
malformed_bodies = pytest.mark.parametrize(("body", "until_then"), MALFORMED.items())


# Content-Length


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("after", [b"", b"\r", NEXT])
def test_content_of_a_known_length_ends_there(length: int, after: bytes) -> None:
    content = b"a\r\n0\r\n\r"[:length]
    data = content + after
    expected = Reading(content, after)
    assert read(LengthReader(length), data) == expected
    assert read(LengthReader(length), *bytewise(data)) == expected
    for pieces in (*splits(data, 1), *splits(data, 2)):
        assert read(LengthReader(length), *pieces) == expected
    assert ask_h11(b"Content-Length: %d" % length, data) == expected


def test_content_of_a_known_length_is_incomplete_until_its_last_byte() -> None:
    reader = LengthReader(3)
    assert reader.remaining == 3
    assert reader.feed(b"a") == (b"a", None)
    assert reader.remaining == 2
    assert reader.feed(b"b") == (b"b", None)
    assert reader.feed(b"c") == (b"c", b"")
    assert reader.remaining == 0


# The chunked coding: RFC 9112 section 7.1


@chunked_bodies
@pytest.mark.parametrize("after", [b"", b"\r\n", NEXT])
def test_a_chunked_body_ends_where_it_ends(body: bytes, content: bytes, after: bytes) -> None:
    expected = Reading(content, after)
    assert read(ChunkedReader(), body + after) == expected
    assert read(ChunkedReader(), *bytewise(body + after)) == expected
    for pieces in splits(body + after, 1):
        assert read(ChunkedReader(), *pieces) == expected
    assert ask_h11(b"Transfer-Encoding: chunked", body + after) == expected


@chunked_bodies
def test_a_chunked_body_cut_in_three(body: bytes, content: bytes) -> None:
    for pieces in splits(body + b"G", 2):
        assert read(ChunkedReader(), *pieces) == Reading(content, b"G")


@chunked_bodies
def test_no_beginning_of_a_chunked_body_is_complete(body: bytes, content: bytes) -> None:
    for end in range(len(body)):
        reading = read(ChunkedReader(), body[:end])
        assert reading == read(ChunkedReader(), *bytewise(body[:end]))
        assert reading.rest is None
        assert reading.status is None
        assert content.startswith(reading.content)


def test_content_is_delivered_as_it_arrives() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"5\r\nab") == (b"ab", None)
    assert reader.feed(b"c") == (b"c", None)
    assert reader.feed(b"de\r") == (b"de", None)
    assert reader.feed(b"\n1") == (b"", None)
    assert reader.feed(b"\r\nf\r\n0\r\n\r") == (b"f", None)
    assert reader.feed(b"\nrest") == (b"", b"rest")


@malformed_bodies
def test_a_malformed_body_is_refused_however_it_arrives(body: bytes, until_then: bytes) -> None:
    for pieces in ([body + NEXT], bytewise(body + NEXT), *splits(body + NEXT, 1)):
        reading = read(ChunkedReader(), *pieces)
        assert reading.status == 400
        assert reading.rest is None
        assert until_then.startswith(reading.content)


@malformed_bodies
def test_a_malformed_body_is_refused_as_soon_as_its_lines_are_there(
    body: bytes, until_then: bytes
) -> None:
    assert read(ChunkedReader(), body).status == 400


def test_a_cr_in_an_extension_hides_no_request() -> None:
    """h11 takes this for one chunk and a whole body; another parser sees two requests."""
    body = b"2;\rxx\r\n4c\r\n0\r\n\r\n" + NEXT
    assert ask_h11(b"Transfer-Encoding: chunked", body).content == b"4c"
    assert read(ChunkedReader(), body) == Reading(b"", None, 400)


def test_trailer_fields_frame_nothing() -> None:
    body = b"0\r\nContent-Length: +9\r\nTransfer-Encoding: x\r\nHost:\r\n\r\n"
    assert read(ChunkedReader(), body + NEXT) == Reading(b"", NEXT)


# Limits


@pytest.mark.parametrize("pieces", [1, 2, 3], ids="{} pieces".format)
def test_the_content_may_be_as_long_as_the_limit(pieces: int) -> None:
    def sent(size: int) -> list[bytes]:
        data = b"".join(chunk(part) for part in (b"a" * (size - 3), b"bc", b"d")) + b"0\r\n\r\n"
        return cut(data, range(0, len(data), len(data) // pieces + 1))

    assert read(ChunkedReader(10), *sent(10)).rest == b""
    assert read(ChunkedReader(10), *sent(11)).status == 413


def test_a_chunk_that_is_too_long_is_refused_by_its_size() -> None:
    with pytest.raises(LimitError) as caught:
        ChunkedReader(9).feed(b"A\r\n")
    assert caught.value.status == 413
    assert read(ChunkedReader(2**20), b"FFFFFFFFFFFFFFFF\r\n").status == 413
    assert read(ChunkedReader(0), b"FFFFFFFFFFFFFFFF\r\na") == Reading(b"a", None)


@pytest.mark.parametrize("length", [MAX_CHUNK_LINE, MAX_CHUNK_LINE + 1])
def test_a_chunk_size_line_may_be_as_long_as_the_limit(length: int) -> None:
    line = b"1;" + b"a" * (length - 2)
    data = line + b"\r\nx\r\n0\r\n\r\n"
    expected = Reading(b"x", b"") if length == MAX_CHUNK_LINE else Reading(b"", None, 400)
    assert read(ChunkedReader(), data) == expected
    assert read(ChunkedReader(), *bytewise(data)) == expected
    for place in (length - 1, length, length + 1, length + 2):
        assert read(ChunkedReader(), data[:place], data[place:]) == expected


def test_a_chunk_size_line_that_never_ends_is_refused() -> None:
    assert read(ChunkedReader(), *[b"1;" + b"a" * 998] * 4).status is None
    assert read(ChunkedReader(), b"1;" + b"a" * (MAX_CHUNK_LINE + 2)).status == 400


def test_the_extensions_of_a_message_count_together() -> None:
    one = b"1;" + b"a" * 1023 + b"\r\nx\r\n"
    assert (len(one) - 6) * 16 == MAX_EXTENSION_BYTES
    data = one * 16 + b"0\r\n\r\n"
    assert read(ChunkedReader(), data) == Reading(b"x" * 16, b"")
    assert read(ChunkedReader(), one * 16 + b"0;a\r\n\r\n").status == 400
    assert (
        read(ChunkedReader(), *cut(one * 16 + b"0;a\r\n\r\n", range(0, 20000, 700))).status == 400
    )


@pytest.mark.parametrize("lines", [1, 2, 5])
@pytest.mark.parametrize("more", [0, 1])
def test_the_trailer_section_may_be_as_long_as_the_limit(lines: int, more: int) -> None:
    limit = 100
    first = b"A: b\r\n" * (lines - 1)
    section = first + b"X: " + b"y" * (limit - len(first) - 3 + more)
    data = b"0\r\n" + section + b"\r\n\r\n"
    expected = Reading(b"", NEXT) if not more else Reading(b"", None, 431)
    for pieces in ([data + NEXT], bytewise(data + NEXT), *splits(data + NEXT, 1)):
        assert read(ChunkedReader(0, limit), *pieces) == expected


@pytest.mark.parametrize("more", [0, 1])
def test_there_may_be_as_many_trailer_fields_as_the_limit(more: int) -> None:
    data = b"0\r\n" + b"A: b\r\n" * (3 + more) + b"\r\n"
    expected = Reading(b"", NEXT) if not more else Reading(b"", None, 431)
    for pieces in ([data + NEXT], bytewise(data + NEXT), *splits(data + NEXT, 1)):
        assert read(ChunkedReader(0, 100, 3), *pieces) == expected


def test_a_trailer_field_that_trickles_in_is_not_read_again_and_again() -> None:
    reader = ChunkedReader()
    assert reader.feed(b"0\r\nX: ") == (b"", None)
    for _ in range(65536 - len(b"X: ")):
        assert reader.feed(b"y") == (b"", None)
    with pytest.raises(LimitError) as caught:
        reader.feed(b"yy")
    assert caught.value.status == 431


# Properties

extensions = st.lists(
    st.from_regex(rb'\A;[a-z]{1,3}(=([A-Z!]{1,3}|"([ -!a-z\x80\t]|\\["\\ a])*"))?\Z'), max_size=2
)
fields = st.lists(st.from_regex(rb"\A[A-Za-z-]{1,4}:[ \t]?[!-~]{0,5}[ \t]?\Z"), max_size=3)
sizes = st.sampled_from([b"%x", b"%X", b"0%x", b"00%X"])


@st.composite
def chunked_messages(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Content, and an encoding of it."""
    contents = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    encoded = bytearray()
    for content in contents:
        size = draw(sizes) % len(content)
        encoded += size + b"".join(draw(extensions)) + b"\r\n" + content + b"\r\n"
    encoded += b"0" + b"".join(draw(extensions)) + b"\r\n"
    encoded += b"".join(line + b"\r\n" for line in draw(fields)) + b"\r\n"
    return b"".join(contents), bytes(encoded)


places = st.lists(st.integers(0, 300), max_size=12)


@given(chunked_messages(), st.binary(max_size=20), places)
def test_content_is_what_was_encoded_however_it_arrives(
    message: tuple[bytes, bytes], after: bytes, places: list[int]
) -> None:
    content, encoded = message
    assert read(ChunkedReader(), *cut(encoded + after, places)) == Reading(content, after)


@given(st.binary(max_size=60), places)
def test_how_bytes_arrive_changes_nothing(data: bytes, places: list[int]) -> None:
    whole, cut_up = read(ChunkedReader(), data), read(ChunkedReader(), *cut(data, places))
    assert (cut_up.rest, cut_up.status) == (whole.rest, whole.status)
    if whole.status is None:
        assert cut_up.content == whole.content


# RFC 9110 section 5.6.3 has this white space taken and thrown away; h11 refuses it.
BWS_BEFORE_EXTENSION = re.compile(rb"[0-9A-Fa-f][ \t]+;")


@pytest.mark.parametrize("part", range(10))
def test_mutated_bodies_against_h11(part: int) -> None:
    """What is accepted, h11 accepts with the same content and the same end."""
    rng = random.Random(part)
    outcomes = {"complete": 0, "incomplete": 0, "refused": 0}
    for _ in range(10000):
        data = mutate(rng)
        ours = read(ChunkedReader(), data)
        pieces = cut(data, [rng.randrange(len(data) + 1) for _ in range(4)])
        again = read(ChunkedReader(), *pieces)
        assert (again.rest, again.status) == (ours.rest, ours.status), (data, pieces)
        if ours.status is not None:
            outcomes["refused"] += 1
            continue
        assert again.content == ours.content, (data, pieces)
        outcomes["incomplete" if ours.rest is None else "complete"] += 1
        theirs = ask_h11(b"Transfer-Encoding: chunked", data)
        if theirs.status is None or not BWS_BEFORE_EXTENSION.search(data):
            assert ours == theirs, data
    assert min(outcomes.values()) > 100, outcomes


def test_readers_are_body_readers() -> None:
    readers: list[BodyReader] = [LengthReader(1), ChunkedReader()]
    for reader in readers:
        with pytest.raises(AttributeError):
            reader.another = 1  # type: ignore[attr-defined]


def test_errors_are_protocol_errors_of_the_right_kind() -> None:
    with pytest.raises(ParseError):
        ChunkedReader().feed(b"x\r\n")
    with pytest.raises(LimitError):
        ChunkedReader(1).feed(b"2\r\n")
