"""A middleware of plain ASGI that notes what the application really sent to the server."""

from __future__ import annotations

from urllib.parse import parse_qs

from pounce.asgi.types import ASGIApp, Message, Receive, Scope, Send
from tests.frameworks.apps import probe


class RecordMessages:
    """Records the type of each message of a request with `?record=KEY` under KEY."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or b"record=" not in scope["query_string"]:
            await self.app(scope, receive, send)
            return
        key = parse_qs(scope["query_string"].decode())["record"][0]

        async def record_and_send(message: Message) -> None:
            probe.record(key, message["type"])
            await send(message)

        await self.app(scope, receive, record_and_send)
