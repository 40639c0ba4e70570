"""A context variable that is set for one request is not seen by another."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import ContextVar

import pytest

from pounce.asgi.types import Receive, Scope, Send
from pounce.sync_protocol import RawRequest, RawResponse
from pounce.worker.worker import Worker
from tests.worker.h1_requests import GET, in_a_worker
from tests.worker.h2_wire import ENGINES, H2Wire, over_h2
from tests.worker.virtual_time import settle
from tests.worker.wire import Wire

user: ContextVar[str] = ContextVar("user", default="nobody")


async def says_who(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the user it finds, and is another one from then on."""
    found = user.get().encode()
    user.set(scope["path"])
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(found))],
        }
    )
    # The response is whole after this, and the next request may be read while it is sent.
    await send({"type": "http.response.body", "body": found, "more_body": True})
    await asyncio.sleep(scope["path"] == "/slow")
    await send({"type": "http.response.body"})


def test_requests_that_came_together() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(b"".join(GET % number for number in range(5)))
        await asyncio.sleep(1)
        assert [response.body for response in wire.responses(["GET"] * 5)] == [b"nobody"] * 5

    in_a_worker(test, says_who)


def test_a_request_that_came_while_the_application_was_still_busy() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await settle()
        wire.send(GET % 1)
        await asyncio.sleep(2)
        wire.send(GET % 2)
        await settle()
        assert [response.body for response in wire.responses(["GET"] * 3)] == [b"nobody"] * 3

    in_a_worker(test, says_who)


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_that_were_opened_while_another_was_answered(engine: str) -> None:
    async def test(worker: Worker) -> None:
        wire = H2Wire(worker)
        ids = [wire.client.request(b"/%d" % number) for number in range(3)]
        ids.append(wire.client.request(b"/slow"))
        await wire.go()
        ids += [wire.client.request(b"/%d" % number) for number in range(3)]
        await wire.go()
        await asyncio.sleep(2)
        await wire.go()
        assert [bytes(wire.client.streams[number].body) for number in ids] == [b"nobody"] * 7

    over_h2(test, says_who, engine=engine)


class SetsTheUser:
    """Answers every second request itself."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def handle_sync(self, request: RawRequest) -> RawResponse | None:
        self.found.append(user.get())
        user.set(request.path)
        return RawResponse(200) if int(request.path[1:]) % 2 else None


def test_sync_requests() -> None:
    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        wire.send(b"".join(GET % number for number in range(6)))
        await asyncio.sleep(1)
        bodies = [response.body for response in wire.responses(["GET"] * 6)]
        assert bodies == [b"nobody", b""] * 3
        assert sync_app.found == ["nobody"] * 6

    sync_app = SetsTheUser()
    in_a_worker(test, says_who, sync_app=sync_app)


def test_what_was_set_when_the_worker_began_is_seen() -> None:
    async def test(worker: Worker) -> None:
        user.set("somebody else")
        wire = Wire(worker)
        wire.send(GET % 1)
        await settle()
        assert wire.responses()[0].body == b"who began"

    token = user.set("who began")
    try:
        in_a_worker(test, says_who)
    finally:
        user.reset(token)


def test_what_was_set_is_not_kept() -> None:
    class Kept:
        pass

    variable: ContextVar[Kept] = ContextVar("kept")
    alive: weakref.WeakSet[Kept] = weakref.WeakSet()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept = Kept()
        alive.add(kept)
        variable.set(kept)
        await says_who(scope, receive, send)

    async def test(worker: Worker) -> None:
        wire = Wire(worker)
        for number in range(10):
            await wire.exchange(GET % number)
        await asyncio.sleep(2)  # a deadline that was set meanwhile is over
        gc.collect()
        assert not alive

    in_a_worker(test, app)
