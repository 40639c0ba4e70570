"""What a connection does with its requests: their order, flow control, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pounce.asgi.types import Message, Receive, Scope, Send
from pounce.worker.worker import Worker
from tests.integration.responses import parse_responses
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Journal, Wire, make_worker

GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def answer(send: Send, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def path_app(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, scope["path"].encode())


class Gates:
    """An application each of whose requests waits until its gate is opened."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.started.append(path)
        await self.gates.setdefault(path, asyncio.Event()).wait()
        await answer(send, path.encode())

    async def open(self, path: str) -> None:
        self.gates.setdefault(path, asyncio.Event()).set()
        await settle()


def in_a_worker(test: Callable[..., Awaitable[None]], app: Any, *args: Any, **options: Any) -> None:
    async def main() -> None:
        worker = make_worker(app, **options)
        await test(worker, *args)
        await settle()
        assert worker.in_flight == len(worker.tasks)

    run(main())


# Pipelining


def test_pipelined_requests_are_answered_in_order_when_the_first_is_slow() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + GET % 2 + GET % 3)
        await settle()
        assert app.started == ["/1"]
        await app.open("/2")
        assert wire.sent == b""
        await app.open("/1")
        assert app.started == ["/1", "/2", "/3"]
        assert [response.body for response in wire.responses(["GET"] * 2)] == [b"/1", b"/2"]
        await app.open("/3")
        assert len(wire.responses(["GET"] * 3)) == 3

    in_a_worker(test, app)


def test_what_arrives_before_a_pipelined_request_begins_is_not_lost() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        request = GET % 2
        wire.send(GET % 1 + request[:3])
        for _ in range(20):
            if not wire.sent:
                await asyncio.sleep(0)
        # uvloop reads sockets before it runs what was scheduled last; asyncio after it.
        wire.send(request[3:])
        await settle()
        assert [response.body for response in wire.responses(["GET"] * 2)] == [b"/1", b"/2"]

    in_a_worker(test, path_app)


@pytest.mark.parametrize("request_", [[GET % 1], [POST % (1, 1), b"x"]], ids=["whole", "unread"])
def test_a_client_that_pipelines_without_reading_is_not_served_without_bounds(
    request_: list[bytes],
) -> None:
    served = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal served
        served += 1
        await answer(send, bytes(10_000))

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        for _ in range(200):
            for part in request_:
                wire.send(part)
                await settle(4)
        assert served < 20
        assert len(wire.transport.buffer) < 200_000
        assert wire.transport.waiting > 100
        wire.transport.take()
        await settle(1000)
        assert len(wire.responses(["GET"] * 200)) == 200
        assert len(await wire.exchange(GET % 201)) > 10_000

    in_a_worker(test, app)


def test_a_client_that_pipelines_into_a_slow_request_is_paused() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        for _ in range(10):
            wire.send(GET % 2 * 1000)
        assert wire.transport.waiting > 100_000
        await app.open("/1")
        await app.open("/2")
        await settle(100_000)
        assert len(wire.responses(["GET"] * 10_001)) == 10_001

    in_a_worker(test, app, limit_keep_alive_requests=0)


# Flow control


def test_a_slow_reader_pauses_send() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(10_000), "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b""})

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        wire.send(GET % 1)
        await settle(500)
        assert sent < 20
        before = sent
        wire.transport.take(100_000)
        await settle(500)
        assert before < sent < 40
        wire.transport.take()
        await settle(500)
        assert len(wire.responses()[0].body) == 1_000_000

    in_a_worker(test, app)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_stream_to_a_fast_reader_leaves_turns_to_others(size: int) -> None:
    done = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal done
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000_000 // size):
            await send({"type": "http.response.body", "body": bytes(size), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        done = True

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        turns = 0
        while not done:
            await settle(1)
            turns += 1
        assert turns > 10_000_000 / (3 * max(size, 65536))
        assert len(wire.responses()[0].body) == 10_000_000

    in_a_worker(test, app)


def test_an_application_that_does_not_read_pauses_the_client() -> None:
    go = asyncio.Event()
    received = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal received
        await go.wait()
        while True:
            message = await receive()
            received += len(message["body"])
            if not message["more_body"]:
                break
        await answer(send, b"%d" % received)

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 1_000_000))
        for _ in range(100):
            wire.send(bytes(10_000))
            await settle(2)
        assert wire.transport.waiting > 800_000
        # The peer is not late while nobody listens to it.
        await asyncio.sleep(3600)
        assert wire.sent == b""
        go.set()
        await settle(200)
        assert wire.responses(["POST"])[0].body == b"1000000"

    in_a_worker(test, app)


