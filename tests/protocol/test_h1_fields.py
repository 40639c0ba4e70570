"""Field lines, and the fields that frame a message or ask for something."""

from __future__ import annotations

import pytest

from pounce.protocol.h1_head import NO_LENGTH, HeadParser
from tests.protocol.heads import parse, verdict
from tests.protocol.written_heads import both_ways, detoured, fields, head, status

# Field lines: RFC 9112 section 5


def test_field_lines_are_taken_apart() -> None:
    assert fields(
        "X-A:b", "x-a:\t b \t c \t", "Empty:", "Blank: \t ", "!~: :", "X: \xe4"
    ).pairs == (
        (b"host", b"a"),
        (b"x-a", b"b"),
        (b"x-a", b"b \t c"),
        (b"empty", b""),
        (b"blank", b""),
        (b"!~", b":"),
        (b"x", b"\xe4"),
    )


@pytest.mark.parametrize(
    "line",
    [
        *[
            "X : y",
            "X\t: y",
            "X",
            "X y",
            ": y",
            " ",
            " X: y",
            "\tX: y",
            "X y: z",
            "X;: y",
            "(X): y",
        ],
        *[
            "\xc4: y",
            "X\x00: y",
            "X: \x00",
            "X: a\x00b",
            "X: a\rb",
            "X: a\r",
            "X: \r",
            "X: a\nb",
            "X: a\n",
        ],
        *[
            "X\r: y",
            "X\n: y",
            "\rX: y",
            "\nX: y",
            "X: a\r\rb",
            "X: a\n\rb",
            "X: a\n b",
            "X: a\n\nb",
        ],
        *["X: a\r\n b", "X: a\r\n\tb", "X:\r\n a", "X: a\r\n ", " \r\nX: a", "X: a\r\n \r\nY: b"],
        *["X: \x01", "X: a\x08b", "X: \x0b", "X: a\x0c", "X: \x1f", "X: \x7f", "X: a\x1bb"],
        *["\x0bX: y", "X\x0c: y", "GET / HTTP/1.1", "1.1\nX: y", "1.0\nX: y"],
    ],
)
@pytest.mark.parametrize("before_host", [False, True])
@both_ways
def test_malformed_field_lines(line: str, before_host: bool, detour: str | None) -> None:
    data = (
        head("GET / HTTP/1.1", line, "Host: a", host=None)
        if before_host
        else head("GET / HTTP/1.1", line)
    )
    assert status(detoured(data, detour)) == 400
    data = data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    assert status(detoured(data, detour)) == 400


def test_a_verdict_is_found_by_nothing_that_a_client_can_make_up() -> None:
    """A key put together from version and block could be sent as a block."""
    parser = HeadParser()
    for version in ("1.0", "1.1"):
        for detour in ("Transfer-Encoding: chunked", "Upgrade: x", "X: y"):
            data = head(f"GET / HTTP/{version}", detour)
            assert [verdict(data, parser) for _ in range(3)] == [verdict(data)] * 3
            for prefix in ("1.0", "1.1", "1.2", ""):
                for glue in ("\n", "\r", "\x00", " ", ""):
                    spoilt = head("GET / HTTP/1.1", detour, host=f"{prefix}{glue}Host: a")
                    assert verdict(spoilt, parser) == verdict(spoilt)


# Host: RFC 9112 section 3.2, RFC 9110 section 7.2


