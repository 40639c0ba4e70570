"""HTTP/1.1 over TCP, TLS and Unix sockets, in both event loops: what every combination must do."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.integration.endpoint import Endpoint, chunked, get, new_key, post, serve
from tests.integration.responses import IncompleteResponse, parse_responses
from tests.integration.steered_app import PART
from tests.waiting import PATIENCE, wait_until

VARIANTS = [f"{loop} {via}" for loop in ("uvloop", "asyncio") for via in ("tcp", "tls", "unix")]


@pytest.fixture(scope="module", params=VARIANTS)
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    loop, via = request.param.split()
    with serve(loop=loop, via=via) as endpoint:
        yield endpoint


def test_requests_share_a_connection(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        for number in range(5):
            response = connection.ask(get(f"/{number}"))
            assert (response.status, response.body) == (200, b"/%d" % number)
            assert not response.closes
        assert connection.ask(post("/echo", b"abc"), "POST").body == b"abc"
        assert connection.ask(chunked("/echo", b"ab", b"c"), "POST").body == b"abc"
        assert connection.ask(get("/last")).body == b"/last"


def test_pipelined_requests_are_answered_in_order(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect() as connection:
        connection.send(
            get(f"/slow/{key}")
            + post("/echo", b"two")
            + get("/stream/x/1")
            + chunked("/echo", b"fo", b"ur")
            + get("/5", method="HEAD")
            + get("/6")
        )
        endpoint.wait_for(key, "started")
        assert connection.is_silent()
        endpoint.open(key)
        found = connection.receive("GET", "POST", "GET", "POST", "HEAD", "GET")
    bodies = [response.body for response in found]
    assert bodies == [key.encode(), b"two", b"part 0\n", b"four", b"", b"/6"]


def test_many_pipelined_requests(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        connection.send(b"".join(get(f"/{number}") for number in range(500)))
        found = connection.receive(*["GET"] * 500)
    assert [response.body for response in found] == [b"/%d" % number for number in range(500)]


def test_a_head_split_over_packets_is_understood(endpoint: Endpoint) -> None:
    request = get("/split", "X-A: b") + post("/echo", b"body")
    with endpoint.connect() as connection:
        for place in range(0, len(request), 11):
            connection.send(request[place : place + 11])
            connection.is_silent(0.001)
        first, second = connection.receive("GET", "POST")
    assert (first.body, second.body) == (b"/split", b"body")


def test_each_part_arrives_before_the_next_is_made(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect() as connection:
        connection.send(get(f"/stream/{key}"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.sock.recv(1)
            assert byte
            head += byte
        connection.receive_exactly(b"7\r\npart 0\n\r\n")
        for number in (1, 2):
            assert connection.is_silent()
            endpoint.open(key)
            connection.receive_exactly(b"7\r\npart %d\n\r\n" % number)
        connection.receive_exactly(b"0\r\n\r\n")
        assert connection.ask(get("/next")).body == b"/next"


def test_large_bodies_go_both_ways(endpoint: Endpoint) -> None:
    body = PART * 40
    with endpoint.connect() as connection:
        assert connection.ask(post("/echo", body), "POST").body == body
        assert connection.ask(chunked("/echo", *[PART] * 40), "POST").body == body
        assert connection.ask(get("/large/100")).body == PART * 100
        assert connection.ask(get("/flood/large/100")).body == PART * 100


def test_100_continue_comes_when_the_application_reads(endpoint: Endpoint) -> None:
    key = new_key()
    head = get(f"/take-late/{key}", "Content-Length: 4", "Expect: 100-continue", method="POST")
    with endpoint.connect() as connection:
        connection.send(head)
        endpoint.wait_for(key, "started")
        assert connection.is_silent()
        endpoint.open(key)
        connection.receive_exactly(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert connection.ask(b"data", "POST").body == b"4"
        assert connection.ask(get("/next")).body == b"/next"


def test_a_client_that_leaves_is_told_to_the_application(endpoint: Endpoint) -> None:
    keys = [new_key() for _ in range(2)]
    for key, leave in zip(keys, ("reset", "close"), strict=True):
        with endpoint.connect() as connection:
            connection.send(get(f"/watch/{key}"))
            endpoint.wait_for(key, "started")
            if leave == "reset":
                connection.reset()
        endpoint.wait_for(key, "started", "disconnect", "OSError")


def test_a_half_closed_client_gets_its_answer(endpoint: Endpoint) -> None:
    if endpoint.ssl_context is not None:
        pytest.skip("TLS has no half-closed connections that clients use")
    key = new_key()
    with endpoint.connect() as connection:
        connection.send(get(f"/slow/{key}") + get("/2"))
        connection.sock.shutdown(socket.SHUT_WR)
        endpoint.wait_for(key, "started")
        endpoint.open(key)
        first, second = connection.receive("GET", "GET")
        assert (first.body, second.body) == (key.encode(), b"/2")
        assert connection.rest() == b""


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_truncated_body_is_never_complete(endpoint: Endpoint, framing: str) -> None:
    key = new_key()
    request = post(f"/take/{key}", b"0123456789")[:-1]
    if framing == "chunks":
        request = chunked(f"/take/{key}", b"012345678")[:-3]
    with endpoint.connect() as connection:
        connection.send(request)
        if endpoint.ssl_context is None:
            connection.sock.shutdown(socket.SHUT_WR)
            assert connection.rest() == b""
    endpoint.wait_for(key, "disconnect after 9")


def test_an_error_before_the_head_is_a_500(endpoint: Endpoint) -> None:
    for path in ("/fail/before-head", "/fail/after-head", "/fall-short/before-head"):
        with endpoint.connect() as connection:
            response = connection.ask(get(path) + get("/never"))
            assert (response.status, response.closes) == (500, True)
            assert b"ValueError" not in response.body
            assert connection.rest() == b""


def test_an_error_in_the_body_cuts_the_connection(endpoint: Endpoint) -> None:
    for path in ("/fail/in-body", "/fall-short/in-body", "/wrong-length/3/2", "/wrong-length/3/4"):
        data = endpoint.exchange(get(path))
        assert data.startswith(b"HTTP/1.1 200 ")
        with pytest.raises(IncompleteResponse):
            parse_responses(data)
    for said in (
        "ValueError: failing in-body",
        "GET /fail/in-body from ",
        "response body is longer than its content-length",
        "response body is shorter than its content-length",
    ):
        endpoint.wait_for_log(said)


def test_work_after_the_response_does_not_hold_the_connection(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect() as connection:
        assert connection.ask(get(f"/background/{key}")).body == b"answered"
        endpoint.wait_for(key, "working")
        assert connection.ask(get("/meanwhile")).body == b"/meanwhile"
        endpoint.open(key)
        endpoint.wait_for(key, "working", "done")


def test_an_unread_body_does_not_cost_the_answer(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        response = connection.ask(post("/ignore", bytes(100_000)), "POST")
        assert (response.body, response.closes) == (b"ignored", False)
        assert connection.ask(get("/next")).body == b"/next"
    with endpoint.connect() as connection:
        head = get("/ignore", "Content-Length: 50000000", method="POST")
        response = connection.ask(head + bytes(300_000), "POST")
        assert (response.body, response.closes) == (b"ignored", True)


def test_a_refusal_arrives_although_the_client_goes_on_sending(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        connection.send(get("/", "Bad Name: x") + bytes(200_000))
        response = connection.receive()[0]
        assert (response.status, response.closes) == (400, True)
        with contextlib.suppress(ConnectionError):  # what it sends so late is not waited for
            for _ in range(5):
                connection.send(bytes(1000))
        assert connection.rest() == b""


def test_connection_close(endpoint: Endpoint) -> None:
    for request in (get("/closing"), get("/", "Connection: close")):
        with endpoint.connect() as connection:
            response = connection.ask(request)
            assert (response.status, response.closes) == (200, True)
            assert connection.rest() == b""


def test_a_slow_reader_pauses_the_application(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect(receive_buffer=4096) as connection:
        connection.send(get(f"/flood/{key}/400"))

        def stands_still() -> bool:
            before = endpoint.events(key)
            return bool(before) and all(endpoint.events(key) == before for _ in range(20))

        wait_until(stands_still, "the application waits for its client")
        # What the kernels and the transport hold; 25 MiB were to be sent.
        assert int(endpoint.events(key)[0]) < 250
        body = connection.receive()[0].body
        assert body == PART * 400
    endpoint.wait_for(key, "complete")


def test_a_reader_that_leaves_ends_the_stream(endpoint: Endpoint) -> None:
    key = new_key()
    with endpoint.connect(receive_buffer=4096) as connection:
        connection.send(get(f"/flood/{key}/100000"))
        wait_until(lambda: endpoint.events(key), "the application sends")
    endpoint.wait_for(key, "OSError")


def test_an_application_that_does_not_read_pauses_the_client(endpoint: Endpoint) -> None:
    key = new_key()
    size = 30_000_000
    with endpoint.connect() as connection:
        connection.send(get(f"/take-late/{key}", f"Content-Length: {size}", method="POST"))
        connection.sock.setblocking(False)
        endpoint.wait_for(key, "started")
        sent = 0

        def push() -> bool:
            """Sends until the kernel takes no more, twice in a row."""
            nonlocal sent
            before = sent
            try:
                while sent < size:
                    sent += connection.sock.send(PART[: size - sent])
            except (BlockingIOError, OSError):
                pass
            return sent == before

        wait_until(push, "the server reads no more")
        assert sent < size
        connection.sock.settimeout(PATIENCE)
        endpoint.open(key)
        while sent < size:
            sent += connection.sock.send(PART[: size - sent])
        assert connection.receive("POST")[0].body == b"%d" % size
    endpoint.wait_for(key, "started", f"complete {size}")


def test_300_connections_at_once(endpoint: Endpoint) -> None:
    key = new_key()
    connections = [endpoint.connect() for _ in range(300)]
    try:
        for number, connection in enumerate(connections):
            connection.send(get(f"/slow/{key}" if number == 0 else f"/{number}"))
        for number, connection in enumerate(connections[1:], 1):
            assert connection.receive()[0].body == b"/%d" % number
        endpoint.open(key)
        assert connections[0].receive()[0].body == key.encode()
    finally:
        for connection in connections:
            connection.sock.close()
