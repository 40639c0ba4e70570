"""Requests that must not be served: what the client is told, and that nothing behind them is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.endpoint import Endpoint, get, new_key, serve
from tests.integration.responses import parse_response


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with serve() as endpoint:
        yield endpoint


def request(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


def body_of(*lines: bytes) -> bytes:
    return request(b"POST / HTTP/1.1", b"Host: a", *lines)


def with_host(value: bytes) -> bytes:
    return request(b"GET / HTTP/1.1", b"Host: " + value)


def target(value: bytes) -> bytes:
    return request(b"GET " + value + b" HTTP/1.1", b"Host: a")


def field(value: bytes) -> bytes:
    return request(b"GET / HTTP/1.1", b"Host: a", value)


def length(value: bytes) -> bytes:
    return body_of(b"Content-Length: " + value)


def chunks(value: bytes) -> bytes:
    return body_of(b"Transfer-Encoding: chunked") + value


MALFORMED = {
    # Host (RFC 9112 section 3.2, RFC 9110 section 7.2)
    "no host": request(b"GET / HTTP/1.1", b"A: b"),
    "no field at all": request(b"GET / HTTP/1.1"),
    "two hosts": request(b"GET / HTTP/1.1", b"Host: a", b"Host: a"),
    "two hosts in HTTP/1.0": request(b"GET / HTTP/1.0", b"Host: a", b"Host: b"),
    "two hosts in one": with_host(b"a, b"),
    "empty host": with_host(b""),
    "userinfo in host": with_host(b"user@a"),
    "path in host": with_host(b"a/b"),
    "space in host": with_host(b"a b"),
    "port that is none": with_host(b"a:b"),
    "host with a query": with_host(b"a?b"),
    "open bracket in host": with_host(b"[::1"),
    "no host beside absolute-form": request(b"GET http://a/ HTTP/1.1"),
    # Request line (RFC 9112 section 3)
    "no version": request(b"GET /", b"Host: a"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "two spaces": target(b" /"),
    "tab": request(b"GET\t/ HTTP/1.1", b"Host: a"),
    "space in the target": target(b"/a b"),
    "space before the method": request(b" GET / HTTP/1.1", b"Host: a"),
    "space behind the version": request(b"GET / HTTP/1.1 ", b"Host: a"),
    "method that is no token": request(b"G@T / HTTP/1.1", b"Host: a"),
    "version in lower case": request(b"GET / http/1.1", b"Host: a"),
    "version with two digits": request(b"GET / HTTP/1.10", b"Host: a"),
    "fragment": target(b"/a#b"),
    "backslash": target(b"/a\\b"),
    "control character in the target": target(b"/a\x01"),
    "DEL in the target": target(b"/a\x7f"),
    "raw bytes in the target": target(b"/\xc3\xa4"),
    "target without a slash": target(b"a"),
    "asterisk for GET": target(b"*"),
    "unknown scheme": target(b"ftp://a/"),
    "userinfo in absolute-form": target(b"http://u@a/"),
    "no host in absolute-form": target(b"http:///"),
    "CONNECT with a path": request(b"CONNECT / HTTP/1.1", b"Host: a"),
    "CONNECT without a port": request(b"CONNECT a HTTP/1.1", b"Host: a"),
    # Fields (RFC 9112 section 5)
    "space before the colon": field(b"A : b"),
    "tab before the colon": field(b"A\t: b"),
    "no colon": field(b"A"),
    "empty name": field(b": b"),
    "name with a space": field(b"A b: c"),
    "name with a bracket": field(b"A(b): c"),
    "name beyond ASCII": field(b"\xc3\xa4: b"),
    "folding": field(b"A: b\r\n c"),
    "folding of the first field": request(b"GET / HTTP/1.1", b" Host: a"),
    "bare CR": field(b"A: b\rC: d"),
    "bare LF": field(b"A: b\nC: d"),
    "bare LF at the end": b"GET / HTTP/1.1\nHost: a\n\n",
    "NUL": field(b"A: b\x00"),
    "control character in a value": field(b"A: \x01"),
    # Length (RFC 9112 section 6)
    "length with a sign": length(b"+1"),
    "negative length": length(b"-1"),
    "length with an underscore": length(b"1_0"),
    "length with spaces inside": length(b"1 0"),
    "length with junk": length(b"a1"),
    "length in hexadecimal": length(b"0x1"),
    "length with a point": length(b"1.0"),
    "empty length": length(b""),
    "length in Arabic digits": length("\u0661".encode()),
    "endless length": length(b"9" * 40),
    "two lengths in one": length(b"1, 1"),
    "two lengths": body_of(b"Content-Length: 1", b"Content-Length: 1"),
    "conflicting lengths": body_of(b"Content-Length: 1", b"Content-Length: 2"),
    "length beside chunks": body_of(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunks beside length": body_of(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "chunked twice": body_of(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunked in HTTP/1.0": request(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
    # Chunks (RFC 9112 section 7.1)
    "chunk size with a sign": chunks(b"+1\r\na\r\n0\r\n\r\n"),
    "chunk size with 0x": chunks(b"0x1\r\na\r\n0\r\n\r\n"),
    "chunk size with an underscore": chunks(b"1_0\r\n"),
    "chunk size with a space before": chunks(b" 1\r\na\r\n0\r\n\r\n"),
    "empty chunk size": chunks(b"\r\n"),
    "chunk size too large": chunks(b"1" * 17 + b"\r\n"),
    "chunk size line without an end": chunks(b"1;" + b"a" * 10000),
    "bare LF behind a chunk size": chunks(b"1\na\r\n0\r\n\r\n"),
    "CR in a chunk extension": chunks(b"1;a\rb\r\na\r\n0\r\n\r\n"),
    "LF in a chunk extension": chunks(b"1;a\nb\r\na\r\n0\r\n\r\n"),
    "a request behind CR in a chunk extension": chunks(
        b"1;\r\ra\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    ),
    "chunk longer than its size": chunks(b"1\r\nab\r\n0\r\n\r\n"),
    "chunk shorter than its size": chunks(b"3\r\nab\r\n0\r\n\r\n"),
    "bare LF behind a chunk": chunks(b"1\r\na\n0\r\n\r\n"),
    "malformed trailer": chunks(b"0\r\nA : b\r\n\r\n"),
    "folded trailer": chunks(b"0\r\nA: b\r\n c\r\n\r\n"),
    # Not HTTP
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "HTTP/2": b"PRI / HTTP/1.1\r\n\r\nSM\r\n\r\n",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused(endpoint: Endpoint, name: str) -> None:
    key = new_key()
    behind = get(f"/watch/{key}")
    with endpoint.connect() as connection:
        connection.send(MALFORMED[name] + behind)
        response = parse_response(connection.rest())
    assert response.status == 400
    assert response.closes
    assert endpoint.events(key) == []


STATUSES = {
    "HTTP/2.0": (request(b"PRI * HTTP/2.0", b"Host: a"), 505),
    "HTTP/3.0": (request(b"GET / HTTP/3.0", b"Host: a"), 505),
    "HTTP/0.9": (request(b"GET / HTTP/0.9", b"Host: a"), 505),
    "gzip": (body_of(b"Transfer-Encoding: gzip, chunked"), 501),
    "identity": (body_of(b"Transfer-Encoding: identity"), 501),
    "chunked with a vertical tab": (body_of(b"Transfer-Encoding: \x0bchunked"), 400),
    "chunked in quotes": (body_of(b'Transfer-Encoding: "chunked"'), 501),
    "xchunked": (body_of(b"Transfer-Encoding: xchunked"), 501),
    "chunked, identity": (body_of(b"Transfer-Encoding: chunked, identity"), 501),
    "expectation": (body_of(b"Expect: 200-ok", b"Content-Length: 1"), 417),
}


@pytest.mark.parametrize("name", STATUSES)
def test_unsupported_requests_are_refused(endpoint: Endpoint, name: str) -> None:
    raw, status = STATUSES[name]
    with endpoint.connect() as connection:
        connection.send(raw + get("/never"))
        response = parse_response(connection.rest())
    assert (response.status, response.closes) == (status, True)


ACCEPTED = {
    "field name of odd characters": field(b"!#$%&'*+-.^_`|~1aZ: b"),
    "no space behind the colon": field(b"A:b"),
    "colon in the value": field(b"A: b:c"),
    "latin-1 in the value": field(b"A: \xff"),
    "empty lines first": b"\r\n\r\n" + field(b"A: b"),
    "host with a port": with_host(b"a:8080"),
    "host with an empty port": with_host(b"a:"),
    "IPv6 host": with_host(b"[2001:db8::1]:80"),
    "leading zeros in the length": length(b"0003") + b"abc",
    "chunk sizes in both cases": chunks(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n"),
    "leading zeros in a chunk size": chunks(b"0003\r\nabc\r\n00\r\n\r\n"),
    "chunk extensions": chunks(b'3;a=b;c="d\\"e" ; f\r\nabc\r\n0;g\r\n\r\n'),
    "trailers": chunks(b"3\r\nabc\r\n0\r\nA: b\r\nC:\r\n\r\n"),
    "chunked in capitals": body_of(b"transfer-encoding: CHUNKED") + b"0\r\n\r\n",
    "100-continue in capitals": body_of(b"Expect: 100-CONTINUE", b"Content-Length: 0"),
    "upgrade that is not done": field(b"Connection: Upgrade\r\nUpgrade: h2c"),
    "DELETE with a body": request(b"DELETE / HTTP/1.1", b"Host: a", b"Content-Length: 1") + b"x",
    "unknown method": request(b"BREW / HTTP/1.1", b"Host: a"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_looks_odd_but_is_right_is_served(endpoint: Endpoint, name: str) -> None:
    with endpoint.connect() as connection:
        response = connection.ask(ACCEPTED[name], "POST")
        assert (response.status, response.closes) == (200, False)
        assert connection.ask(get("/behind")).body == b"/behind"


def test_the_refusal_says_what_was_wrong(endpoint: Endpoint) -> None:
    response = endpoint.ask(MALFORMED["empty host"])
    assert response.body == b"malformed Host\n"
    assert response.value(b"content-type") == b"text/plain; charset=utf-8"
    assert response.values(b"date")


def test_refusals_are_in_the_log(endpoint: Endpoint) -> None:
    endpoint.ask(MALFORMED["empty host"])
    endpoint.wait_for_log("refused a request from 127.0.0.1:")
    endpoint.wait_for_log("400 malformed Host")


def test_a_refusal_waits_for_the_responses_before_it(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect() as connection:
        connection.send(get(f"/slow/{key}") + MALFORMED["empty host"] + get("/never"))
        endpoint.wait_for(key, "started")
        endpoint.open(key)
        first, second = connection.receive("GET", "GET")
        assert (first.status, second.status) == (200, 400)
        assert connection.rest() == b""
