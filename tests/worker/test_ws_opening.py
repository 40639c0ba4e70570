"""Handshakes: what the application is told, what the client gets."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pounce.asgi.types import Message, Receive, Scope, Send
from pounce.lifecycle import BufferedCollector
from pounce.worker.request_cycle import ClientDisconnected
from pounce.worker.worker import Worker
from tests.worker.h1_requests import path_app
from tests.worker.virtual_time import settle
from tests.worker.wire import CLIENT, SERVER, names
from tests.worker.ws_wire import (
    ACCEPT,
    DISCONNECT,
    KEY,
    UPGRADE,
    Member,
    SocketWire,
    closing,
    handshake,
    say,
    with_a_worker,
)


def test_the_scope_says_what_was_asked_for() -> None:
    async def test(worker: Worker) -> None:
        await SocketWire(worker).open(b"Sec-WebSocket-Protocol: a, b", b"X-Forwarded-Proto: https")
        scope = dict(member.scope)
        assert (b"upgrade", b"websocket") in scope.pop("headers")
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/mounted/chat",
            "raw_path": b"/mounted/chat",
            "query_string": b"x=1",
            "root_path": "/mounted",
            "client": CLIENT,
            "server": SERVER,
            "subprotocols": ["a", "b"],
            "extensions": {"websocket.http.response": {}},
            "state": {"k": 1},
        }
        assert member.received == [{"type": "websocket.connect"}]

    member = Member()
    with_a_worker(test, _with_state(member), root_path="/mounted")


def _with_state(member: Member) -> Any:
    """The application, given a state as a lifespan would have left it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "state" not in scope
        scope["state"] = {"k": 1}
        await member(scope, receive, send)

    return app


def test_a_trusted_proxy_says_that_it_is_wss() -> None:
    async def test(worker: Worker) -> None:
        await SocketWire(worker).open(b"X-Forwarded-Proto: https", b"X-Forwarded-For: 9.9.9.9")
        assert member.scope["scheme"] == "wss"
        assert member.scope["client"] == ("9.9.9.9", 0)

    member = Member()
    with_a_worker(test, member, forwarded_allow_ips="*")


def test_the_answer_that_accepts() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open(b"Sec-WebSocket-Protocol: a, b")
        lines = wire.head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        assert set(lines[1:]) == {
            b"upgrade: websocket",
            b"connection: upgrade",
            b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            b"x-a: 1",
            b"sec-websocket-protocol: b",
            b"server: mine",
            *(line for line in lines if line.startswith(b"date: ")),
        }

    headers = [(b"x-a", b"1"), (b"server", b"mine")]
    with_a_worker(
        test, Member(accepts={"type": "websocket.accept", "subprotocol": "b", "headers": headers})
    )


def test_a_subprotocol_may_be_given_as_a_header() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open(b"Sec-WebSocket-Protocol: a")
        assert wire.head.count(b"sec-websocket-protocol: a") == 1

    with_a_worker(
        test,
        Member(accepts={**ACCEPT, "headers": [(b"Sec-WebSocket-Protocol", b"a")]}),
    )


@pytest.mark.parametrize(
    "accepts",
    [
        {**ACCEPT, "subprotocol": "c"},
        {**ACCEPT, "headers": [(b"x", b"a\r\nb: c")]},
        {**ACCEPT, "headers": [(b"Sec-WebSocket-Extensions", b"x")]},
        {**ACCEPT, "headers": [(b"connection", b"close")]},
        {"type": "websocket.send", "text": "too early"},
        {"type": "http.response.start", "status": 200, "headers": []},
    ],
)
def test_a_wrong_answer_of_the_application_is_a_500(accepts: Message) -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.exchange(handshake(b"Sec-WebSocket-Protocol: a"))
        (response,) = wire.responses()
        assert response.status == 500
        assert wire.closed

    with_a_worker(test, Member(accepts=accepts))


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        (handshake().replace(b"GET", b"POST"), 405, (b"allow", b"GET")),
        (handshake().replace(b"13", b"12"), 426, (b"sec-websocket-version", b"13")),
        (handshake().replace(KEY, b"short"), 400, None),
        (handshake(b"Sec-WebSocket-Key: " + KEY), 400, None),
        (handshake(b"Sec-WebSocket-Protocol: a b"), 400, None),
        (handshake(b"Content-Length: 3") + b"abc", 400, None),
    ],
)
def test_a_wrong_handshake_is_refused(
    request_: bytes, status: int, field: tuple[bytes, bytes] | None
) -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.exchange(request_)
        (response,) = wire.responses()
        assert response.status == status
        assert field is None or field in response.headers
        assert wire.closed
        assert not member.scope

    member = Member()
    with_a_worker(test, member)


