"""A synchronous fast lane for a few hot paths, with an ASGI application for everything else.

    python examples/sync_fast_lane.py

Options come from the environment (`POUNCE_PORT=9000`) and from `pounce.toml`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pounce import RawRequest, RawResponse, Server, ServerConfig

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Ping:
    """Answers `GET /ping` without a task and without messages; leaves the rest to the app."""

    def handle_sync(self, request: RawRequest) -> RawResponse | None:
        if request.path == "/ping" and request.method == "GET":
            return RawResponse(200, ((b"content-type", b"text/plain"),), b"pong\n")
        return None


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"from the application\n"})


if __name__ == "__main__":
    Server(ServerConfig.load(), app, sync_app=Ping()).run()
