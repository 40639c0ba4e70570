"""The life of the program, from top to bottom."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pounce import logs
from pounce.addresses import Address, bound_address
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.errors import ConfigError, PounceError, SupervisorError
from pounce.lifecycle import LifecycleCollector
from pounce.loading import load_app
from pounce.logs.banner import format_address, print_banner
from pounce.net.sockets import bound_addr, close_sockets
from pounce.net.tls import create_context
from pounce.runtime import WorkerMode, event_loop_factory, raise_fd_limit, worker_mode
from pounce.service import Service, open_service, service_addresses
from pounce.single_worker import SingleWorker, signal_handlers_given_back
from pounce.stopping import StopRequest, end_process_if_overdue
from pounce.supervisor.privileges import check_may_become, resolve_identity, set_umask
from pounce.supervisor.takeover import Takeover, report_failure
from pounce.sync_protocol import SyncApp
from pounce.worker import event_loop

if TYPE_CHECKING:
    from pounce.supervisor.main_application import MainApplication
    from pounce.supervisor.master import Master

logger = logging.getLogger("pounce")

END_PATIENCE: Final = 1.0
"""Seconds that the interpreter gets at least to come to its end."""


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
        self._addresses: Sequence[Address] = ()
        """Where to listen; ports may be 0."""
        self._service: Service | None = None
        """None while not bound, and where the sockets are the caller's."""
        self._main: MainApplication | None = None
        self._running: Master | SingleWorker | None = None
        """What serves or has served in this process."""
        self._stop_request = StopRequest()

    def __repr__(self) -> str:
        state = "running" if self._stop_request.is_heard else "idle"
        if self._stop_request.is_made:
            state = "stopping"
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
        if self._stop_request.is_made:
            return
        try:
            self._run()
        except PounceError as error:
            report_failure(str(error))
            raise
        if self._running is not None and self._running.upgrades is not None:
            self._running.upgrades.become_keeper_if_needed()

    def _run(self) -> None:
        config = self._config
        logs.configure_logging(config)
        takeover = Takeover.of_this_process()
        if takeover is not None and config.reload:
            raise ConfigError("--reload cannot take over from a running server")
        self._check_identity()
        if config.umask is not None:
            set_umask(config.umask)
        supervised = config.is_supervised and not config.reload
        workers, mode = self._effective_workers(), worker_mode(config.worker_mode)
        if supervised:
            from pounce.supervisor.main_application import prepare_pool

            mode, self._main = prepare_pool(config, self._app, self._app_path, takeover)
        elif not config.reload:
            self._apply_integrations()
        if config.is_tls:
            self._ssl_context = create_context(config)
        raise_fd_limit()
        self._addresses = service_addresses(config, takeover)
        self._print_banner(workers, mode)
        try:
            is_pool = supervised and mode is WorkerMode.PROCESS
            with open_service(
                config, self._addresses, workers, takeover, is_pool_of_processes=is_pool
            ) as self._service:
                self._bound_addr = self._service.listeners.addresses()[0]
                if supervised:
                    self._run_multi(workers, mode)
                elif config.reload:
                    self._run_single_with_reload(self._service.listeners.sockets_for(0))
                else:
                    self._run_single(self._service.listeners.sockets_for(0))
        finally:
            self._bound_addr = self._service = None

    def _run_with_sockets(self, sockets: list[socket.socket]) -> None:
        """`run()` on sockets that the caller has bound and will close."""
        if self._stop_request.is_made:
            return
        logs.configure_logging(self._config)
        self._apply_integrations()
        if self._config.is_tls:
            self._ssl_context = create_context(self._config)
        raise_fd_limit()
        self._bound_addr = bound_addr(sockets[0])
        try:
            self._run_single(sockets)
        finally:
            self._bound_addr = None

    def shutdown(self) -> None:
        """Begins a graceful stop. Thread-safe and idempotent; before `run()` it makes `run()`
        return at once."""
        self._stop_request.make()

    # The steps of run(), in order

    def _apply_integrations(self) -> None:
        """Loads the application, where only its import string was given."""
        if self._app is None:
            assert self._app_path is not None
            self._app = load_app(
                self._app_path, factory=self._config.factory, app_dir=self._config.app_dir
            )

    def _check_identity(self) -> None:
        """That workers can become who they shall be is better known now than from each of them."""
        identity = resolve_identity(self._config.user, self._config.group)
        if identity is not None:
            check_may_become(identity)

    def _effective_workers(self) -> int:
        workers = self._config.resolve_workers()
        if workers > 1 and self._config.reload:
            logger.warning("--reload runs one worker, not %d", workers)
            return 1
        return workers

    def _print_banner(self, effective_workers: int, mode: WorkerMode) -> None:
        config = self._config
        print_banner(
            config,
            addresses=[format_address(address, tls=config.is_tls) for address in self._addresses],
            workers=effective_workers,
            mode=mode,
            version=_get_version(),
            app=self._app_path or repr(self._app),
        )

    def _run_single(self, sockets: Sequence[socket.socket]) -> None:
        """One worker, in this process."""
        with signal_handlers_given_back():
            event_loop.run(
                self._run_single_async(sockets),
                event_loop_factory(self._config.loop),
                seconds_left=self._seconds_left,
            )

    def _run_multi(self, effective_workers: int, mode: WorkerMode) -> None:
        """A master and its workers."""
        # A worker alone does without them.
        from pounce.supervisor.master import Master
        from pounce.supervisor.measurements import Measurements

        if threading.current_thread() is not threading.main_thread():
            raise SupervisorError("a pool of workers needs the main thread; one worker does not")
        assert self._service is not None
        master = self._running = Master(
            self._config,
            self._service.listeners,
            app_path=self._app_path,
            app=None if self._app_path is not None else self._app,
            mode=mode,
            main=self._main,
            sync_app=self._sync_app,
            collector=self._collector,
            reload_config=self._reload_config,
            report_listening=self._report_listening,
            notifier=self._service.notifier,
            pidfile=self._service.pidfile,
            takeover=self._service.takeover,
            admin=self._service.admin,
            measurements=None if self._service.arena is None else Measurements(self._service.arena),
            version=_get_version(),
        )
        code = self._run_lifespan_then_supervise(master, self._service.listeners.sockets_for(0))
        if code:
            sys.exit(code)

    def _run_lifespan_then_supervise(
        self,
        supervisor: Master,
        sockets: Sequence[socket.socket],
        udp_sockets: Sequence[socket.socket] | None = None,
    ) -> int:
        """The master's event loop: the lifespan where it is the main process's, then the pool.

        Returns:
            The exit code of the program.
        """
        self._bound_addr = bound_addr(sockets[0])

        async def run() -> int:
            loop = asyncio.get_running_loop()
            wake = self._stop_request.heard_by(lambda: loop.call_soon_threadsafe(supervisor.stop))
            with wake as is_stop_requested:
                return 0 if is_stop_requested else await supervisor.run()

        return asyncio.run(run())

    def _run_single_with_reload(self, sockets: list[socket.socket]) -> None:
        """One worker in a child process, which is replaced when a source file changes."""
        from pounce.reload import Reloader

        if self._app_path is None:
            raise ConfigError("--reload needs the application as an import string")
        reloader = Reloader(self._config, self._app_path, sockets)
        with self._stop_request.heard_by(reloader.stop) as is_stop_requested:
            code = 0 if is_stop_requested else reloader.run()
        if code:
            sys.exit(code)

    async def _run_single_async(
        self, sock: Sequence[socket.socket], udp_sock: socket.socket | None = None
    ) -> None:
        assert self._app is not None
        worker = self._running = SingleWorker(
            self._config,
            self._app,
            self._ssl_context,
            sync_app=self._sync_app,
            collector=self._collector,
            service=self._service,
            close_sockets=self._close_sockets,
            request=self._stop_request,
            report_listening=self._report_listening,
        )
        await worker.run(sock)

    def _seconds_left(self) -> float:
        """How long a graceful stop may go on."""
        if self._running is None:
            return self._config.timeout_graceful_shutdown
        return self._running.seconds_left()

    def end_process_if_overdue(self, exit_code: int = 0) -> None:
        """Ends the process if threads of the application go on when the time is over. For programs
        that do nothing else after `run()`."""
        end_process_if_overdue(max(END_PATIENCE, self._seconds_left()), exit_code)

    def _report_listening(self, bound: Sequence[tuple[str, int]]) -> None:
        """Says where, once requests are really answered."""
        addresses = [format_address(bound_address(each), tls=self._config.is_tls) for each in bound]
        logger.info("listening on %s", ", ".join(addresses), extra={"addresses": addresses})
        if self._service is not None:
            self._service.notifier.ready("serving")

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
