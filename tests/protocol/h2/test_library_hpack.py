"""What is remembered of header blocks is what they still mean: `hpack` itself as the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from pounce.protocol.h2.library_hpack import (
    KNOWN_BLOCKS,
    RememberingDecoder,
    RememberingEncoder,
    with_secrets,
)

NAMES = st.sampled_from([b":path", b"host", b"x-a", b"x-b", b"set-cookie", b"authorization"])
VALUES = st.sampled_from([b"", b"/", b"1", b"longer than the others", b"x" * 100])
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
STEPS = st.lists(FIELDS | st.sampled_from([0, 64, 200, 4096]), max_size=30)


def same(headers: Any) -> list[tuple[bytes, bytes, bool]]:
    return [(name, value, header.indexable) for header in headers for name, value in [header]]


@given(STEPS)
def test_both_sides_do_as_the_library_does(steps: list[Any]) -> None:
    plain, remembering = Encoder(), RememberingEncoder()
    oracle, decoder = Decoder(), RememberingDecoder()
    for step in steps:
        if isinstance(step, int):
            if step == plain.header_table_size:
                continue  # said twice, hpack's encoder forgets to tell its peer of the first time
            plain.header_table_size = remembering.header_table_size = step
            continue
        fields = with_secrets(step)
        for _ in range(3):  # the second time it is in the table, the third time remembered
            block = remembering.encode(fields)
            assert block == plain.encode(fields)
            expected = oracle.decode(block, raw=True)
            assert same(decoder.decode(block, raw=True)) == same(expected)


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\xbe", b"\x20", b"\x40\x01a\x01b"])))
def test_bad_blocks_are_refused_as_by_the_library(blocks: list[bytes]) -> None:
    oracle, decoder = Decoder(), RememberingDecoder()
    for block in blocks:
        try:
            expected = same(oracle.decode(block, raw=True))
        except HPACKError as exc:
            with pytest.raises(type(exc)):
                decoder.decode(block, raw=True)
            return
        assert same(decoder.decode(block, raw=True)) == expected


def test_a_list_that_was_handed_out_may_be_changed() -> None:
    decoder = RememberingDecoder()
    for _ in range(3):
        headers = decoder.decode(b"\x82", raw=True)
        assert [*headers] == [(b":method", b"GET")]
        assert isinstance(headers, list)
        headers.clear()


def test_what_is_remembered_is_bounded() -> None:
    decoder, encoder = RememberingDecoder(), RememberingEncoder()
    for number in range(KNOWN_BLOCKS * 2):
        # Never indexed, so that the table stays as it is.
        block = encoder.encode([NeverIndexedHeaderTuple(b"x", b"%d" % number)])
        decoder.decode(block, raw=True)
    assert len(decoder._known) == len(encoder._known) == KNOWN_BLOCKS


def test_a_table_that_must_become_smaller_is_waited_for() -> None:
    decoder = RememberingDecoder()
    decoder.decode(b"\x82", raw=True)
    decoder.decode(b"\x82", raw=True)
    decoder.max_allowed_table_size = 100
    with pytest.raises(HPACKError):
        decoder.decode(b"\x82", raw=True)
    assert [*decoder.decode(b"\x3f\x45\x82", raw=True)] == [(b":method", b"GET")]
    assert [*decoder.decode(b"\x82", raw=True)] == [(b":method", b"GET")]
