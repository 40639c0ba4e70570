from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.errors import LimitError, ParseError
from pounce.protocol.h1_head import (
    CACHED_BYTES,
    CACHED_ENTRIES,
    NO_LENGTH,
    SEEN_ENTRIES,
    FieldBlock,
    HeadLimits,
    HeadParser,
)
from tests.protocol.heads import NotingParser, facts, parse, verdict


def head(line: str = "GET / HTTP/1.1", *fields: str, host: str | None = "Host: a") -> bytes:
    """A head of these lines, with one good Host unless that is given."""
    lines = [line, *([] if host is None else [host]), *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def fields(*lines: str, line: str = "POST / HTTP/1.1") -> FieldBlock:
    return parse(head(line, *lines)).block


def status(data: bytes) -> int:
    """The status that refuses `data`."""
    found = verdict(data)
    assert isinstance(found, int), found
    return found


# Ways. Fields that ask for more than the common case send the head to h11; what is refused must be
# refused on both.

both_ways = pytest.mark.parametrize("detour", [None, "Upgrade: x"], ids=["recognised", "delegated"])


def detoured(data: bytes, detour: str | None) -> bytes:
    return data if detour is None else data[:-2] + detour.encode() + b"\r\n\r\n"


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


# The request line: RFC 9112 section 3


def test_a_request_line_is_taken_apart() -> None:
    line, block = parse(b"GET /a%20b%2F/%C3%A4?c=%20&d?e HTTP/1.1\r\nHost: a\r\n\r\n")
    assert line.method == "GET"
    assert line.target == b"/a%20b%2F/%C3%A4?c=%20&d?e"
    assert line.raw_path == b"/a%20b%2F/%C3%A4"
    assert line.path == "/a b//ä"
    assert line.query_string == b"c=%20&d?e"
    assert line.http_version == "1.1"
    assert line.authority is None
    assert block.pairs == ((b"host", b"a"),)
    assert block.plain


@pytest.mark.parametrize("method", ["GET", "get", "M-SEARCH", "!#$%&'*+-.^_`|~09", "CONNECTED"])
def test_any_token_is_a_method(method: str) -> None:
    assert parse(head(f"{method} / HTTP/1.1")).line.method == method


@pytest.mark.parametrize(
    "path", ["/", "//", "/a:b@c", '/"<>^`{|}', "/%", "/%zz%4", "/..//.", "/%00"]
)
def test_origin_form(path: str) -> None:
    line = parse(head(f"GET {path}?{path}?x HTTP/1.1")).line
    assert line.raw_path == path.encode()
    assert line.query_string == path.encode() + b"?x"


def test_percent_encoding_that_is_not_utf_8_is_replaced() -> None:
    assert parse(head("GET /%ff%C3 HTTP/1.1")).line.path == "/��"


@pytest.mark.parametrize(
    ("target", "authority", "origin"),
    [
        ("http://b", b"b", b"/"),
        ("http://b/", b"b", b"/"),
        ("http://b:80/x?y", b"b:80", b"/x?y"),
        ("http://b?y", b"b", b"/?y"),
        ("HTTPS://B.example/http://c", b"B.example", b"/http://c"),
        ("http://[2001:db8::1]:8080/?@", b"[2001:db8::1]:8080", b"/?@"),
        ("http://b%41/", b"b%41", b"/"),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_absolute_form_overrides_host(
    target: str, authority: bytes, origin: bytes, version: str
) -> None:
    line, block = parse(head(f"GET {target} HTTP/{version}", "X: y", "Content-Length: 3"))
    assert (line.target, line.authority) == (origin, authority)
    assert block.pairs == ((b"host", authority), (b"x", b"y"), (b"content-length", b"3"))
    assert block.content_length == 3


def test_absolute_form_leaves_what_is_remembered_alone() -> None:
    parser = HeadParser()
    for target, host in (("http://b/", b"b"), ("/", b"a"), ("http://c/", b"c"), ("/", b"a")):
        _, block = parse(head(f"GET {target} HTTP/1.1", "Upgrade: x"), parser)
        assert block.pairs == ((b"host", host), (b"upgrade", b"x"))


def test_absolute_form_of_http_1_0_needs_no_host() -> None:
    assert parse(head("GET http://b/ HTTP/1.0", host=None)).block.pairs == ((b"host", b"b"),)


@pytest.mark.parametrize(
    "target",
    [
        *["http://", "http:///x", "http://?x", "http:/b", "http:b", "http//b", "http://:80/"],
        *[
            "http://u@b/",
            "http://u:p@b/",
            "http://@b/",
            "http://b@/",
            "http://b:x/",
            "http://b:1:2/",
        ],
        *["http://b\\/", "http://b/#f", "http://b#f", "http://b/\\", "http://[::1/", "http://[x]/"],
        *["ftp://b/", "ws://b/", "httpss://b/", "b", "b/x", "?x", "a:443", "**", "*/", "+/"],
    ],
)
@both_ways
def test_other_targets_are_refused(target: str, detour: str | None) -> None:
    assert status(detoured(head(f"GET {target} HTTP/1.1"), detour)) == 400


@pytest.mark.parametrize("target", ["a:443", "[::1]:443", "127.0.0.1:1", "a.example:65535"])
def test_authority_form(target: str) -> None:
    line = parse(head(f"CONNECT {target} HTTP/1.1")).line
    assert (line.method, line.target, line.authority) == ("CONNECT", target.encode(), None)


@pytest.mark.parametrize(
    "target",
    ["/", "/x", "*", "http://a:1/", "http://a", "a", "a:", ":1", "a:x", "u@a:1", "a:1/", "a:1?"],
)
@both_ways
def test_connect_needs_authority_form(target: str, detour: str | None) -> None:
    assert status(detoured(head(f"CONNECT {target} HTTP/1.1"), detour)) == 400


def test_asterisk_form() -> None:
    line = parse(head("OPTIONS * HTTP/1.1")).line
    assert (line.method, line.target, line.path, line.raw_path) == ("OPTIONS", b"*", "*", b"*")


@pytest.mark.parametrize("method", ["GET", "HEAD", "options", "CONNECT", "OPTION"])
def test_asterisk_form_needs_options(method: str) -> None:
    assert status(head(f"{method} * HTTP/1.1")) == 400


@pytest.mark.parametrize(
    "line",
    [
        *["", " ", "GET", "GET ", "GET /", "GET / ", "GET HTTP/1.1", "/ HTTP/1.1", " / HTTP/1.1"],
        *[
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET\t/ HTTP/1.1",
        ],
        *[
            "GET /\tHTTP/1.1",
            "GET / x HTTP/1.1",
            "GET / HTTP/1.1 x",
            "G(T / HTTP/1.1",
            "G\xe9T / HTTP/1.1",
        ],
        *["GET / http/1.1", "GET / HTTP/1", "GET / HTTP/1.", "GET / HTTP/1.1.1", "GET / HTTP/01.1"],
        *[
            "GET / HTTP/1.10",
            "GET / HTTP/+1.1",
            "GET / HTTP/1,1",
            "GET / HTTP1.1",
            "GET / HTTP/\xb9.1",
        ],
        *[
            "GET / HTTPS/1.1",
            "GET / ICAP/1.1",
            "GET /# HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET # HTTP/1.1",
        ],
        *["GET /\\ HTTP/1.1", "GET \\ HTTP/1.1", "GET /a\\b?c HTTP/1.1", "GET /?a\\b HTTP/1.1"],
        *["GET /?a#b HTTP/1.1", "GET /\x7f HTTP/1.1", "GET /\xe4 HTTP/1.1", "GET /\x00 HTTP/1.1"],
        *[
            "GET /\x0b HTTP/1.1",
            "GET /\r HTTP/1.1",
            "GET /\n HTTP/1.1",
            "GET / HTTP/1.1\r",
            "\rGET / HTTP/1.1",
        ],
        *[
            "\nGET / HTTP/1.1",
            "GET / HTTP/1.1\n",
            "GET / HTTP/1.1\nX: y",
            "GET / HTTP/1.1\x00",
            "\x00",
        ],
    ],
)
@both_ways
def test_malformed_request_lines(line: str, detour: str | None) -> None:
    assert status(detoured(head(line), detour)) == 400


@pytest.mark.parametrize("version", ["0.9", "2.0", "2.1", "3.0", "9.9"])
@both_ways
def test_another_major_version_is_not_supported(version: str, detour: str | None) -> None:
    assert status(detoured(head(f"GET / HTTP/{version}"), detour)) == 505
    assert status(detoured(head(f"GET / HTTP/{version}", host=None), detour)) == 505


@pytest.mark.parametrize("version", ["1.2", "1.9"])
def test_a_higher_minor_version_is_served_as_1_1(version: str) -> None:
    assert facts(parse(head(f"GET / HTTP/{version}", "Connection: keep-alive"))) == facts(
        parse(head("GET / HTTP/1.1", "Connection: keep-alive"))
    )
    assert status(head(f"GET / HTTP/{version}", host=None)) == 400


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
