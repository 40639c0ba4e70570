"""What a connection does with its requests, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from pounce.asgi.types import Message, Receive, Scope, Send
from pounce.worker.worker import Worker
from tests.integration.responses import parse_responses
from tests.worker.h1_requests import (
    CHUNKED,
    CONTINUE,
    EXPECT,
    GET,
    POST,
    Gates,
    answer,
    in_a_worker,
    path_app,
)
from tests.worker.virtual_time import settle
from tests.worker.wire import Journal, Wire

# Request bodies that nobody reads


async def ignores_body(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"enough")


def test_a_small_unread_body_is_dropped_and_the_connection_kept() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 1000) + bytes(400))
        await settle()
        response = wire.responses(["POST"])[0]
        assert response.body == b"enough"
        assert not response.closes
        wire.send(bytes(600) + GET % 2)
        await settle()
        assert len(wire.responses(["POST", "GET"])) == 2
        assert not wire.closed

    in_a_worker(test, ignores_body)


def test_a_large_unread_body_closes_the_connection_and_says_so() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 1_000_000) + bytes(400))
        await settle()
        response = wire.responses(["POST"])[0]
        assert response.body == b"enough"
        assert response.closes
        assert wire.closed
        assert not wire.transport.closed  # the client may still be writing
        wire.send(bytes(1000))
        await asyncio.sleep(5)
        assert wire.transport.closed

    in_a_worker(test, ignores_body)


def test_a_chunked_body_is_dropped_only_up_to_a_limit() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(CHUNKED)
        await settle()
        assert wire.responses(["POST"])[0].body == b"enough"
        for _ in range(30):
            wire.send(b"2710\r\n" + bytes(10_000) + b"\r\n")
        await settle()
        assert wire.closed

    in_a_worker(test, ignores_body)


def test_a_client_that_waits_for_100_continue_in_vain_is_told_that_the_connection_ends() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(EXPECT % 5)
        await settle()
        response = wire.responses(["POST"])[0]
        assert response.closes
        assert wire.closed

    in_a_worker(test, ignores_body)


def test_100_continue_is_sent_when_the_application_asks_and_only_once() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        await answer(send, body)

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(EXPECT % 5)
        await settle()
        # The client has been told nothing, so it cannot be late.
        await asyncio.sleep(3600)
        assert wire.sent == b""
        go.set()
        await settle()
        assert wire.sent == CONTINUE
        wire.send(b"ab")
        await settle()
        assert wire.sent == CONTINUE
        wire.send(b"cde" + GET % 2)
        await settle()
        first, second, third = wire.responses(["POST", "GET"])
        assert (first.status, second.body, third.status) == (100, b"abcde", 200)

    in_a_worker(test, app)


def test_after_100_continue_the_client_may_be_late() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(EXPECT % 5)
        await settle()
        assert wire.sent == CONTINUE
        await asyncio.sleep(40)
        assert [response.status for response in wire.responses(["POST"])] == [100, 408]

    in_a_worker(test, Journal())


# Half-closed clients


def test_a_half_closed_client_gets_its_answers() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + GET % 2)
        wire.transport.half_close()
        await settle()
        await app.open("/1")
        await app.open("/2")
        assert [response.body for response in wire.responses(["GET"] * 2)] == [b"/1", b"/2"]
        assert wire.transport.closed

    in_a_worker(test, app)


def test_a_half_closed_client_is_told_of_an_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        raise ValueError("a bug")

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        wire.transport.half_close()
        await settle()
        assert wire.responses()[0].status == 500
        assert wire.transport.closed

    in_a_worker(test, app)


def test_a_truncated_body_is_never_complete() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        for request in (POST % (1, 10) + b"12345", CHUNKED + b"5\r\n12345\r\n0\r\n"):
            wire = Wire(worker)
            wire.send(request)
            await settle()
            wire.transport.half_close()
            await settle()
            assert app.requests.pop()["end"] == "disconnect"
            assert wire.sent == b""
            assert wire.transport.closed

    in_a_worker(test, app)


def test_a_half_closed_idle_connection_is_closed() -> None:
    async def test(worker: Worker) -> None:
        for begun in (b"", GET % 1, (GET % 1)[:10]):
            wire = Wire(worker)
            await wire.exchange(begun)
            wire.transport.half_close()
            await settle()
            assert wire.transport.closed
            assert not worker.connections

    in_a_worker(test, path_app)


def test_half_closing_behind_half_a_pipelined_request_ends_the_connection() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + b"GET /2 HT")
        wire.transport.half_close()
        await app.open("/1")
        assert len(wire.responses()) == 1
        assert wire.transport.closed

    in_a_worker(test, app)


# Refusals


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 3\r\n\r\n", 417),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 104857601\r\n\r\n", 413),
    ],
)
def test_nothing_behind_a_refused_request_is_served(request_head: bytes, status: int) -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(request_head + GET % 2)
        wire.send(GET % 3)
        await settle()
        wire.send(GET % 4)
        await settle()
        response = wire.responses()[0]
        assert (response.status, response.closes) == (status, True)
        assert wire.closed
        assert not wire.transport.aborted
        assert app.requests == []
        await asyncio.sleep(5)
        assert wire.transport.closed
        assert not worker.connections

    in_a_worker(test, app)


def test_too_many_requests_in_progress_are_refused_and_counted_right() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        busy, refused = Wire(worker), Wire(worker)
        busy.send(GET % 1)
        await settle()
        refused.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + GET % 2)
        await settle()
        response = refused.responses(["HEAD"])[0]
        assert (response.status, response.value(b"retry-after")) == (503, b"1")
        assert response.closes
        assert app.started == ["/1"]
        await app.open("/1")
        assert worker.in_flight == 0
        third = Wire(worker)
        third.send(GET % 3)
        await app.open("/3")
        assert third.responses()[0].body == b"/3"

    in_a_worker(test, app, limit_concurrency=1)


def test_the_last_request_that_a_connection_may_carry_closes_it() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + GET % 2 + GET % 3)
        await settle(20)
        first, second = wire.responses(["GET"] * 2)
        assert not first.closes
        assert second.closes
        assert wire.closed

    in_a_worker(test, path_app, limit_keep_alive_requests=2)


# The application's side


def test_work_after_the_response_does_not_hold_the_next_request() -> None:
    go = asyncio.Event()
    finished: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, scope["path"].encode())
        if scope["path"] == "/1":
            assert (await receive())["type"] == "http.request"
            assert (await receive())["type"] == "http.disconnect"
            await go.wait()
        finished.append(scope["path"])

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        wire.send(GET % 2)
        await settle()
        assert len(wire.responses(["GET"] * 2)) == 2
        assert finished == ["/2"]
        assert worker.in_flight == 1
        go.set()
        await settle()
        assert finished == ["/2", "/1"]

    in_a_worker(test, app)


def test_an_error_after_the_response_leaves_the_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"fine")
        raise ValueError("too late to matter")

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + GET % 2)
        await settle(20)
        assert [response.body for response in wire.responses(["GET"] * 2)] == [b"fine"] * 2
        assert not wire.closed

    in_a_worker(test, app)
    assert "too late to matter" in caplog.text
    assert "GET /1 from 192.0.2.7:50000" in caplog.text


def test_several_waiters_are_told_that_the_client_is_gone() -> None:
    told: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        told.extend(await asyncio.gather(receive(), receive()))

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        wire.transport.vanish(ConnectionResetError())
        await settle()
        assert told == [{"type": "http.disconnect"}] * 2

    in_a_worker(test, app)


def test_send_raises_oserror_when_the_client_is_gone() -> None:
    errors: list[Exception] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        for message in (
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body", "body": b"x"},
        ):
            try:
                await send(message)
            except OSError as error:
                errors.append(error)

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        wire.transport.vanish()
        await settle()
        assert len(errors) == 2

    in_a_worker(test, app)


def test_a_paused_send_ends_when_the_client_goes() -> None:
    errors: list[Exception] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(50_000), "more_body": True})
        except OSError as error:
            errors.append(error)
            raise

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        wire.send(GET % 1)
        await settle()
        assert not errors
        wire.transport.vanish()
        await settle()
        assert len(errors) == 1

    in_a_worker(test, app)


def test_scopes_share_nothing_that_an_application_might_change() -> None:
    scopes: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        scope["state"]["mine"] = scope["path"]
        scope["headers"].append((b"added", b""))
        scope["extensions"]["added"] = {}
        scope["asgi"]["added"] = ""
        scope["added"] = ""
        await answer(send, b"")

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + GET % 2)
        for _ in range(4):
            await settle(20)
            wire.send(GET % 2)
        await settle(20)
        assert [scope["path"] for scope in scopes] == ["/1"] + ["/2"] * 5
        for scope in scopes:
            assert scope["state"] == {"shared": 1, "mine": scope["path"]}
            assert scope["headers"] == [(b"host", b"a"), (b"added", b"")]
            assert len(scope["extensions"]) == 5
            assert len(scope["asgi"]) == 3
        assert worker.state == {"shared": 1}

    in_a_worker(test, app, state={"shared": 1})


def test_responses_are_parsed_to_the_last_byte() -> None:
    """The check of all the others: a byte too much on the wire is seen."""

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        await wire.exchange(GET % 1)
        wire.transport.write(b"x")
        with pytest.raises(AssertionError, match="after the responses"):
            wire.responses()
        assert parse_responses(wire.sent)[1] == b"x"

    in_a_worker(test, path_app)
