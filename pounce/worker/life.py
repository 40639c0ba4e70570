"""One worker from its startup to its end, in the running event loop.

The same in every mode: alone in the program, or one of many under a master.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import time
from collections.abc import Sequence

from pounce.asgi.lifespan import Lifespan
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.lifecycle import LifecycleCollector, NoopCollector, safe_record
from pounce.logs.access_log import AccessLog
from pounce.net.tls import CertificateRefresher
from pounce.sync_protocol import SyncApp
from pounce.worker.observer import Observer
from pounce.worker.worker import CANCEL_GRACE, Worker

logger = logging.getLogger("pounce.error")


class WorkerLife:
    """What a worker goes through, step by step: `prepare`, `serve`, `drain`, `close`.

    Args:
        config: The resolved configuration.
        app: The ASGI application.
        ssl_context: To serve TLS, None to serve plain connections.
        sync_app: Asked first for plain requests.
        collector: Gets the lifecycle events.
        worker_id: Goes into the events.
    """

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp,
        ssl_context: ssl.SSLContext | None,
        *,
        sync_app: SyncApp | None = None,
        collector: LifecycleCollector | None = None,
        worker_id: int = 0,
    ) -> None:
        self._config = config
        self._app = app
        self._ssl_context = ssl_context
        self._sync_app = sync_app
        self._collector = collector
        self._worker_id = worker_id
        self._access_log = AccessLog(config) if config.access_log else None
        self._lifespan = Lifespan(app, "on" if config.lifespan == "main" else config.lifespan)
        self._worker: Worker | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._give_up: float | None = None
        """When a graceful stop has to be over."""

    async def prepare(self) -> None:
        """Runs the application's startup; nothing is accepted yet.

        Raises:
            LifespanError: The application refused to start.
        """
        await self._lifespan.startup()
        self._worker = Worker(
            self._config,
            self._app,
            state=self._lifespan.state if self._config.lifespan != "off" else None,
            sync_app=self._sync_app,
            observer=self._observer(),
            worker_id=self._worker_id,
        )
        _freeze_startup_objects()

    def abandon_startup(self) -> None:
        """Gives up an application that is still starting."""
        self._lifespan.cancel()

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Begins to accept on sockets, which stay the caller's to close.

        Raises:
            BindError: Another program took the address meanwhile.
        """
        assert self._worker is not None
        await self._worker.listen(sockets, self._ssl_context)
        self._refreshing = asyncio.ensure_future(self._refresh_certificates())

    async def stop_accepting(self) -> None:
        """Takes what waits to be accepted, and no more."""
        assert self._worker is not None
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self._worker.stop_accepting()

    async def drain(self, seconds: float, *, gentle: bool = False) -> None:
        """Lets what is in flight finish, and cancels what is left after `seconds`."""
        assert self._worker is not None
        self._give_up = time.monotonic() + seconds
        await self._worker.drain(seconds, gentle=gentle)

    def hasten(self) -> None:
        """A drain that was gentle is to be so no more."""
        assert self._worker is not None
        self._worker.close_idle_connections()

    async def shut_down_lifespan(self) -> None:
        """Gives the application what is left of the time, but always a moment."""
        seconds = max(self.seconds_left(), CANCEL_GRACE)
        try:
            await asyncio.wait_for(self._lifespan.shutdown(), seconds)
        except TimeoutError:
            logger.error("application shutdown did not finish within %.3g s", seconds)
            self._lifespan.cancel()

    def close(self) -> None:
        """Writes what is left of the access log."""
        if self._access_log is not None:
            self._access_log.close()

    def seconds_left(self) -> float:
        """How long a graceful stop may go on; all of the time while it has not begun."""
        if self._give_up is None:
            return self._config.timeout_graceful_shutdown
        return self._give_up - time.monotonic()

    def reopen_logs(self) -> None:
        """After a rotation."""
        if self._access_log is not None:
            self._access_log.reopen()

    def counts(self) -> tuple[int, int, int]:
        """Requests so far, open connections, requests in flight."""
        if self._worker is None:
            return 0, 0, 0
        return self._worker.requests_so_far(), len(self._worker.connections), self._worker.in_flight

    def _observer(self) -> Observer | None:
        collector = self._collector
        if collector is None or isinstance(collector, NoopCollector):
            return None if self._access_log is None else Observer(self._access_log, None)
        return Observer(self._access_log, safe_record(collector), self._worker_id)

    async def _refresh_certificates(self) -> None:
        interval = self._config.ssl_refresh_interval
        if self._ssl_context is None or not interval:
            return
        refresher = CertificateRefresher(self._config, self._ssl_context)
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(interval)
            # Reading and checking a changed certificate takes milliseconds.
            await loop.run_in_executor(None, refresher.check)


def _freeze_startup_objects() -> None:
    """Takes what exists after startup out of the collector's sight: it stays for good, and a full
    collection would look at all of it again and again."""
    gc.collect()
    gc.freeze()