def test_a_body_that_is_read_in_parts_resumes_the_client_each_time() -> None:
    step = asyncio.Semaphore(0)
    sizes: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            await step.acquire()
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await answer(send, b"ok")

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 500_000))
        for _ in range(50):
            wire.send(bytes(10_000))
        while sum(sizes) < 500_000:
            step.release()
            await settle()
            assert sum(sizes) + wire.transport.waiting >= 500_000 - 2 * 65536
        assert max(sizes) < 2 * 65536
        step.release()
        await settle()
        assert wire.responses(["POST"])[0].status == 200

    in_a_worker(test, app)


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


# Deadlines


@pytest.mark.parametrize(
    ("option", "begun"),
    [
        ("timeout_first_byte", b""),
        ("timeout_keep_alive", GET % 1),
        ("timeout_keep_alive", POST % (1, 3) + b"abc"),
        ("timeout_keep_alive", GET % 1 + b"\r\n"),
    ],
)
def test_an_idle_connection_is_closed_without_a_word(option: str, begun: bytes) -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        sent = await wire.exchange(begun)
        await asyncio.sleep(39)
        assert not wire.closed
        await asyncio.sleep(3)
        assert wire.transport.closed
        assert wire.sent == sent
        assert wire.connection.close_reason == "timeout"

    options = {"timeout_first_byte": 300, "timeout_keep_alive": 300, "timeout_request_head": 300}
    in_a_worker(test, Journal(), **(options | {option: 40}))


@pytest.mark.parametrize(
    ("option", "trickle"),
    [
        ("timeout_request_head", b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("timeout_request_head", b"\r\nGET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ],
)
def test_a_head_that_trickles_in_is_refused_in_time(option: str, trickle: bytes) -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        seconds = 0
        while not wire.closed:
            wire.send(trickle[seconds : seconds + 1])
            await asyncio.sleep(1)
            seconds += 1
        assert wire.responses()[0].status == 408
        assert wire.responses()[0].closes
        assert 39 <= seconds <= 44
        await asyncio.sleep(5)
        assert wire.transport.closed

    in_a_worker(test, path_app, **{option: 40})


def test_the_deadline_of_a_pipelined_head_begins_with_its_turn() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1 + b"GET /2 HT")
        await asyncio.sleep(3600)
        await app.open("/1")
        await asyncio.sleep(39)
        assert not wire.closed
        await asyncio.sleep(3)
        assert [response.status for response in wire.responses(["GET"] * 2)] == [200, 408]

    in_a_worker(test, app, timeout_request_head=40)


def test_a_body_may_take_long_but_not_pause_long() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10))
        for _ in range(9):
            await asyncio.sleep(39)
            wire.send(b"x")
        await settle()
        assert not wire.closed
        await asyncio.sleep(42)
        assert wire.responses(["POST"])[0].status == 408
        assert wire.responses(["POST"])[0].closes
        assert app.requests[0]["end"] == "disconnect"

    in_a_worker(test, app, timeout_request_body=40, limit_request_body_rate=0)


def test_a_body_that_trickles_is_cut() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10_000))
        seconds = 0
        while not wire.transport.sent and seconds < 100:
            await asyncio.sleep(1)
            wire.send(b"x" * 10)
            seconds += 1
        # 10 s, and a tenth of a second for each of the bytes that came meanwhile, of which there
        # are 10 a second where 100 are asked for.
        assert 10 <= seconds <= 14
        assert wire.responses(["POST"])[0].status == 408
        assert app.requests[0]["end"] == "disconnect"

    in_a_worker(test, app, limit_request_body_rate=100)


def test_a_body_that_is_fast_enough_may_take_its_time() -> None:
    app = Journal()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10_000))
        for _ in range(100):
            await asyncio.sleep(0.9)
            wire.send(b"x" * 100)
        await settle()
        assert wire.responses(["POST"])[0].status == 200

    in_a_worker(test, app, limit_request_body_rate=100)


def test_a_body_that_stops_in_the_middle_of_a_response_cuts_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        with pytest.raises(OSError, match="gone"):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 10))
        await asyncio.sleep(42)
        assert wire.sent.endswith(b"\r\n4\r\npart\r\n")
        assert wire.closed

    in_a_worker(test, app, timeout_request_body=40)


def test_a_request_takes_as_long_as_its_application_wants() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(POST % (1, 1) + b"x")
        await asyncio.sleep(24 * 3600)
        await app.open("/1")
        assert wire.responses(["POST"])[0].status == 200

    in_a_worker(test, app)


def big_response(more: bool) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(300_000), "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b""})

    return app


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_a_reader_that_stops_is_cut_and_a_slow_one_is_not(more: bool, close: bytes) -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % close

    async def test(worker: Worker) -> None:
        slow, stopped = Wire(worker), Wire(worker)
        for wire in (slow, stopped):
            wire.transport.room = 10_000
            wire.send(request)
        for _ in range(35):
            await asyncio.sleep(30)
            slow.transport.take(9_000)
        assert stopped.transport.aborted
        assert stopped.connection.close_reason == "write_timeout"
        assert len(slow.responses()[0].body) == 300_000
        assert not worker.in_flight

    in_a_worker(test, big_response(more), timeout_write=40)


