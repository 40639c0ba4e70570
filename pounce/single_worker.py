"""The worker that is the program itself, without a master.

What a master does for its workers it does for itself: it obeys signals, talks to the service
manager, has itself replaced by a new process, and keeps what is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pounce import logs
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.lifecycle import LifecycleCollector
from pounce.metrics import catalogue
from pounce.metrics.accept_queues import note_listeners
from pounce.metrics.own import own_metrics
from pounce.net.sockets import bound_addr, close_sockets
from pounce.service import Service
from pounce.shm.arena import Arena
from pounce.stopping import StopRequest, unless
from pounce.supervisor.keeping import is_held
from pounce.supervisor.notify import Notifier
from pounce.sync_protocol import SyncApp
from pounce.worker.life import Counting, WorkerLife

if TYPE_CHECKING:
    from pounce.supervisor.upgrades import Upgrades

logger = logging.getLogger("pounce")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_MORE_SIGNALS: Final = ("SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class SingleWorker:
    """Serves in this process until it is told to stop.

    Args:
        config: The resolved configuration.
        app: The ASGI application.
        ssl_context: To serve TLS, None to serve plain connections.
        sync_app: Asked first for plain requests.
        collector: Gets the lifecycle events.
        service: What the program has of the system; None where the sockets are the caller's.
        close_sockets: Called when nothing is accepted any more; not where there is no service.
        request: The stop that others may ask for.
        report_listening: Called with the bound addresses when requests are really answered.
    """

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp,
        ssl_context: ssl.SSLContext | None = None,
        *,
        sync_app: SyncApp | None = None,
        collector: LifecycleCollector | None = None,
        service: Service | None = None,
        close_sockets: Callable[[Sequence[socket.socket]], None] = close_sockets,
        request: StopRequest,
        report_listening: Callable[[Sequence[tuple[str, int]]], None],
    ) -> None:
        self._config = config
        self._app = app
        self._ssl_context = ssl_context
        self._sync_app = sync_app
        self._collector = collector
        self._service = service
        self._close_sockets = close_sockets
        self._request = request
        self._report_listening = report_listening
        self._life: WorkerLife | None = None
        self._stop = asyncio.Event()
        self._is_signalled = False
        """A first signal stops gracefully, whatever else has asked for that; a second one ends."""
        self._is_serving = False
        self.upgrades: Upgrades | None = None
        """None while not running, and where this process cannot be replaced."""

    def seconds_left(self) -> float:
        """How long a graceful stop may go on; all of the time while it has not begun."""
        if self._life is None:
            return self._config.timeout_graceful_shutdown
        return self._life.seconds_left()

    async def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serves on sockets.

        Raises:
            LifespanError: The application refused to start.
            BindError: Another program took an address meanwhile.
        """
        loop, stop = asyncio.get_running_loop(), self._stop
        wake = self._request.heard_by(lambda: loop.call_soon_threadsafe(stop.set))
        with wake as is_stop_requested:
            if is_stop_requested:
                stop.set()
            if threading.current_thread() is threading.main_thread():
                self._install_signals()
            life = self._life = WorkerLife(
                self._config,
                self._app,
                self._ssl_context,
                sync_app=self._sync_app,
                collector=self._collector,
                counting=_counting(self._config, self._service, sockets),
            )
            try:
                await self._live(life, sockets)
            finally:
                if self.upgrades is not None:
                    await self.upgrades.close()
                life.close()

    async def _live(self, life: WorkerLife, sockets: Sequence[socket.socket]) -> None:
        if not await unless(self._stop, life.prepare()):
            life.abandon_startup()
            return
        try:
            if not await self._begin_to_serve(life, sockets):
                return
            await self._until_stopped()
            await life.stop_accepting()
            if self._service is not None:
                self._close_sockets(sockets)
            await life.drain(self._config.timeout_graceful_shutdown, gentle=self._is_replaced)
        finally:
            await life.shut_down_lifespan()
        logger.info("stopped")

    async def _begin_to_serve(self, life: WorkerLife, sockets: Sequence[socket.socket]) -> bool:
        """False when a stop was asked for meanwhile."""
        service = self._service
        takeover = None if service is None else service.takeover
        if takeover is not None and not await unless(self._stop, takeover.wait_for_go()):
            return False
        if service is not None:
            service.listeners.listen_slot(0)
        await life.serve(sockets)
        if service is not None and takeover is not None:
            await takeover.complete(service.listeners, 1, service.pidfile)
            if service.arena is not None:
                service.arena.adopt()
        self._is_serving = True
        self._report_listening([bound_addr(each) for each in sockets])
        if takeover is not None:
            takeover.done()
        return True

    async def _until_stopped(self) -> None:
        notifier = Notifier(None) if self._service is None else self._service.notifier
        keeping = [asyncio.ensure_future(notifier.keep_alive())]
        if self._service is not None and self._service.arena is not None:
            keeping.append(asyncio.ensure_future(self._service.arena.keep_swept()))
        await self._stop.wait()
        for task in keeping:
            task.cancel()
        if self._is_replaced:
            return
        logger.info("shutting down")
        notifier.stopping()
        if self.upgrades is not None:
            self.upgrades.stop()

    # Upgrades

    @property
    def _is_replaced(self) -> bool:
        """Whether another process serves already."""
        return self.upgrades is not None and self.upgrades.is_over

    def _prepare_upgrades(self, service: Service) -> Upgrades:
        from pounce.supervisor.upgrades import Upgrades

        async def leave() -> None:
            self._stop.set()

        def describe_arena() -> Mapping[str, Any] | None:
            shared = service.arena
            return None if shared is None else shared.describe(shared.last_worker_id + 1)

        upgrades = Upgrades(
            listeners=service.listeners,
            notifier=service.notifier,
            pidfile=service.pidfile,
            takeover=service.takeover,
            boot_timeout=lambda: self._config.timeout_worker_boot,
            is_calm=lambda: self._is_serving,
            reload=lambda: self._on_upgrade(signal.SIGHUP),
            leave=leave,
            arena=describe_arena,
        )
        if service.arena is not None:
            service.arena.is_handed_over = lambda: upgrades.is_committed
        return upgrades

    # Signals

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        if self._service is not None and hasattr(signal, "SIGHUP"):
            self.upgrades = self._prepare_upgrades(self._service)
            loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
            loop.add_signal_handler(signal.SIGUSR2, self._on_upgrade, signal.SIGUSR2)
            loop.add_signal_handler(signal.SIGQUIT, self._on_quit)

    def _on_signal(self, number: signal.Signals) -> None:
        logger.info("received %s", number.name)
        if self._is_replaced and self.upgrades is not None:
            self.upgrades.forward(number)
            if not self._is_signalled and self._life is not None:
                self._is_signalled = True
                self._life.hasten()
                return
        if self._is_signalled:
            self._end_at_once()
        self._is_signalled = self._request.is_made = True
        self._stop.set()

    def _on_upgrade(self, number: signal.Signals) -> None:
        """A new process takes over, with the configuration and the code as they are now."""
        logger.info("received %s", number.name)
        assert self.upgrades is not None
        if self.upgrades.is_over:
            self.upgrades.forward(number)
        else:
            self.upgrades.request(number.name)

    def _on_hangup(self) -> None:
        """The terminal is gone; or somebody asks for a reload, which needs another process."""
        if os.isatty(0) or os.isatty(2):
            self._on_signal(signal.SIGHUP)
        else:
            self._on_upgrade(signal.SIGHUP)

    def _on_quit(self) -> None:
        logger.info("received SIGQUIT")
        if self.upgrades is not None:
            self.upgrades.forward(signal.SIGQUIT)
        self._end_at_once()

    def _reopen_logs(self) -> None:
        if self.upgrades is not None:
            self.upgrades.forward(signal.SIGUSR1)
        logs.reopen_log_files()
        if self._life is not None:
            self._life.reopen_logs()

    def _end_at_once(self) -> NoReturn:
        """As a master ends: it was asked for, so the status is that of a success."""
        logger.warning("ending at once")
        if self.upgrades is not None:
            self.upgrades.kill()
        if self._service is not None:
            self._service.remove_files()
        logging.shutdown()
        os._exit(0)


@contextlib.contextmanager
def signal_handlers_given_back() -> Iterator[None]:
    """A program that embeds the server has its own handlers again afterwards, but a process that
    becomes a keeper does not: threads that do not block the signals would take them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [
        *_SIGNALS,
        *(getattr(signal, name) for name in _MORE_SIGNALS if hasattr(signal, name)),
    ]
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # None: installed by another language, cannot be given back.
            if handler is not None and not is_held(number):
                signal.signal(number, handler)


def _counting(
    config: ServerConfig, service: Service | None, sockets: Sequence[socket.socket]
) -> Counting | None:
    """The place in shared memory of a worker without a master; None where nobody wants to know."""
    shared = None if service is None else service.arena
    if shared is not None:
        arena = shared.arena
        slot = shared.acquire(shared.last_worker_id + 1, generation=1)
    elif config.metrics:
        # Under --reload: nobody goes on with what the child counts.
        arena = Arena.anonymous(catalogue.layout(1))
        slot = arena.acquire(worker_id=1, generation=1)
    else:
        return None
    slot.start()
    note_listeners(slot, arena.layout, 0, sockets)
    return Counting(arena, slot, own_metrics)