@pytest.mark.parametrize(
    "host",
    [
        *[None, "Host:", "Host: ", "Host: a\r\nHost: a", "Host: a\r\nHost: b", "Host: a\r\nhost:"],
        *[
            "Host: u@a",
            "Host: u:p@a",
            "Host: @a",
            "Host: a/",
            "Host: a/b",
            "Host: /",
            "Host: http://a",
        ],
        *[
            "Host: a?b",
            "Host: a#b",
            "Host: a\\b",
            "Host: a b",
            "Host: a, b",
            "Host: a\tb",
            "Host: a:b",
        ],
        *[
            "Host: a:-1",
            "Host: :80",
            "Host: a:123456",
            "Host: [::1",
            "Host: [x]",
            "Host: \xe4",
            "Host: %zz",
        ],
        *[
            "Host: a\x7f",
            'Host: "a"',
            "Host: <a>",
            "Host: a\r\nX: y\r\nHost: a",
            "Host : a",
            "H\xf6st: a",
        ],
    ],
)
@both_ways
def test_hosts_that_are_refused(host: str | None, detour: str | None) -> None:
    assert status(detoured(head(host=host), detour)) == 400
    assert status(detoured(head("GET http://a/ HTTP/1.1", host=host), detour)) == 400
    if host is not None:
        assert status(detoured(head("GET / HTTP/1.0", host=host), detour)) == 400


def test_http_1_0_needs_no_host() -> None:
    assert parse(b"GET / HTTP/1.0\r\n\r\n").block.pairs == ()


@pytest.mark.parametrize(
    "host", ["a", "A.example:8000", "127.0.0.1", "[::1]:1", "a:", "a_b", "xn--a"]
)
@both_ways
def test_hosts(host: str, detour: str | None) -> None:
    block = parse(detoured(head(host=f"HOST:{host} "), detour)).block
    assert block.pairs[0] == (b"host", host.encode())


# Message length: RFC 9112 section 6


@pytest.mark.parametrize(
    ("value", "length"), [("0", 0), ("7", 7), ("007", 7), (" 12\t", 12), ("9" * 18, 10**18 - 1)]
)
@both_ways
def test_content_length(value: str, length: int, detour: str | None) -> None:
    block = parse(detoured(head("POST / HTTP/1.1", f"Content-Length:{value}"), detour)).block
    assert block.content_length == length
    assert not block.chunked
    assert block.plain is (length == 0)


def test_no_content_length() -> None:
    block = fields()
    assert block.content_length == NO_LENGTH
    assert block.plain


