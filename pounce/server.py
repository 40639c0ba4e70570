"""The life of the program, from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pounce import logs
from pounce.addresses import Address, InheritedAddress, TCPAddress, UnixAddress
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.errors import ConfigError, SupervisorError
from pounce.lifecycle import LifecycleCollector
from pounce.loading import load_app
from pounce.logs import banner
from pounce.net.sockets import bind, bound_addr, close_sockets
from pounce.net.tls import create_context
from pounce.runtime import WorkerMode, event_loop_factory, raise_fd_limit, worker_mode
from pounce.sync_protocol import SyncApp
from pounce.worker import event_loop
from pounce.worker.life import WorkerLife

if TYPE_CHECKING:
    from pounce.supervisor.master import Master

logger = logging.getLogger("pounce")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_MORE_SIGNALS: Final = ("SIGHUP", "SIGUSR1")


class Server:
    """Serves one application until it is told to stop.

    Args:
        config: The resolved configuration.
        app: The ASGI application, or None to load it from `app_path`.
        app_path: Its import string, needed where the application must be loaded again.
        lifecycle_collector: Gets the lifecycle events.
        sync_app: Asked first for plain requests.
        reload_config: Reads the configuration again when a supervised pool is reloaded.

    Raises:
        ConfigError: There is neither an application nor an import string.
    """

    def __init__(
        self,
        config: ServerConfig,
        app: ASGIApp | None,
        *,
        app_path: str | None = None,
        lifecycle_collector: LifecycleCollector | None = None,
        sync_app: SyncApp | None = None,
        reload_config: Callable[[], ServerConfig] | None = None,
    ) -> None:
        if app is None and app_path is None:
            raise ConfigError("an application or its import string is needed")
        self._config = config
        self._app = app
        self._app_path = app_path
        self._collector = lifecycle_collector
        self._sync_app = sync_app
        self._reload_config = reload_config
        self._ssl_context: ssl.SSLContext | None = None
        self._bound_addr: tuple[str, int] | None = None
        self._owns_sockets = True

        self._life: WorkerLife | None = None
        self._lock = threading.Lock()
        self._stop_requested = False
        self._signalled = False
        """A first signal stops gracefully, whatever else has asked for that; a second one ends."""
        self._wake: Callable[[], object] | None = None
        """Tells the running loop to stop; thread-safe."""

    def __repr__(self) -> str:
        state = "stopping" if self._stop_requested else "running" if self._wake else "idle"
        return f"<Server {self._app_path or self._app!r} {state} at {self._bound_addr}>"

    @property
    def bound_addr(self) -> tuple[str, int] | None:
        """Host and port really bound, a path and 0 for a Unix socket; None while not bound."""
        return self._bound_addr

    def run(self) -> None:
        """Serves until `shutdown()` or a signal; blocks.

        Raises:
            PounceError: The server cannot start: see `pounce.errors`.
            Exception: What the application's module raised while it was imported.
        """
        self._run(bind)

    def _run_with_sockets(self, sockets: list[socket.socket]) -> None:
        """`run()` on sockets that the caller has bound and will close."""
        self._owns_sockets = False
        self._run(lambda config: sockets)

    def _run(self, open_sockets: Callable[[ServerConfig], list[socket.socket]]) -> None:
        if self._stop_requested:
            return
        config = self._config
        logs.configure_logging(config)
        supervised = config.is_supervised and not config.reload and self._owns_sockets
        if not config.reload and not (supervised and self._app_path is not None):
            self._apply_integrations()
        workers, mode = self._effective_workers(), worker_mode()
        if config.is_tls:
            self._ssl_context = create_context(config)
        raise_fd_limit()
        if self._owns_sockets:
            self._print_banner(workers, mode)
        if supervised:
            self._run_multi(workers, mode)
            return
        sockets = open_sockets(config)
        try:
            self._bound_addr = bound_addr(sockets[0])
            if config.reload:
                self._run_single_with_reload(sockets)
            else:
                self._run_single(sockets)
        finally:
            self._bound_addr = None
            if self._owns_sockets:
                self._close_sockets(sockets)

    def shutdown(self) -> None:
        """Begins a graceful stop. Thread-safe and idempotent; before `run()` it makes `run()`
        return at once."""
        with self._lock:
            self._stop_requested = True
            wake = self._wake
        if wake is not None:
            # The loop may be closed already, which is what was wanted.
            with contextlib.suppress(RuntimeError):
                wake()

    # The steps of run(), in order

    def _apply_integrations(self) -> None:
        """Loads the application, where only its import string was given."""
        if self._app is None:
            assert self._app_path is not None
            self._app = load_app(
                self._app_path, factory=self._config.factory, app_dir=self._config.app_dir
            )

    def _effective_workers(self) -> int:
        workers = self._config.resolve_workers()
        if workers > 1 and self._config.reload:
            logger.warning("--reload runs one worker, not %d", workers)
            return 1
        return workers

    def _print_banner(self, effective_workers: int, mode: WorkerMode) -> None:
        config = self._config
        banner.print_banner(
            config,
            addresses=_configured_addresses(config),
            workers=effective_workers,
            mode=mode,
            version=_get_version(),
            app=self._app_path or repr(self._app),
        )

    def _run_single(self, sockets: Sequence[socket.socket]) -> None:
        """One worker, in this process."""
        with _signal_handlers_given_back():
            event_loop.run(
                self._run_single_async(sockets),
                event_loop_factory(self._config.loop),
                seconds_left=self._seconds_left,
            )

    def _run_multi(self, effective_workers: int, mode: WorkerMode) -> None:
        """A master and its workers."""
        # Imported here: a worker alone does without them.
        from pounce.net.listeners import ListenerGroup
        from pounce.net.unix_sockets import FileAccess
        from pounce.supervisor.master import Master

        if threading.current_thread() is not threading.main_thread():
            raise SupervisorError("a pool of workers needs the main thread; one worker does not")
        config = self._config
        listeners = ListenerGroup(
            [_address(config)],
            backlog=config.backlog,
            strategy=config.socket_strategy,
            access=FileAccess(config.uds_permissions),
        )
        try:
            for slot in range(effective_workers):
                if slot not in listeners.slots:
                    listeners.open_slot(slot)
            self._bound_addr = listeners.addresses()[0]
            master = Master(
                config,
                listeners,
                app_path=self._app_path,
                app=None if self._app_path is not None else self._app,
                sync_app=self._sync_app,
                collector=self._collector,
                reload_config=self._reload_config,
                report_listening=self._report_listening,
                version=_get_version(),
            )
            code = asyncio.run(self._run_master(master))
        finally:
            self._bound_addr = None
            listeners.close_all()
        if code:
            sys.exit(code)

    async def _run_master(self, master: Master) -> int:
        loop = asyncio.get_running_loop()
        with self._lock:
            self._wake = lambda: loop.call_soon_threadsafe(master.stop)
            if self._stop_requested:
                return 0
        try:
            return await master.run()
        finally:
            self._wake = None

    def _run_single_with_reload(self, sockets: list[socket.socket]) -> None:
        """One worker in a child process, which is replaced when a source file changes."""
        from pounce.reload import Reloader

        if self._app_path is None:
            raise ConfigError("--reload needs the application as an import string")
        reloader = Reloader(self._config, self._app_path, sockets)
        with self._lock:
            if self._stop_requested:
                return
            self._wake = reloader.stop
        try:
            code = reloader.run()
        finally:
            self._wake = None
        if code:
            sys.exit(code)

    async def _run_single_async(
        self, sock: Sequence[socket.socket], udp_sock: socket.socket | None = None
    ) -> None:
        assert self._app is not None
        stop = self._accept_stop()
        life = self._life = WorkerLife(
            self._config,
            self._app,
            self._ssl_context,
            sync_app=self._sync_app,
            collector=self._collector,
        )
        try:
            if not await _unless(stop, life.prepare()):
                life.abandon_startup()
                return
            try:
                await life.serve(sock)
                self._report_listening([bound_addr(each) for each in sock])
                await stop.wait()
                logger.info("shutting down")
                await life.stop_accepting()
                if self._owns_sockets:
                    self._close_sockets(sock)
                await life.drain(self._config.timeout_graceful_shutdown)
            finally:
                await life.shut_down_lifespan()
            logger.info("stopped")
        finally:
            self._wake = None
            life.close()

    def _seconds_left(self) -> float:
        """How long a graceful stop may go on."""
        if self._life is None:
            return self._config.timeout_graceful_shutdown
        return self._life.seconds_left()

    def end_process_if_overdue(self) -> None:
        """Ends the process if threads of the application go on when the time is over.

        Python would wait for them for ever. For programs that do nothing else after `run()`: they
        go on to end as usual, which lets idle threads of executors go, under a watch.
        """
        seconds = max(0.0, self._seconds_left())

        def watch() -> None:
            time.sleep(seconds)
            going_on = sum(not thread.daemon for thread in threading.enumerate()) - 1
            logger.warning("%d threads of the application go on: ending without them", going_on)
            logging.shutdown()
            sys.stdout.flush()
            os._exit(0)

        threading.Thread(target=watch, name="pounce-end", daemon=True).start()

    def _accept_stop(self) -> asyncio.Event:
        """An event that `shutdown()`, SIGINT or SIGTERM sets."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        with self._lock:
            self._wake = lambda: loop.call_soon_threadsafe(stop.set)
            if self._stop_requested:
                stop.set()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                loop.add_signal_handler(number, self._on_signal, number, stop)
            if self._owns_sockets and hasattr(signal, "SIGHUP"):
                loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
                loop.add_signal_handler(signal.SIGHUP, self._on_hangup, stop)
        return stop

    def _on_signal(self, number: signal.Signals, stop: asyncio.Event) -> None:
        if self._signalled:
            logger.warning("received %s again: ending at once", number.name)
            logging.shutdown()
            os._exit(1)
        logger.info("received %s", number.name)
        self._signalled = self._stop_requested = True
        stop.set()

    def _reopen_logs(self) -> None:
        logs.reopen_log_files()
        if self._life is not None:
            self._life.reopen_logs()

    def _on_hangup(self, stop: asyncio.Event) -> None:
        """The terminal is gone; or somebody asks for a reload, which needs a master."""
        if os.isatty(0) or os.isatty(2):
            self._on_signal(signal.SIGHUP, stop)
        else:
            logger.warning("received SIGHUP: a reload needs --supervise; nothing is changed")

    def _report_listening(self, bound: Sequence[tuple[str, int]]) -> None:
        """Says where, once requests are really answered."""
        addresses = [_url(address, self._config.is_tls) for address in bound]
        logger.info("listening on %s", ", ".join(addresses), extra={"addresses": addresses})

    @staticmethod
    def _close_sockets(sockets: Sequence[socket.socket]) -> None:
        close_sockets(sockets)


