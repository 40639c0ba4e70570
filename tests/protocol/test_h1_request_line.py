"""Request lines: RFC 9112 section 3."""

from __future__ import annotations

import pytest

from pounce.protocol.h1_head import HeadParser
from tests.protocol.heads import facts, parse
from tests.protocol.written_heads import both_ways, detoured, head, status


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
