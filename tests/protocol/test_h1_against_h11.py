"""Whatever we accept, h11 accepts with the same result; and neither the way a head takes through
the parser nor what the parser remembers changes the verdict.

`MUTATED_HEADS=5000000 pytest tests/protocol/test_h1_against_h11.py -n auto` tries more.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.errors import ProtocolError
from pounce.protocol import h1_head
from pounce.protocol.h1_head import HeadParser
from tests.protocol.heads import (
    CRLF2,
    SEEDS,
    NotingParser,
    as_head,
    ask_h11,
    disagreement,
    facts,
    mutate,
    parse,
    verdict,
)

MUTATED_HEADS = int(os.environ.get("MUTATED_HEADS", "100000"))
PARTS = 20


def judged_by_h11(head: bytes) -> dict[str, object] | int:
    """The verdict by the way that every head could take."""
    raw_line, _, raw_block = head.removesuffix(CRLF2).partition(b"\r\n")
    try:
        line = h1_head.parse_request_line(raw_line)
        block = h1_head._judged_by_h11(line, raw_line, raw_block)
    except ProtocolError as exc:
        return exc.status
    return facts(h1_head.RequestHead(line, block))


def check(head: bytes, shared: HeadParser) -> str:
    """Holds one head against h11 and against our other ways; how it was decided."""
    fresh = NotingParser()
    expected = verdict(head, fresh)
    assert verdict(head, shared) == expected, head  # remembered among others
    if not fresh.delegated:
        assert judged_by_h11(head) == expected, head
    if isinstance(expected, int):
        return "refused"
    ours = [parse(head, fresh) for _ in range(3)][-1]  # remembered by now
    assert facts(ours) == expected, head
    assert disagreement(ours, ask_h11(head)) is None, head
    return "delegated" if fresh.delegated else "recognised"


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_heads(part: int) -> None:
    rng = random.Random(part)
    shared = HeadParser()
    outcomes = {"recognised": 0, "delegated": 0, "refused": 0}
    count = MUTATED_HEADS // PARTS
    for _ in range(count):
        outcomes[check(mutate(rng), shared)] += 1
    # A mutator whose heads all meet the same end would show nothing.
    assert min(outcomes.values()) >= count // 25, outcomes


@pytest.mark.parametrize("head", SEEDS)
def test_seeds(head: bytes) -> None:
    check(head, HeadParser())


def mostly(common: Iterable[bytes], rare: Iterable[bytes]) -> st.SearchStrategy[bytes]:
    """One of `common` in about nine cases of ten."""
    common, rare = list(common), list(rare)
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(rare if n == 9 else common))


ends = mostly([b"\r\n"], [b"\n", b"\r", b"\r\n ", b"\r\n\t", b"\r\r\n", b"\x00\r\n", b"\n\r\n"])
spaces = mostly([b" "], [b"", b"  ", b"\t", b"\x0b", b"\xa0", b"\r"])
methods = mostly(
    [b"GET", b"POST", b"CONNECT", b"OPTIONS"], [b"", b"get", b"M-SEARCH", b"G(T", b"G\xe9T"]
)
targets = mostly(
    [b"/", b"/a%20b?c=d", b"*", b"a:443", b"http://a/b", b"HTTPS://[::1]:8?x"],
    [b"", b"/#", b"/\\", b"/\x7f", b"/\x80", b"a", b"http://", b"http://u@a/", b"ftp://a/", b"/\t"],
)
versions = mostly(
    [b"HTTP/1.1", b"HTTP/1.0"], [b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b""]
)
names = st.one_of(
    mostly(
        [
            b"Content-Length",
            b"Transfer-Encoding",
            b"Connection",
            b"Expect",
            b"Upgrade",
            b"TE",
            b"X",
        ],
        [
            b"Content-Length ",
            b" Content-Length",
            b"Host",
            b"",
            b"X\x00",
            b"Content_Length",
            b"\xe9",
        ],
    ),
    st.binary(min_size=1, max_size=3),
)
values = st.one_of(
    mostly(
        [b"5", b"0", b"chunked", b"close", b"keep-alive", b"100-continue", b"trailers", b""],
        [
            b"+5",
            b"5,5",
            b"5 5",
            b"0x5",
            b"1_0",
            b"\xb2",
            b"\x0b5",
            b"gzip",
            b"chunked, chunked",
            b'"',
        ],
    ),
    st.binary(max_size=8),
)
fields = st.tuples(
    names, mostly([b": "], [b":", b" :", b":\t ", b"", b";", b": \x0c"]), values, ends
)
hosts = mostly(
    [b"Host: a\r\n", b"host:\ta.b:80 \r\n", b"HOST: [::1]\r\n"],
    [
        b"",
        b"Host:\r\n",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a b\r\n",
        b"Host: u@a\r\n",
        b"Host: a/\r\n",
    ],
)


@st.composite
def near_valid_heads(draw: st.DrawFn) -> bytes:
    line = [draw(methods), draw(spaces), draw(targets), draw(spaces), draw(versions), draw(ends)]
    lines = [draw(hosts), *[b"".join(field) for field in draw(st.lists(fields, max_size=4))]]
    return as_head(b"".join([*line, *draw(st.permutations(lines))]))


@given(near_valid_heads())
def test_near_valid_heads(head: bytes) -> None:
    check(head, HeadParser())


@given(st.lists(near_valid_heads(), min_size=2, max_size=6))
def test_what_is_remembered_never_changes_a_verdict(heads: list[bytes]) -> None:
    shared = HeadParser()
    for head in heads * 3:
        assert verdict(head, shared) == verdict(head)
