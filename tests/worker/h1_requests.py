"""Requests, applications and the worker of the tests of `pounce.worker.h1_connection`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pounce.asgi.types import Receive, Scope, Send
from tests.worker.virtual_time import run, settle
from tests.worker.wire import make_worker

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
