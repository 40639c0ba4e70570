"""The HPACK decoder beside the one of the `hpack` library."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from pounce.protocol.h2.hpack_decoder import HpackDecoder, HpackError, HpackOverflow

Pair = tuple[bytes, bytes]

MOST = 1 << 20

names = st.sampled_from([b":path", b"accept", b"a", b"x-long-name" * 10]) | st.binary(max_size=20)
values = st.sampled_from([b"", b"/", b"gzip, deflate", b"v" * 300]) | st.binary(max_size=40)
sections = st.lists(st.tuples(names, values, st.booleans()), max_size=12)
changes = st.none() | st.integers(0, 4096)


def both(blocks: list[bytes], allowed: int = 4096) -> None:
    """Each block means the same to both, up to one that neither takes."""
    ours = HpackDecoder(MOST)
    ours.allowed_size = allowed
    theirs = Decoder(max_header_list_size=MOST)
    theirs.max_allowed_table_size = allowed
    for block in blocks:
        try:
            expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        except (HPACKError, IndexError):
            with pytest.raises(HpackError):
                ours.decode(block)
            return
        pairs, size = ours.decode(block)
        assert pairs == expected
        assert size == sum(len(n) + len(v) + 32 for n, v in expected)
        assert list(ours._entries) == list(theirs.header_table.dynamic_entries)
        assert ours.table_size == theirs.header_table.maxsize


@settings(max_examples=300)
@given(st.lists(st.tuples(sections, changes, st.booleans()), max_size=6))
def test_what_an_encoder_writes(script: list[tuple[list[tuple[bytes, bytes, bool]], int | None,
                                bool]]) -> None:  # fmt: skip
    encoder = Encoder()
    blocks = []
    for section, change, huffman in script:
        if change is not None:
            encoder.header_table_size = change
        blocks.append(encoder.encode(section, huffman=huffman))
    both(blocks)


@settings(max_examples=1000)
@given(st.lists(st.binary(max_size=40), max_size=4), st.sampled_from([0, 100, 4096, 70000]))
def test_any_bytes(blocks: list[bytes], allowed: int) -> None:
    both(blocks, allowed)


# Bytes that are near to what an encoder writes find more than any bytes.
_PIECES = [
    b"\x82", b"\xbe", b"\xbf", b"\xc0", b"\x20", b"\x3f\x01", b"\x3f\x45", b"\x3f\xe1\x1f",
    b"\x40\x01a\x01b", b"\x40\x01c\x85\xf2\xb2\x4a\x84\xff", b"\x44\x03/ab", b"\x7f\x00\x01d",
    b"\x00\x01a\x01b", b"\x10\x01s\x01t", b"\x0f\x2f\x01e", b"\x7e\x82\x1f\xff", b"\xff\x00",
]  # fmt: skip


@settings(max_examples=1000)
@given(st.lists(st.lists(st.sampled_from(_PIECES), max_size=6).map(b"".join), max_size=5))
def test_pieces_of_blocks(blocks: list[bytes]) -> None:
    both(blocks)


def test_a_large_section_is_decoded_but_not_kept() -> None:
    decoder = HpackDecoder(200)
    block = b"".join(b"\x40\x01%c\x10" % c + b"v" * 16 for c in b"abcdefghijkl")
    pairs, size = decoder.decode(block)
    assert len(pairs) == 8
    assert size == 12 * (1 + 16 + 32)
    assert decoder.decode(b"\xbe")[0] == [(b"l", b"v" * 16)]  # the table is in step


def test_decoding_ends_where_it_is_far_too_much() -> None:
    decoder = HpackDecoder(1000)
    decoder.decode(b"\x40\x01a\x7f\x81\x07" + b"v" * 1024)
    with pytest.raises(HpackOverflow):
        decoder.decode(b"\xbe" * 20)


def test_the_table_must_shrink_when_that_was_acknowledged() -> None:
    decoder = HpackDecoder(MOST)
    decoder.allowed_size = 100
    with pytest.raises(HpackError):
        decoder.decode(b"\x82")
    assert decoder.decode(b"\x20\x82")[0] == [(b":method", b"GET")]


def test_the_generation_says_when_the_table_has_changed() -> None:
    decoder = HpackDecoder(MOST)
    seen = [decoder.generation]
    for block, changes_it in [
        (b"\x82", False),
        (b"\x00\x01a\x01b", False),
        (b"\x40\x01a\x01b", True),
        (b"\xbe", False),
        (b"\x3f\xe1\x1f\xbe", False),  # the size that it has
        (b"\x20", True),
        (b"\x3f\xe1\x1f", True),
    ]:
        decoder.decode(block)
        assert (decoder.generation != seen[-1]) == changes_it, block
        seen.append(decoder.generation)
