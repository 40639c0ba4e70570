"""What messages of an application become on the wire, and which are refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pounce.asgi.types import Message, Receive, Scope, Send
from tests.integration.responses import (
    IncompleteResponse,
    Response,
    parse_responses,
)
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Wire, make_worker


def start(status: int = 200, *headers: tuple[bytes, bytes], **rest: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers), **rest}


def body(data: Any = b"", more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % size


def trailers(*headers: tuple[bytes, bytes], more: bool = False) -> Message:
    return {"type": "http.response.trailers", "headers": list(headers), "more_trailers": more}


HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b>"]}
DEBUG = {"type": "http.response.debug", "info": {"a": 1}}
PATHSEND = {"type": "http.response.pathsend", "path": "/nowhere"}


class Script:
    """An application that sends the given messages; `errors` are those that send raised."""

    def __init__(self, *messages: Message, forgiving: bool = False) -> None:
        self.messages = messages
        self.forgiving = forgiving
        self.errors: list[Exception] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self.messages:
            try:
                await send(message)
            except Exception as error:
                self.errors.append(error)
                if not self.forgiving:
                    raise


class Outcome:
    """What a client got for one request."""

    def __init__(self, wire: Wire, method: str) -> None:
        self.raw = wire.sent
        self.closed = wire.closed
        self.aborted = wire.transport.aborted
        self.responses: list[Response] = []
        try:
            self.responses, self.rest = parse_responses(wire.sent, [method], closed=wire.closed)
            self.complete = True
        except IncompleteResponse:
            self.complete = False

    @property
    def response(self) -> Response:
        assert self.complete, self.raw
        assert self.rest == b""
        return self.responses[-1]


def respond(
    app: Any, method: str = "GET", version: str = "1.1", fields: bytes = b"", **options: Any
) -> Outcome:
    async def main() -> Outcome:
        worker = make_worker(app, **options)
        wire = Wire(worker)
        host = b"Host: a\r\n" if version == "1.1" else b""
        wire.send(f"{method} / HTTP/{version}\r\n".encode() + host + fields + b"\r\n")
        await settle(20)
        outcome = Outcome(wire, method)
        assert worker.in_flight == 0
        return outcome

    return run(main())


# Framing


def test_one_body_message_is_sent_with_its_length() -> None:
    response = respond(Script(start(), body(b"hello"))).response
    assert (response.status, response.body) == (200, b"hello")
    assert response.value(b"content-length") == b"5"
    assert response.values(b"transfer-encoding") == []


def test_more_body_messages_are_chunked() -> None:
    parts = [body(b"a", True), body(b"", True), body(b"bc", True), body(b"d")]
    response = respond(Script(start(), *parts)).response
    assert response.body == b"abcd"
    assert response.value(b"transfer-encoding") == b"chunked"


def test_a_given_length_is_kept_when_streaming() -> None:
    outcome = respond(Script(start(200, length(4)), body(b"ab", True), body(b"cd")))
    assert outcome.response.body == b"abcd"
    assert outcome.response.values(b"transfer-encoding") == []
    assert not outcome.closed


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")], ids=["array", "view"])
@pytest.mark.parametrize("more", [False, True])
def test_other_bytes_like_bodies_are_sent_as_well(data: Any, more: bool) -> None:
    messages = [body(data, True), body()] if more else [body(data)]
    assert respond(Script(start(), *messages)).response.body == b"abc"


def test_head_gets_the_fields_and_no_content() -> None:
    for messages in (
        [start(200, length(5)), body(b"hello")],
        [start(200, length(5)), body()],
        [start(200, length(5)), body(b"he", True), body(b"llo")],
        [start(), body(b"hello")],
    ):
        outcome = respond(Script(*messages), "HEAD")
        assert outcome.response.value(b"content-length") == b"5"
        assert outcome.response.body == b""
        assert not outcome.closed


def test_head_of_a_stream_says_that_the_content_would_be_chunked() -> None:
    outcome = respond(Script(start(), body(b"x", True), body()), "HEAD")
    assert outcome.response.value(b"transfer-encoding") == b"chunked"
    assert not outcome.closed


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("more", [False, True])
def test_a_status_without_content_gets_none(status: int, more: bool) -> None:
    messages = [body(b"no", True), body()] if more else [body(b"no")]
    outcome = respond(Script(start(status), *messages))
    assert outcome.response.status == status
    assert outcome.response.values(b"content-length") == []
    assert not outcome.closed


def test_204_has_no_content_length_and_304_may_have_that_of_the_200() -> None:
    assert respond(Script(start(204, length(0)), body())).response.values(b"content-length") == []
    response = respond(Script(start(304, length(7)), body())).response
    assert response.value(b"content-length") == b"7"


def test_http_1_0_gets_no_chunks() -> None:
    outcome = respond(Script(start(), body(b"a", True), body(b"b")), version="1.0")
    assert outcome.response.body == b"ab"
    assert outcome.response.ends_with_connection
    assert outcome.closed


@pytest.mark.parametrize("keep_alive", [False, True])
def test_http_1_0_persists_only_when_asked(keep_alive: bool) -> None:
    fields = b"Connection: Keep-Alive\r\n" if keep_alive else b""
    outcome = respond(Script(start(), body(b"hello")), version="1.0", fields=fields)
    assert outcome.response.body == b"hello"
    assert outcome.closed is not keep_alive
    expected = b"keep-alive" if keep_alive else b"close"
    assert outcome.response.value(b"connection") == expected


def test_http_1_0_with_keep_alive_ends_with_a_stream_all_the_same() -> None:
    outcome = respond(
        Script(start(), body(b"a", True), body()),
        version="1.0",
        fields=b"Connection: keep-alive\r\n",
    )
    assert outcome.response.value(b"connection") == b"close"
    assert outcome.closed


def test_the_application_may_close() -> None:
    headers = (b"Connection", b"Close")
    for messages in ([body(b"x")], [body(b"x", True), body()]):
        outcome = respond(Script(start(200, headers), *messages))
        assert outcome.response.value(b"connection") == b"close"
        assert outcome.closed


def test_the_client_may_close() -> None:
    for messages in ([body(b"x")], [body(b"x", True), body()]):
        outcome = respond(
            Script(start(), *messages), fields=b"Connection: TE, close\r\nTE: trailers\r\n"
        )
        assert outcome.response.value(b"connection") == b"close"
        assert outcome.closed


def test_fields_of_the_application_keep_their_order_and_their_repetition() -> None:
    sent = [(b"Set-Cookie", b"a=1"), (b"X", b""), (b"set-cookie", b"b=2"), (b"x", b"\xe4 y")]
    response = respond(Script(start(200, *sent), body())).response
    got = [pair for pair in response.headers if pair[0] in (b"set-cookie", b"x")]
    assert got == [(name.lower(), value) for name, value in sent]


def test_the_framing_is_not_the_application_s_to_name() -> None:
    outcome = respond(Script(start(200, (b"Transfer-Encoding", b"chunked")), body(b"abc")))
    assert outcome.response.body == b"abc"


def test_the_application_s_date_and_server_replace_ours() -> None:
    mine = ((b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"Server", b"mine"))
    for chosen in ((), mine[:1], mine[1:], mine):
        response = respond(Script(start(200, *chosen), body())).response
        assert (response.value(b"date") == mine[0][1]) is (mine[0] in chosen)
        assert response.value(b"server") == (b"mine" if mine[1] in chosen else b"pounce")


def test_options_add_and_leave_out_fields() -> None:
    response = respond(
        Script(start(), body()),
        server_header=False,
        date_header=False,
        headers=("X-A: 1", "X-A: 2"),
    ).response
    assert response.values(b"server") == response.values(b"date") == []
    assert response.values(b"x-a") == [b"1", b"2"]


@pytest.mark.parametrize("method", ["CONNECT", "OPTIONS", "BREW", "get"])
def test_every_method_reaches_the_application(method: str) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["method"])
        await send(start(405 if method == "CONNECT" else 200))
        await send(body())

    async def main() -> None:
        wire = Wire(make_worker(app))
        target = "a:80" if method == "CONNECT" else "/"
        wire.send(f"{method} {target} HTTP/1.1\r\nHost: a:80\r\n\r\n".encode())
        await settle()
        assert wire.responses([method])[0].status == (405 if method == "CONNECT" else 200)
        assert wire.closed is (method == "CONNECT")

    run(main())
    assert seen == [method]


# Trailers


@pytest.mark.parametrize("takes", [True, False])
def test_trailers_go_only_to_a_client_that_takes_them(takes: bool) -> None:
    app = Script(
        start(200, (b"trailer", b"digest"), trailers=True),
        body(b"data"),
        trailers((b"Digest", b"1"), more=True),
        trailers((b"X", b"2")),
    )
    outcome = respond(app, fields=b"TE: gzip, trailers\r\n" if takes else b"")
    assert outcome.response.body == b"data"
    assert outcome.response.trailers == ([(b"digest", b"1"), (b"x", b"2")] if takes else [])
    assert not outcome.closed
    assert app.errors == []


@pytest.mark.parametrize(("method", "version"), [("HEAD", "1.1"), ("GET", "1.0")])
def test_trailers_vanish_where_there_are_no_chunks(method: str, version: str) -> None:
    app = Script(start(trailers=True), body(b"data"), trailers((b"X", b"2")))
    outcome = respond(app, method, version, fields=b"TE: trailers\r\n")
    assert outcome.response.body == (b"" if method == "HEAD" else b"data")
    assert app.errors == []


def test_announced_trailers_that_never_come_leave_the_response_incomplete() -> None:
    outcome = respond(Script(start(trailers=True), body(b"data")))
    assert not outcome.complete
    assert outcome.closed


# Informational responses


def test_early_hints_come_before_the_response() -> None:
    outcome = respond(Script(HINT, HINT, start(), HINT, body(b"x")))
    hints = outcome.responses[:-1]
    assert [hint.status for hint in hints] == [103] * 3
    assert hints[0].headers == [(b"link", link) for link in HINT["links"]]
    assert outcome.response.body == b"x"


def test_early_hints_are_not_sent_to_http_1_0() -> None:
    outcome = respond(Script(HINT, start(), body(b"x")), version="1.0")
    assert outcome.response.body == b"x"
    assert len(outcome.responses) == 1


def test_an_early_hint_that_comes_late_is_left_out() -> None:
    app = Script(start(), body(b"x", True), HINT, body(b"y"))
    assert respond(app).response.body == b"xy"
    assert app.errors == []


# Faults of the application


ERROR_500: dict[str, list[Message]] = {
    "no message": [],
    "start only": [start()],
    "body first": [body(b"x")],
    "start twice": [start(), start()],
    "unknown message": [{"type": "http.response.push"}],
    "websocket message": [{"type": "websocket.accept"}],
    "no type": [{"status": 200}],
    "no status": [{"type": "http.response.start", "headers": []}],
    "trailers first": [trailers()],
    "trailers not announced": [start(), trailers()],
    "status 99": [start(99)],
    "status 100": [start(100)],
    "status as text": [start("200")],  # type: ignore[arg-type]
    "header as text": [start(200, ("a", "b"))],  # type: ignore[arg-type]
    "header with CRLF": [start(200, (b"a", b"b\r\nSet-Cookie: c=d"))],
    "header with LF": [start(200, (b"a", b"b\n"))],
    "header with NUL": [start(200, (b"a", b"\x00"))],
    "header name with CRLF": [start(200, (b"a\r\nb", b"c"))],
    "header name with a space": [start(200, (b"a b", b"c"))],
    "empty header name": [start(200, (b"", b"c"))],
    "malformed length": [start(200, (b"content-length", b"+1")), body(b"x")],
    "two lengths": [start(200, length(1), length(2)), body(b"x")],
    "body longer than its length": [start(200, length(1)), body(b"xy")],
    "body shorter than its length": [start(200, length(3)), body(b"xy")],
    "first part longer than its length": [start(200, length(1)), body(b"xy", True)],
    "length with trailers": [start(200, length(1), trailers=True), body(b"x")],
    "text as body": [start(), body("text")],
    "text as first part": [start(), body("text", True)],
    "missing file": [start(), PATHSEND],
    "missing file with a length and trailers": [start(200, length(1), trailers=True), PATHSEND],
    "debug after start": [start(), DEBUG],
    "hint with CRLF": [{"type": "http.response.early_hint", "links": [b"a\r\nb"]}],
}


@pytest.mark.parametrize("name", ERROR_500)
@pytest.mark.parametrize("forgiving", [False, True], ids=["raises", "forgives"])
def test_a_fault_before_anything_is_sent_is_a_500(
    name: str, forgiving: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = Script(*ERROR_500[name], forgiving=forgiving)
    outcome = respond(app)
    assert outcome.response.status == 500
    assert outcome.response.body == b"Internal Server Error"
    assert outcome.response.closes
    assert outcome.closed
    assert not outcome.aborted
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "GET / from 192.0.2.7:50000" in record.getMessage()
    if not forgiving and app.errors:
        assert record.exc_info is not None
        assert record.exc_info[1] is app.errors[0]


CUT: dict[str, list[Message]] = {
    "no last part": [start(), body(b"ab", True)],
    "start after the first part": [start(), body(b"ab", True), start()],
    "unknown message after the first part": [start(), body(b"ab", True), {"type": "x"}],
    "text as a later part": [start(), body(b"ab", True), body("text", True)],
    "text as the last part": [start(), body(b"ab", True), body("text")],
    "more than the length": [start(200, length(3)), body(b"ab", True), body(b"cd", True)],
    "last part beyond the length": [start(200, length(3)), body(b"ab", True), body(b"cd")],
    "less than the length": [start(200, length(3)), body(b"ab", True), body()],
    "trailer with CRLF": [start(trailers=True), body(b"ab"), trailers((b"a", b"b\r\nc"))],
    "missing file": [start(), body(b"ab", True), PATHSEND],
}


@pytest.mark.parametrize("name", CUT)
def test_a_fault_in_the_middle_of_a_response_cuts_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = respond(Script(*CUT[name]))
    assert not outcome.complete
    assert b"ab" in outcome.raw
    assert outcome.raw.startswith(b"HTTP/1.1 200 ")
    assert b"500" not in outcome.raw
    assert outcome.closed
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "GET / from 192.0.2.7:50000" in record.getMessage()


def test_a_fault_where_only_the_end_of_the_connection_ends_the_body_resets_it() -> None:
    outcome = respond(Script(start(), body(b"ab", True)), version="1.0")
    assert outcome.aborted


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_fault_behind_a_response_without_content_does_not_reset_it(method: str) -> None:
    status = 200 if method == "HEAD" else 304
    outcome = respond(Script(start(status), body(b"ab", True)), method)
    assert outcome.response.status == status
    assert outcome.closed
    assert not outcome.aborted


def test_messages_after_the_response_are_ignored() -> None:
    app = Script(start(), body(b"x"), body(b"y"), start(500), body(b"z", True), trailers())
    outcome = respond(app)
    assert outcome.response.body == b"x"
    assert not outcome.closed
    assert app.errors == []


def test_the_debug_extension_changes_nothing_on_the_wire() -> None:
    assert respond(Script(DEBUG, start(), body(b"x")), debug=True).response.body == b"x"


@pytest.mark.parametrize("debug", [False, True])
def test_details_of_an_error_reach_the_client_only_with_debug(debug: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret")

    outcome = respond(app, debug=debug)
    assert outcome.response.status == 500
    assert (b"ValueError: secret" in outcome.response.body) is debug


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseException()])
def test_no_exception_of_an_application_ends_the_worker(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    assert respond(app).response.status == 500
    assert "exception in the application" in caplog.text


def test_parts_of_one_turn_of_the_loop_keep_their_order() -> None:
    sizes = [1, 100_000, 3, 20_000, 70_000, 5]
    parts = [body(bytes([number]) * size, True) for number, size in enumerate(sizes)]
    response = respond(Script(start(), *parts, body(b"end"))).response
    expected = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    assert response.body == expected + b"end"
