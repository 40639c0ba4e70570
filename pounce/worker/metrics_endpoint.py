"""Metrics on the application's own port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from pounce.asgi.types import ASGIApp, Receive, Scope, Send
from pounce.metrics.interceptor import Answer, Interceptor, joined, plain_answer

MAX_SCRAPES: Final = 16
"""Scrapes in progress at once. They do not count for the limit of concurrency, because an
overloaded worker has to be seen."""


class MetricsEndpoint:
    """Serves metrics as an application of its own, so that these requests are logged, counted,
    cut and drained as any other.

    Args:
        interceptor: Makes the answers; by a thread, so that the loop goes on meanwhile.
        path: Of the metrics.
    """

    def __init__(self, interceptor: Interceptor, path: str) -> None:
        self.path = path
        self._interceptor = interceptor
        self._thread = ThreadPoolExecutor(1, "pounce-metrics")
        self._scrapes = 0

    def application(self, client: tuple[str, int] | None) -> ASGIApp:
        """What answers a request on a connection from `client`."""
        return partial(self._serve, None if client is None else client[0])

    async def _serve(self, peer: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._interceptor.refuse(scope["method"], peer)
        if answer is None and self._scrapes >= MAX_SCRAPES:
            answer = plain_answer(503, "too many requests for metrics", (b"retry-after", b"1"))
        if answer is None:
            answer = await self._scrape(scope["headers"])
        start = {"type": "http.response.start", "status": answer.status, "headers": answer.fields}
        await send(start)
        await send({"type": "http.response.body", "body": answer.content})

    async def _scrape(self, fields: Iterable[tuple[bytes, bytes]]) -> Answer:
        accept = joined(fields, b"accept")
        accept_encoding = joined(fields, b"accept-encoding")
        loop = asyncio.get_running_loop()
        self._scrapes += 1
        try:
            return await loop.run_in_executor(
                self._thread, self._interceptor.answer, accept, accept_encoding
            )
        finally:
            self._scrapes -= 1
