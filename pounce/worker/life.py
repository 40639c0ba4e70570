"""One worker from its startup to its end, in the running event loop.

The same in every mode: alone in the program, or one of many under a master.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pounce.asgi.lifespan import Lifespan
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.lifecycle import LifecycleCollector, NoopCollector, safe_record
from pounce.logs.access_log import AccessLog
from pounce.metrics.accept_queues import AcceptQueues
from pounce.net.listener import SlotQueue
from pounce.net.tls import CertificateRefresher
from pounce.runtime import gil_enabled
from pounce.shm.arena import Arena
from pounce.shm.layout import Layout
from pounce.shm.slot import Slot, SlotState
from pounce.sync_protocol import SyncApp
from pounce.worker.meter import Meter
from pounce.worker.observer import Observer
from pounce.worker.pulse import Pulse
from pounce.worker.stuck_threads import StuckThreads, ThreadWatch, log_stuck_thread
from pounce.worker.worker import CANCEL_GRACE, Worker

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from pounce.worker.metrics_endpoint import MetricsEndpoint


class Counting(NamedTuple):
    """A worker's place in shared memory."""

    arena: Arena
    slot: Slot
    application: Callable[[], Iterable[Metric]] = tuple
    """The application's own metrics, for a scrape that this worker answers."""

    @property
    def layout(self) -> Layout:
        return self.arena.layout


class WorkerLife:
    """What a worker goes through, step by step: `prepare`, `serve`, `drain`, `close`.

    Args:
        config: The resolved configuration.
        app: The ASGI application.
        ssl_context: To serve TLS, None to serve plain connections.
        sync_app: Asked first for plain requests.
        collector: Gets the lifecycle events.
        worker_id: Goes into the events.
        counting: Where to count, and to note what is going on; None where nobody wants to know.
        main_state: The state of the lifespan that the main process runs; None: the worker runs one
            of its own, as the configuration says.
        owns_process: Whether there are no other workers in this process.
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
        counting: Counting | None = None,
        main_state: Mapping[str, Any] | None = None,
        owns_process: bool = True,
    ) -> None:
        self._config = config
        self._app = app
        self._ssl_context = ssl_context
        self._sync_app = sync_app
        self._collector = collector
        self._worker_id = worker_id
        self._counting = counting
        self._pulse: Pulse | None = None
        self._thread_watch: ThreadWatch | None = None
        self._queues: Callable[[], Iterable[SlotQueue]] = tuple
        self._access_log = AccessLog(config) if config.access_log else None
        self._owns_process = owns_process
        self._main_state = main_state
        mode = "on" if config.lifespan == "main" else config.lifespan
        self._lifespan = Lifespan(app, mode if main_state is None else "off")
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
        observer = self._observer()
        self._worker = Worker(
            self._config,
            self._app,
            state=self._state(),
            sync_app=self._sync_app,
            observer=observer,
            metrics=self._metrics(),
            worker_id=self._worker_id,
        )
        if self._counting is not None and isinstance(observer, Meter):
            self._pulse = Pulse(self._counting.slot, observer)
            self._pulse.start()
            self._watch_threads(self._counting)
        if self._owns_process:
            freeze_startup_objects()

    def _watch_threads(self, counting: Counting) -> None:
        timeout = self._config.thread_stall_timeout
        # Threads of one process are nobody's, and frames are not to be walked without the GIL.
        if not (timeout and self._owns_process and gil_enabled()):
            return
        cells, index = counting.slot.cells, counting.layout["stuck_threads"].start
        report = log_stuck_thread if self._config.max_stuck_threads else None
        threads = StuckThreads(timeout, report)
        self._thread_watch = ThreadWatch(threads, lambda number: cells.__setitem__(index, number))
        self._thread_watch.start()

    def _state(self) -> dict[str, Any] | None:
        if self._main_state is not None:
            # A copy for each worker, so that threads do not meet in one object at every request.
            return dict(self._main_state)
        return self._lifespan.state if self._config.lifespan != "off" else None

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
        if self._counting is not None:
            self._queues = AcceptQueues(self._counting.arena, sockets)
        self._show(SlotState.READY)
        self._refreshing = asyncio.ensure_future(self._refresh_certificates())

    async def stop_accepting(self) -> None:
        """Takes what waits to be accepted, and no more."""
        assert self._worker is not None
        self._show(SlotState.DRAINING)
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self._worker.stop_accepting()

    async def drain(self, seconds: float, *, gentle: bool = False) -> None:
        """Lets what is in flight finish, and cancels what is left after `seconds`."""
        assert self._worker is not None
        self._give_up = time.monotonic() + seconds
        await self._worker.drain(seconds, gentle=gentle)

    async def abandon(self) -> None:
        """Cancels what is in flight and closes every connection."""
        self._give_up = time.monotonic()
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._worker is not None:
            await self._worker.abandon()

    def hasten(self) -> None:
        """A drain that was gentle is to be so no more."""
        assert self._worker is not None
        self._worker.close_idle_connections()

    async def shut_down_lifespan(self) -> None:
        """Gives the application what is left of the time, but always a moment."""
        await self._lifespan.shutdown_within(max(self.seconds_left(), CANCEL_GRACE))

    def close(self) -> None:
        """Writes what is left of the access log."""
        if self._pulse is not None:
            self._pulse.stop()
        if self._thread_watch is not None:
            self._thread_watch.stop()
        if self._access_log is not None:
            self._access_log.close()

    def seconds_left(self) -> float:
        """How long a graceful stop may go on; all of the time while it has not begun."""
        if self._give_up is None:
            return self._config.timeout_graceful_shutdown
        return self._give_up - time.monotonic()

    def _show(self, state: SlotState) -> None:
        if self._counting is not None:
            self._counting.slot.state = state

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
        record = None
        if collector is not None and not isinstance(collector, NoopCollector):
            record = safe_record(collector)
        if self._counting is not None:
            slot, layout = self._counting.slot, self._counting.layout
            return Meter(slot, layout, self._access_log, record, self._worker_id)
        if record is None and self._access_log is None:
            return None
        return Observer(self._access_log, record, self._worker_id)

    def _metrics(self) -> MetricsEndpoint | None:
        config = self._config
        if self._counting is None or not config.metrics:
            return None
        # Imported where there are metrics to tell, as prometheus_client is much.
        from pounce.metrics.exposition import Exposition
        from pounce.metrics.interceptor import Interceptor
        from pounce.worker.metrics_endpoint import MetricsEndpoint

        exposition = Exposition(
            self._counting.arena,
            config,
            queues=lambda: self._queues(),
            application=self._counting.application,
        )
        interceptor = Interceptor(exposition, config.metrics_allow)
        return MetricsEndpoint(interceptor, config.metrics_path)

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


def freeze_startup_objects() -> None:
    """Takes what exists after startup out of the collector's sight: it stays for good, and a full
    collection would look at all of it again and again."""
    gc.collect()
    gc.freeze()