@pytest.mark.parametrize(
    "lines",
    [
        *[
            ["Content-Length:" + value]
            for value in ("", " ", "+5", "-5", "-0", "5 5", "5,5", "5, 5", "5,")
        ],
        *[
            ["Content-Length:" + value]
            for value in (",5", "5;", "5.0", "5e1", "0x5", "5_0", "_5", "5_", "a")
        ],
        *[
            ["Content-Length:" + value]
            for value in ("\xb2", "\xa05", "5\x0b", "\x0c5", '"5"', "(5)", "5 x")
        ],
        *[
            ["Content-Length:" + value]
            for value in ("9" * 19, "0" * 19, "18446744073709551621", "x5", "5x")
        ],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 0", "Content-Length: 0"],
        ["Content-Length: 5", "X: y", "content-length: 5"],
        ["Content-Length: 5", "Content-Length:"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 0", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Content-Length : 5"],
        ["Content-Length\t: 5"],
        ["Content-Length\x00: 5"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding: chunked\x0b"],
        ["Transfer-Encoding:\x0cchunked"],
        ["Transfer-Encoding: \x00chunked"],
    ],
)
@both_ways
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_lengths_that_are_refused(lines: list[str], detour: str | None, version: str) -> None:
    assert status(detoured(head(f"POST / HTTP/{version}", *lines), detour)) == 400


@pytest.mark.parametrize("value", ["chunked", "Chunked", " CHUNKED\t"])
def test_chunked(value: str) -> None:
    block = fields(f"Transfer-Encoding:{value}")
    assert block.chunked
    assert block.content_length == NO_LENGTH
    assert not block.plain


@pytest.mark.parametrize(
    "lines",
    [
        *[
            ["Transfer-Encoding:" + value]
            for value in ("", " ", "gzip", "identity", "x", "chunkedx", "xchunked")
        ],
        *[
            ["Transfer-Encoding:" + value]
            for value in ("chunked, chunked", "gzip, chunked", "chunked, gzip")
        ],
        *[
            ["Transfer-Encoding:" + value]
            for value in (",chunked", "chunked,", "chunked;q=1", '"chunked"')
        ],
        *[
            ["Transfer-Encoding:" + value]
            for value in ("chun ked", "chunked\xa0", "\xa0chunked", "chunked chunked")
        ],
        ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    ],
)
@both_ways
def test_transfer_codings_that_are_not_implemented(lines: list[str], detour: str | None) -> None:
    assert status(detoured(head("POST / HTTP/1.1", *lines), detour)) == 501


def test_transfer_encoding_in_http_1_0_is_refused() -> None:
    assert status(head("POST / HTTP/1.0", "Transfer-Encoding: chunked")) == 400
    assert status(head("POST / HTTP/1.0", "Transfer-Encoding: chunked", host=None)) == 400


def test_a_field_with_an_underscore_frames_nothing() -> None:
    block = fields("Content_Length: 5", "Transfer_Encoding: chunked")
    assert block.plain
    assert (b"content_length", b"5") in block.pairs


# What is asked of the connection and the response


@pytest.mark.parametrize(
    ("lines", "close", "keep_alive"),
    [
        ([], False, False),
        (["Connection: close"], True, False),
        (["Connection: CLOSE"], True, False),
        (["Connection: keep-alive"], False, True),
        (["Connection: Keep-Alive, Upgrade"], False, True),
        (["Connection: x ,\tclose\t, y"], True, False),
        (["Connection: ,,close,"], True, False),
        (["Connection: x", "Connection: close"], True, False),
        (["Connection: close", "Connection: keep-alive"], True, True),
        (["Connection: closed", "Connection: not-close", "Connection: clo se"], False, False),
        (["Connection:"], False, False),
        (["X-Connection: close"], False, False),
    ],
)
@both_ways
def test_connection(lines: list[str], close: bool, keep_alive: bool, detour: str | None) -> None:
    for version in ("1.0", "1.1"):
        block = parse(detoured(head(f"GET / HTTP/{version}", *lines), detour)).block
        assert (block.close, block.keep_alive) == (close, keep_alive)
        assert block.plain is (version == "1.1" and not close)


def test_expect_100_continue() -> None:
    assert fields("Expect: 100-Continue").expect_continue
    assert not fields("Expect: 100-Continue").plain
    assert not fields("Expect: 100-continue", line="POST / HTTP/1.0").expect_continue
    assert not fields().expect_continue


@pytest.mark.parametrize(
    "value", ["", "100", "100-continued", "100-continue, x", "200-ok", "100-continue;a=b"]
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_another_expectation_fails(value: str, version: str) -> None:
    assert status(head(f"POST / HTTP/{version}", f"Expect: {value}")) == 417
    assert status(head(f"POST / HTTP/{version}", "Expect: 100-continue", f"Expect: {value}")) == 417


def test_upgrade() -> None:
    assert fields("Upgrade: websocket", "Connection: upgrade").upgrade == b"websocket"
    assert fields("Upgrade: websocket", line="GET / HTTP/1.0").upgrade is None
    assert fields().upgrade is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["TE: trailers"], True),
        (["TE: gzip, Trailers ,deflate;q=0.5"], True),
        (["TE: gzip", "TE: trailers"], True),
        (["TE: trailers", "TE: gzip"], True),
        (["TE: gzip"], False),
        (["TE:"], False),
        (["TE: trai lers", "TE: xtrailers"], False),
    ],
)
@both_ways
def test_te(lines: list[str], expected: bool, detour: str | None) -> None:
    block = parse(detoured(head("GET / HTTP/1.1", *lines), detour)).block
    assert block.takes_trailers is expected
    assert block.plain is not expected


def test_forwarded_fields_are_noted() -> None:
    assert fields("X-Forwarded-For: 192.0.2.1").forwarded
    assert fields("X-Forwarded-Proto: https").forwarded
    assert not fields("Forwarded: for=192.0.2.1").forwarded
