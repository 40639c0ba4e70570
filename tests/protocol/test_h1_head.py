from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.errors import LimitError, ParseError
from pounce.protocol.h1_head import (
    CACHED_BYTES,
    CACHED_ENTRIES,
    SEEN_ENTRIES,
    HeadLimits,
    HeadParser,
)
from tests.protocol.heads import NotingParser, facts, parse, verdict
from tests.protocol.written_heads import head


@pytest.mark.parametrize(
    ("data", "delegated"),
    [
        (head(), False),
        (head("POST /x HTTP/1.1", "Content-Length: 5", "Connection: close", "TE: trailers"), False),
        (head("GET / HTTP/1.0"), True),
        (head("GET / HTTP/1.2"), True),
        (head("OPTIONS * HTTP/1.1"), True),
        (head("GET http://a/ HTTP/1.1"), True),
        (head("CONNECT a:1 HTTP/1.1"), True),
        (head("GET / HTTP/1.1", "Upgrade: x"), True),
        (head("GET / HTTP/1.1", "Expect: 100-continue"), True),
        (head("GET / HTTP/1.1", "Transfer-Encoding: chunked"), True),
    ],
)
def test_what_is_left_to_h11(data: bytes, delegated: bool) -> None:
    parser = NotingParser()
    parse(data, parser)
    assert parser.delegated is delegated


# Limits


def test_a_request_line_may_be_as_long_as_the_limit() -> None:
    limits = HeadLimits(request_line=40)
    line = "GET /" + "a" * 26 + " HTTP/1.1"
    assert len(line) == 40
    assert parse(head(line), HeadParser(limits)).line.target == b"/" + b"a" * 26
    for longer in ("X" + line, line.replace("/1.1", "/1.1 "), "X" * 41):
        with pytest.raises(LimitError) as caught:
            parse(head(longer), HeadParser(limits))
        assert caught.value.status == 414


def test_the_fields_may_be_as_long_as_the_limit() -> None:
    limits = HeadLimits(head=40)
    value = "b" * (40 - len("Host: a\r\nX: "))
    assert parse(head("GET / HTTP/1.1", f"X: {value}"), HeadParser(limits)).block.plain
    for longer in (f"X: {value}b", f"X: {value} "):
        with pytest.raises(LimitError) as caught:
            parse(head("GET / HTTP/1.1", longer), HeadParser(limits))
        assert caught.value.status == 431


def test_there_may_be_as_many_fields_as_the_limit() -> None:
    limits = HeadLimits(fields=5)
    lines = ["X: y"] * 4
    assert len(parse(head("GET / HTTP/1.1", *lines), HeadParser(limits)).block.pairs) == 5
    for one_more in ("X: y", "Upgrade: x", "x"):
        with pytest.raises(LimitError) as caught:
            parse(head("GET / HTTP/1.1", *lines, one_more), HeadParser(limits))
        assert caught.value.status == 431


def test_limits_hold_for_heads_that_are_delegated() -> None:
    parser = HeadParser(HeadLimits(request_line=20, fields=2, head=30))
    assert verdict(head("GET http://aaaaaaaaa/ HTTP/1.0"), parser) == 414
    assert verdict(head("GET / HTTP/1.0", "X: " + "y" * 30), parser) == 431
    assert verdict(head("GET / HTTP/1.0", "X: y", "X: y"), parser) == 431


def test_the_default_limits_are_those_of_the_options() -> None:
    assert HeadLimits() == (8190, 100, 65536)


# What is remembered


@pytest.mark.parametrize(
    "data",
    [
        head(),
        head("GET /%41?b HTTP/1.1", "Connection: close", "X-Forwarded-For: b"),
        head("POST / HTTP/1.1", "Content-Length: 5", "TE: trailers"),
        head("POST / HTTP/1.1", "Transfer-Encoding: chunked"),
        head("POST / HTTP/1.1", "Expect: 100-continue", "Content-Length: 3"),
        head("GET http://b/ HTTP/1.1", "Upgrade: x"),
        head("GET / HTTP/1.0", "Connection: keep-alive"),
        head("OPTIONS * HTTP/1.1"),
        head(host=None),
        head(host="Host:"),
        head("GET / HTTP/1.1", "X : y"),
        head("POST / HTTP/1.1", "Content-Length: +5"),
        head("POST / HTTP/1.1", "Content-Length: 5", "Content-Length: 5"),
        head("POST / HTTP/1.1", "Transfer-Encoding: gzip"),
        head("POST / HTTP/1.1", "Expect: x"),
        head("GET /# HTTP/1.1"),
    ],
)
def test_another_look_says_the_same(data: bytes) -> None:
    parser = HeadParser()
    assert [verdict(data, parser) for _ in range(4)] == [verdict(data)] * 4