def test_a_small_answer_that_is_never_taken_does_not_hold_the_connection() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 0
        wire.send(GET % 1)
        await asyncio.sleep(100)
        assert wire.transport.closed

    in_a_worker(test, path_app)


def test_an_answer_to_one_who_still_sends_has_its_time_to_arrive() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, bytes(300_000))

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.transport.room = 10_000
        wire.send(POST % (1, 10_000_000))
        for _ in range(35):
            await asyncio.sleep(10)
            wire.transport.take(9_000)
        assert len(wire.responses(["POST"])[0].body) == 300_000
        await asyncio.sleep(5)
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


# Draining


def test_draining_closes_idle_connections_and_lets_busy_ones_finish() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        fresh, idle, busy, arriving, sending = (Wire(worker) for _ in range(5))
        await idle.exchange(GET % 0)
        await app.open("/0")
        busy.send(GET % 1 + GET % 2)
        arriving.send((GET % 3)[:9])
        sending.send(POST % (4, 3) + b"a")
        await settle()
        draining = asyncio.ensure_future(worker.drain(60))
        await settle()
        assert idle.transport.closed
        for wire in (busy, arriving, sending):
            assert not wire.closed
        arriving.send((GET % 3)[9:])
        sending.send(b"bc")
        for path in ("/1", "/3", "/4"):
            await app.open(path)
        for wire in (busy, arriving, sending):
            response = wire.responses()[0]
            assert response.status == 200
            assert response.closes
            assert wire.closed
        await asyncio.wait_for(draining, 5)
        assert fresh.transport.closed
        assert app.started == ["/0", "/1", "/4", "/3"]

    in_a_worker(test, app)


def test_a_gentle_drain_closes_a_connection_only_after_a_response_that_says_so() -> None:
    app = Gates()
    gate = asyncio.Event()

    async def begun_or_gated(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/begun":
            return await app(scope, receive, send)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"2")],
            }
        )
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await gate.wait()
        return await send({"type": "http.response.body", "body": b"b"})

    async def test(worker: Worker) -> None:
        fresh, idle, busy, begun = (Wire(worker) for _ in range(4))
        await app.open("/0")
        await idle.exchange(GET % 0)
        busy.send(GET % 1)
        begun.send(b"GET /begun HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle()
        draining = asyncio.ensure_future(worker.drain(60, gentle=True))
        await app.open("/1")
        gate.set()
        await asyncio.sleep(2)
        assert busy.responses()[0].closes
        assert busy.closed
        # The head of this one was out before: its client may be sending the next request.
        assert not begun.responses()[0].closes
        for wire, asked in ((fresh, 1), (idle, 2), (begun, 2)):
            assert not wire.closed
            await wire.exchange(GET % 0)
            assert wire.responses(["GET"] * asked)[-1].closes
            assert wire.closed
        await asyncio.wait_for(draining, 5)

    in_a_worker(test, begun_or_gated)


def test_a_gentle_drain_can_be_hastened() -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        idle, busy = Wire(worker), Wire(worker)
        await app.open("/0")
        await idle.exchange(GET % 0)
        busy.send(GET % 1)
        await settle()
        draining = asyncio.ensure_future(worker.drain(60, gentle=True))
        await settle()
        assert not idle.closed
        worker.close_idle_connections()
        assert idle.closed
        await app.open("/1")
        assert busy.responses()[0].closes
        await asyncio.wait_for(draining, 5)

    in_a_worker(test, app)


def test_draining_cancels_what_does_not_finish_and_answers_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Gates()

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        await asyncio.wait_for(worker.drain(60), 61)
        assert wire.responses()[0].status == 500
        assert wire.responses()[0].closes
        assert not worker.connections

    in_a_worker(test, app)
    assert "1 requests on 1 connections did not finish within 60 s" in caplog.text
    assert "cancelled GET /1 from 192.0.2.7:50000" in caplog.text


def test_draining_ends_although_an_application_ignores_its_cancellation() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(100):
            try:
                await asyncio.sleep(50)
            except asyncio.CancelledError:
                continue

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        await asyncio.wait_for(worker.drain(60), 65)
        assert wire.transport.closed
        assert not worker.connections
        for task in worker.tasks:
            task.cancel()

    async def main() -> None:
        await test(make_worker(app))

    run(main())


def test_draining_waits_for_work_after_the_response() -> None:
    done = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal done
        await answer(send, b"")
        await asyncio.sleep(20)
        done = True

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        await wire.exchange(GET % 1)
        await worker.drain(60)
        assert done

    in_a_worker(test, app)


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