@pytest.mark.parametrize(
    "request_",
    [
        handshake().replace(b"Connection: Upgrade", b"Connection: keep-alive"),
        handshake().replace(b"websocket\r\n", b"h2c\r\n"),
        handshake().replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_what_is_no_handshake_is_a_request_as_any(request_: bytes) -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.exchange(request_)
        (response,) = wire.responses()
        assert (response.status, response.body) == (200, b"/chat")

    with_a_worker(test, path_app)


def test_the_connection_may_have_had_requests_before() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (path_app if scope["type"] == "http" else member)(scope, receive, send)

    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        before = await wire.exchange(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert before.endswith(b"/1")
        after = await wire.exchange(handshake())
        assert after.startswith(b"HTTP/1.1 101 ")
        assert await wire.ask(say("x")) == [(0x81, b"x")]

    member = Member()
    with_a_worker(test, app)


def test_frames_that_come_with_the_handshake_are_read() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.exchange(handshake() + say("early"))
        assert wire.frames == [(0x81, b"early")]

    with_a_worker(test, Member())


class TestRefusals:
    def test_close_is_a_403(self) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            (response,) = wire.responses()
            assert (response.status, response.body) == (403, b"")
            assert wire.closed
            assert member.received[-1]["type"] == DISCONNECT

        member = Member(accepts={"type": "websocket.close"})
        with_a_worker(test, member)

    def test_a_response_of_the_application(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            headers = [(b"x-a", b"1"), (b"content-type", b"text/plain")]
            await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
            with pytest.raises(RuntimeError):
                await send(ACCEPT)
            for more in (True, False):
                await send(
                    {"type": "websocket.http.response.body", "body": b"x", "more_body": more}
                )
            ends.append(await receive())
            with pytest.raises(ClientDisconnected):
                await send({"type": "websocket.send", "text": "x"})

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            (response,) = wire.responses()
            assert (response.status, response.body) == (401, b"xx")
            assert (b"x-a", b"1") in response.headers
            assert wire.closed
            assert ends[0]["type"] == DISCONNECT

        ends: list[Message] = []
        with_a_worker(test, app)

    @pytest.mark.parametrize("how", ["returns", "raises"])
    def test_an_application_without_an_answer(
        self, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if how == "raises":
                raise LookupError("lost")

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            assert [response.status for response in wire.responses()] == [500]
            assert [record.levelno for record in caplog.records] == [logging.ERROR]

        with_a_worker(test, app)

    def test_a_response_that_is_not_finished_is_cut(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"x", "more_body": True})

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            assert wire.closed
            assert not wire.sent.endswith(b"0\r\n\r\n")

        with_a_worker(test, app)

    def test_an_application_that_takes_too_long(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            ends.append((await receive())["type"])
            with pytest.raises(ClientDisconnected):
                await send(ACCEPT)

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            await asyncio.sleep(29)
            assert wire.sent == b""
            await asyncio.sleep(3)
            assert [response.status for response in wire.responses()] == [504]
            assert ends == [DISCONNECT]

        ends: list[str] = []
        with_a_worker(test, app, ws_open_timeout=30)

    def test_a_client_that_leaves_meanwhile(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            ends.append(await receive())
            await send(ACCEPT)

        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            wire.transport.vanish()
            await settle()
            assert ends == [{"type": DISCONNECT, "code": 1006, "reason": ""}]
            assert wire.sent == b""

        ends: list[Message] = []
        with_a_worker(test, app)

    def test_as_many_as_may_be_in_progress(self) -> None:
        async def test(worker: Worker) -> None:
            first, second = SocketWire(worker), SocketWire(worker)
            await first.open()
            await second.exchange(handshake())
            assert [response.status for response in second.responses()] == [503]

        with_a_worker(test, Member(), limit_concurrency=1)


class TestWithoutTheExtra:
    def missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pounce.config.server_config.is_installed", lambda package: False)

    def test_the_request_is_answered_and_the_log_says_what_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def test(worker: Worker) -> None:
            for _ in range(2):
                wire = SocketWire(worker)
                await wire.exchange(handshake())
                assert [response.status for response in wire.responses()] == [200]
            (record,) = caplog.records
            assert "pounce[ws]" in record.getMessage()

        self.missing(monkeypatch)
        with_a_worker(test, path_app)

    def test_or_none_is_wanted(self, caplog: pytest.LogCaptureFixture) -> None:
        async def test(worker: Worker) -> None:
            wire = SocketWire(worker)
            await wire.exchange(handshake())
            assert [response.status for response in wire.responses()] == [200]
            assert not caplog.records

        with_a_worker(test, path_app, ws="none")


def test_lifecycle_events() -> None:
    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.open()
        await wire.exchange(say("x"))
        wire.transport.vanish()
        await settle()
        events = collector.flush()
        assert names(events) == [
            "ConnectionOpened",
            "RequestStarted",
            "StreamOpened",
            "StreamClosed",
            "ConnectionCompleted",
        ]
        assert getattr(events[3], "reason", None) == "client_disconnect"
        assert getattr(events[4], "total_bytes_sent", None) == 1

    collector = BufferedCollector()
    with_a_worker(test, Member(), collector=collector)


def test_one_that_is_accepted_while_the_worker_drains_is_closed_at_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await gate.wait()
        await send(ACCEPT)
        ends.append((await receive())["code"])

    async def test(worker: Worker) -> None:
        wire = SocketWire(worker)
        await wire.exchange(UPGRADE + b"\r\n")
        draining = asyncio.ensure_future(worker.drain(60))
        await settle()
        gate.set()
        await settle()
        assert wire.frames == [closing(1012)]
        assert ends == [1012]
        wire.transport.vanish()
        await draining

    gate = asyncio.Event()
    ends: list[int] = []
    with_a_worker(test, app)