def run(app: ASGIApp | str, *, config: ServerConfig | None = None, **options: Any) -> None:
    """Serves an application until a signal; blocks.

    Args:
        app: The application or its import string ("module:attr").
        config: A complete configuration, instead of `options`.
        options: Fields of `ServerConfig`; environment and configuration file fill in the rest.

    Raises:
        TypeError: Both `config` and `options` are given.
        PounceError: The server cannot start: see `pounce.errors`.
    """
    if config is not None and options:
        raise TypeError("give either config or options, not both")
    if config is None:
        config = ServerConfig.load(options)
    if isinstance(app, str):
        Server(config, None, app_path=app).run()
    else:
        Server(config, app).run()


def _get_version() -> str:
    """The version of Pounce."""
    from pounce import __version__

    return __version__


@contextlib.contextmanager
def _signal_handlers_given_back() -> Iterator[None]:
    """A program that embeds the server has its own handlers again afterwards."""
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
            if handler is not None:  # None: installed by another language, cannot be given back
                signal.signal(number, handler)


async def _unless(stop: asyncio.Event, coroutine: Any) -> bool:
    """Awaits a coroutine; False when `stop` was set before it came to its end."""
    work = asyncio.ensure_future(coroutine)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
            return True
        return False
    finally:
        stopping.cancel()
        work.cancel()


def _address(config: ServerConfig) -> Address:
    """Where the configuration says to listen."""
    if config.fd is not None:
        return InheritedAddress(config.fd)
    if config.uds is not None:
        return UnixAddress(config.uds)
    return TCPAddress(config.host, config.port)


def _configured_addresses(config: ServerConfig) -> list[str]:
    if config.uds is not None:
        return [f"unix:{config.uds}"]
    if config.fd is not None:
        return [f"fd://{config.fd}"]
    return [_url((config.host, config.port), config.is_tls)]


def _url(address: tuple[str, int], is_tls: bool) -> str:
    host, port = address
    if host.startswith(("/", "\0")) or (port == 0 and "/" in host):
        return f"unix:{host}"
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
