"""Clients that leave, or read slowly, when the application has sent the last of its response."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.worker.request_cycle import ClientDisconnected
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Wire, make_worker

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class BigAnswer:
    """Sends a mebibyte at once and notes what happens to it after that."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": bytes(1 << 20)})
        except OSError as exc:
            self.notes.append(exc)
            raise
        self.notes.append("work after the response")


def test_a_slow_reader_does_not_hold_up_work_after_the_response() -> None:
    app = BigAnswer()

    async def main() -> None:
        worker = make_worker(app)
        wire = Wire(worker)
        wire.transport.room = 100
        await wire.exchange(GET)
        assert app.notes == ["work after the response"]
        wire.transport.take()
        await settle()
        assert len(wire.responses()[0].body) == 1 << 20
        # The next request is served only now, and as before.
        await wire.exchange(GET)
        assert len(app.notes) == 2

    run(main())


def test_a_client_that_leaves_a_complete_response_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = BigAnswer()

    async def main() -> None:
        worker = make_worker(app)
        wire = Wire(worker)
        wire.transport.room = 100
        await wire.exchange(GET)
        wire.transport.vanish()
        await settle()
        assert worker.in_flight == 0
        assert not worker.tasks

    with caplog.at_level(logging.INFO, "pounce"):
        run(main())
    assert app.notes == ["work after the response"]
    assert caplog.records == []


async def raise_alone(scope: Scope, receive: Receive, send: Send) -> None:
    """As a task group does whose one error is raised again alone: each is the other's context."""
    try:
        try:
            raise ValueError("inner")
        except Exception as exc:
            raise ExceptionGroup("unhandled errors", [exc]) from None
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def test_an_error_and_its_group_that_refer_to_each_other_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        worker = make_worker(raise_alone)
        wire = Wire(worker)
        await wire.exchange(GET)
        assert wire.responses()[0].status == 500
        assert worker.in_flight == 0
        assert not worker.tasks

    run(main())
    assert "ValueError: inner" in caplog.text


@pytest.mark.parametrize("also", [ClientDisconnected, ValueError])
def test_a_group_of_errors_is_one_when_any_is_not_of_the_departure(
    caplog: pytest.LogCaptureFixture, also: type[Exception]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        news = ClientDisconnected("the client is gone")
        errors: list[Exception] = []
        for kind in (RuntimeError, also):
            try:
                raise kind("while it left") from news
            except Exception as exc:
                errors.append(exc)
        if also is ValueError:
            errors[1].__cause__ = None
        raise ExceptionGroup("unhandled errors", errors)

    async def main() -> None:
        wire = Wire(make_worker(app))
        await wire.exchange(GET)

    run(main())
    assert ("while it left" in caplog.text) == (also is ValueError)
