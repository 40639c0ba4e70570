"""An HTTP/2 connection of a real worker, and a client of plain frames at its other end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pounce.worker.h2_connection import H2Connection
from pounce.worker.worker import Worker
from tests.protocol.h2_client import Fields, RawClient, Stream
from tests.worker.h1_requests import in_a_worker
from tests.worker.virtual_time import settle
from tests.worker.wire import CLIENT, SERVER, FakeTransport

ENGINES = ["native", "h2"]
"""The options of `http2_engine`."""


class H2Wire:
    """One connection; `go` passes on what either side has to say."""

    def __init__(self, worker: Worker, client: RawClient | None = None) -> None:
        assert worker.h2_engines is not None
        self.worker = worker
        self.client = client or RawClient()
        self.connection = H2Connection(worker, worker.h2_engines.connect())
        extra = {"peername": CLIENT, "sockname": SERVER}
        self.transport = FakeTransport(self.connection, extra)
        self.connection.connection_made(self.transport)
        self._seen = 0

    async def go(self) -> None:
        """Until nobody has anything to say without time passing."""
        while True:
            data = self.client.take()
            if data and not self.transport.closed:
                self.transport.arrive(data)
            await settle()
            sent = self.transport.sent[self._seen :]
            self._seen += len(sent)
            self.client.receive(sent)
            if not sent and not self.client.out:
                return

    async def request(self, path: bytes = b"/", fields: Fields = (), **more: Any) -> Stream:
        """A request and what came of it so far."""
        stream_id = self.client.request(path, fields, **more)
        await self.go()
        return self.client.streams[stream_id]

    @property
    def closed(self) -> bool:
        """Whether the server has ended the stream, at least in its own direction."""
        return self.transport.closed or self.transport.eof_written


def over_h2(
    test: Callable[..., Awaitable[None]],
    app: Any,
    *args: Any,
    engine: str = "native",
    **options: Any,
) -> None:
    """Runs a test with a worker that speaks HTTP/2."""
    in_a_worker(test, app, *args, http2_cleartext=True, http2_engine=engine, **options)