def test_a_verdict_on_one_version_is_not_taken_for_another() -> None:
    parser = HeadParser()
    lines = ["Connection: keep-alive", "Expect: 100-continue", "Upgrade: x"]
    for version in ("1.0", "1.1", "1.0", "1.2", "1.1", "1.0", "1.1"):
        data = head(f"POST / HTTP/{version}", *lines)
        assert verdict(data, parser) == verdict(data)
        data = head(f"GET / HTTP/{version}", host=None)
        assert verdict(data, parser) == verdict(data)


def test_a_line_and_a_block_that_are_known_are_taken_from_the_tables() -> None:
    parser = HeadParser()
    for block in ("X: y", "Transfer-Encoding: chunked"):
        heads = [parse(head("GET /a HTTP/1.1", block), parser) for _ in range(4)]
        assert heads[-1].line is heads[-2].line
        assert heads[-1].block is heads[-2].block


def tables(parser: HeadParser) -> list[Collection[object]]:
    found = [getattr(parser, name) for name in HeadParser.__slots__ if name != "limits"]
    assert all(isinstance(table, Collection) for table in found)
    return found


def test_the_tables_are_bounded() -> None:
    parser = HeadParser()
    largest = 0
    for number in range(SEEN_ENTRIES):
        for _ in range(2):
            parse(head(f"GET /{number} HTTP/1.1", f"X: {number}", f"TE: {number}"), parser)
            parse(head(f"GET /{number} HTTP/1.0", f"Y: {number}"), parser)
        largest = max(largest, *map(len, tables(parser)))
    for table in tables(parser):
        assert 0 < len(table) <= (SEEN_ENTRIES if isinstance(table, set) else CACHED_ENTRIES)
    assert largest <= SEEN_ENTRIES


def test_of_a_long_list_only_what_matters_is_remembered() -> None:
    parser = HeadParser()
    line = "Connection: close," + ",".join(map(str, range(400)))
    assert len(line) < CACHED_BYTES
    for number in range(4):
        assert parse(head("GET / HTTP/1.1", line, f"X: {number}"), parser).block.close
    assert parser._special[line.encode()][2] == {b"close"}


def test_long_lines_and_blocks_are_not_remembered() -> None:
    parser = HeadParser()
    long = "y" * CACHED_BYTES
    for version in ("1.0", "1.1"):
        for block in (f"X: {long}", f"TE: {long}", f"Upgrade: {long}"):
            data = head(f"GET /{long} HTTP/{version}", block)
            assert [verdict(data, parser) for _ in range(3)] == [verdict(data)] * 3
    for table in tables(parser):
        if isinstance(table, dict):
            assert all(len(key) <= CACHED_BYTES for key in table)


def test_an_error_says_what_was_wrong_on_one_line_of_ascii() -> None:
    for data in (head(host=None), head("GET / HTTP/1.1", "X: \xff\x00"), head("POST / HTTP/2.0")):
        with pytest.raises(ParseError) as caught:
            parse(data)
        text = str(caught.value)
        assert text
        assert text.isascii()
        assert text.isprintable()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_nothing_but_protocol_errors_is_raised(line: bytes, block: bytes) -> None:
    data = line + b"\r\n" + block + b"\r\n\r\n"
    found = verdict(data)
    assert isinstance(found, dict) or found in (400, 414, 417, 431, 501, 505)


def test_a_head_is_judged_by_its_own_bytes_only() -> None:
    data = head("GET / HTTP/1.1", "X: y")
    after = b"GET /other HTTP/1.1\r\nContent-Length: 5\r\n\r\n"
    assert facts(parse(data + after)) == facts(parse(data))
