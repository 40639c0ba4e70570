"""Every limit is on, is exact, and says with which status it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.endpoint import Endpoint, chunked, get, new_key, post, serve
from tests.integration.responses import Response, parse_response
from tests.waiting import wait_until


def final(endpoint: Endpoint, request: bytes) -> Response:
    """What comes before the server closes; the request is followed by one never to be served."""
    with endpoint.connect() as connection:
        connection.send(request + get("/never"))
        response = parse_response(connection.rest())
    assert response.closes
    return response


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    """The defaults."""
    with serve() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def narrow() -> Iterator[Endpoint]:
    options = {
        "--limit-request-line": "100",
        "--limit-request-fields": "5",
        "--limit-request-head": "200",
        "--limit-request-body": "1KiB",
        "--limit-keep-alive-requests": "3",
    }
    with serve(*[word for option in options.items() for word in option]) as endpoint:
        yield endpoint


def line_of(size: int) -> bytes:
    return get("/" + "x" * (size - len("GET / HTTP/1.1")))


def fields_of(count: int) -> bytes:
    return get("/", *[f"X-{number}: y" for number in range(count - 1)])


def head_of(size: int) -> bytes:
    return get("/", "X: " + "y" * (size - len("Host: localhost\r\nX: ")))


def test_request_line(endpoint: Endpoint, narrow: Endpoint) -> None:
    for server, limit in ((endpoint, 8190), (narrow, 100)):
        assert server.ask(line_of(limit)).status == 200
        assert final(server, line_of(limit + 1)).status == 414


def test_request_line_that_does_not_end(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        connection.send(b"GET /" + b"x" * 8200)
        assert parse_response(connection.rest()).status == 414


def test_number_of_fields(endpoint: Endpoint, narrow: Endpoint) -> None:
    for server, limit in ((endpoint, 100), (narrow, 5)):
        assert server.ask(fields_of(limit)).status == 200
        assert final(server, fields_of(limit + 1)).status == 431


def test_size_of_the_fields(endpoint: Endpoint, narrow: Endpoint) -> None:
    for server, limit in ((endpoint, 65536), (narrow, 200)):
        assert server.ask(head_of(limit)).status == 200
        assert final(server, head_of(limit + 1)).status == 431


def test_fields_that_do_not_end(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        connection.send(get("/")[:-2] + b"X: " + b"y" * 65600)
        assert parse_response(connection.rest()).status == 431


def test_trailers_have_the_limits_of_the_fields(narrow: Endpoint) -> None:
    few, many = b"A: b\r\n" * 5, b"A: b\r\n" * 6
    assert narrow.ask(chunked("/echo", b"x", trailers=few), "POST").body == b"x"
    assert final(narrow, chunked("/echo", b"x", trailers=many)).status == 431
    assert final(narrow, chunked("/echo", b"x", trailers=b"A: " + b"b" * 300)).status == 431


def test_body_by_its_length(narrow: Endpoint) -> None:
    key = new_key()
    assert narrow.ask(post("/echo", b"x" * 1024), "POST").body == b"x" * 1024
    assert final(narrow, post(f"/take/{key}", b"x" * 1025)).status == 413
    assert narrow.events(key) == []


def test_body_by_its_length_before_it_is_sent(narrow: Endpoint) -> None:
    for fields in (("Content-Length: 1025",), ("Content-Length: 1025", "Expect: 100-continue")):
        with narrow.connect() as connection:
            connection.send(get("/echo", *fields, method="POST"))
            assert parse_response(connection.rest()).status == 413


def test_body_by_what_arrives(narrow: Endpoint) -> None:
    key = new_key()
    assert narrow.ask(chunked("/echo", b"x" * 512, b"y" * 512), "POST").status == 200
    assert final(narrow, chunked(f"/take/{key}", b"x" * 512, b"y" * 513)).status == 413
    with narrow.connect() as connection:
        # Refused for what it announces; none of it is waited for.
        head = get(f"/take/{key}", "Transfer-Encoding: chunked", method="POST")
        connection.send(head + b"ffffffff\r\n")
        assert parse_response(connection.rest()).status == 413
    assert not any(event.startswith("complete") for event in narrow.events(key))


def test_the_application_is_told_that_a_body_was_refused(narrow: Endpoint) -> None:
    key = new_key()
    with narrow.connect() as connection:
        head = get(f"/take/{key}", "Transfer-Encoding: chunked", method="POST")
        connection.send(head + b"200\r\n" + bytes(0x200) + b"\r\n")
        # Who came later is answered: the application has the first chunk, without the next.
        assert narrow.events(key) == []
        assert connection.is_silent()
        connection.send(b"201\r\n")
        assert parse_response(connection.rest()).status == 413
    narrow.wait_for(key, "disconnect after 512")


def test_no_limit_for_the_body() -> None:
    with serve("--limit-request-body", "0") as endpoint:
        size = 110 * 1024 * 1024
        key = new_key()
        with endpoint.connect() as connection:
            connection.send(get(f"/take/{key}", f"Content-Length: {size}", method="POST"))
            for _ in range(110):
                connection.send(bytes(1024 * 1024))
            assert connection.receive("POST")[0].body == b"%d" % size


def test_body_limit_by_default(endpoint: Endpoint) -> None:
    request = get("/echo", f"Content-Length: {100 * 1024 * 1024 + 1}", method="POST")
    assert final(endpoint, request).status == 413


def test_requests_per_connection(narrow: Endpoint) -> None:
    with narrow.connect() as connection:
        closes = [connection.ask(get("/")).closes for _ in range(3)]
        assert closes == [False, False, True]
        assert connection.rest() == b""


def test_requests_in_progress() -> None:
    options = ("--limit-concurrency", "3", "--timeout-graceful-shutdown", "300ms")
    with serve(*options) as endpoint:
        keys = [new_key() for _ in range(3)]
        busy = [endpoint.connect() for _ in keys]
        for key, connection in zip(keys[:2], busy, strict=False):
            connection.send(get(f"/slow/{key}"))
            endpoint.wait_for(key, "started")
        busy[2].send(get(f"/slow/{keys[2]}"))
        response = wait_until(lambda: refusal(endpoint), "the limit is reached")
        assert response is not None
        assert response.value(b"retry-after") == b"1"
        assert response.closes
        refused = endpoint.ask(get("/", method="HEAD"), "HEAD")
        assert (refused.status, refused.body) == (503, b"")
        with endpoint.connect() as connection:
            # An answer to a client that is sending its body is not lost.
            connection.send(post("/echo", bytes(50_000)) + bytes(50_000))
            assert parse_response(connection.rest(), "POST").status == 503
        busy[0].reset()
        assert refusal(endpoint) is not None
    for connection in busy[1:]:
        assert connection.receive()[0].status == 500
        connection.sock.close()


def test_requests_in_progress_are_counted_right() -> None:
    with serve("--limit-concurrency", "1") as endpoint:
        for leave in ("answer", "reset", "error", "answer"):
            key = new_key()
            with endpoint.connect() as connection:
                connection.send(get(f"/watch/{key}" if leave == "reset" else f"/{leave}"))
                if leave == "reset":
                    wait_until(lambda: refusal(endpoint), "the request is in progress")
                    connection.reset()
                else:
                    connection.receive()
            wait_until(lambda: refusal(endpoint) is None, "the next one is let in")


def refusal(endpoint: Endpoint) -> Response | None:
    response = endpoint.ask(get("/"))
    assert response.status in (200, 503)
    return response if response.status == 503 else None
