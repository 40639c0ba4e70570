"""The application in the main process: where workers are threads, and where its lifespan runs once.

A master knows it only then. It is loaded once, so new code needs a new process.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from pounce.asgi.lifespan import Lifespan
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.errors import LifespanError
from pounce.loading import load_app
from pounce.runtime import WorkerMode, event_loop_factory, gil_enabled, worker_mode
from pounce.supervisor.pool_events import GaveUp
from pounce.supervisor.pool_log import log_event
from pounce.supervisor.takeover import Takeover
from pounce.supervisor.worker_record import STARTUP_FAILED
from pounce.supervisor.worker_side import explain
from pounce.worker.life import freeze_startup_objects

logger = logging.getLogger("pounce")


class MainApplication:
    """One application and its lifespan, in the loop of the master.

    Args:
        app: The application.
        config: Says what becomes of the lifespan, and how long the startup may take.
        is_sent: Whether workers get the state pickled.
    """

    def __init__(self, app: ASGIApp, config: ServerConfig, *, is_sent: bool) -> None:
        self.app = app
        self.context = contextvars.copy_context()
        """With the context variables that the application has set while it was imported."""
        self._config = config
        self._is_sent = is_sent
        self._lifespan = Lifespan(app, "on" if config.lifespan == "main" else config.lifespan)
        self.pickled_state = b""

    @property
    def state(self) -> Mapping[str, Any] | None:
        """What the application put into the state of its lifespan; None where it has no lifespan
        by configuration."""
        return self._lifespan.state if self._config.lifespan != "off" else None

    async def start_up(self) -> None:
        """Returns when the application has started.

        Raises:
            LifespanError: It refused to, took too long, or has a state that workers cannot get.
        """
        seconds = self._config.timeout_worker_boot
        try:
            await asyncio.wait_for(self._lifespan.startup(), seconds)
        except TimeoutError:
            self._lifespan.cancel()
            raise LifespanError(
                f"application startup did not finish within {seconds:g} s"
            ) from None
        if not self._is_sent:
            freeze_startup_objects()
            return
        try:
            self.pickled_state = self._pickle()
        except LifespanError:
            await self.shut_down(self._config.timeout_graceful_shutdown)
            raise

    async def shut_down(self, seconds: float) -> None:
        """Runs the application's shutdown; ends it by force after `seconds`."""
        await self._lifespan.shutdown_within(seconds)

    def cancel(self) -> None:
        """Ends the application where it is."""
        self._lifespan.cancel()

    def _pickle(self) -> bytes:
        state = self._lifespan.state
        for key, value in state.items():
            try:
                pickle.dumps(value)
            except Exception as exc:
                raise LifespanError(
                    f"lifespan main: the state {key!r} cannot be sent to worker processes: {exc}; "
                    "leave it out of the state, or use --worker-mode thread or --lifespan on"
                ) from None
        return pickle.dumps(dict(state))


def prepare_pool(
    config: ServerConfig,
    app: ASGIApp | None,
    app_path: str | None,
    takeover: Takeover | None = None,
) -> tuple[WorkerMode, MainApplication | None]:
    """What workers will be, and the application where the main process needs it.

    Raises:
        SystemExit: The application cannot be loaded, which is logged.
        ConfigError: The event loop is not installed.
    """
    # Threads have the rights of the main process.
    is_same_user = config.user is None and config.group is None
    mode = worker_mode(config.worker_mode) if is_same_user else WorkerMode.PROCESS
    if mode is WorkerMode.PROCESS and config.lifespan != "main":
        return mode, None
    if app is None:
        assert app_path is not None
        try:
            app = load_app(app_path, factory=config.factory, app_dir=config.app_dir)
        except Exception as exc:
            reason = explain(exc)
            log_event(GaveUp(reason=reason, exit_code=STARTUP_FAILED))
            if takeover is not None:
                takeover.failed(reason)
            sys.exit(STARTUP_FAILED)
    if mode is WorkerMode.THREAD:
        event_loop_factory(config.loop)  # as the application, its module may turn the GIL on
        mode = _heed_gil(config)
    if mode is WorkerMode.PROCESS and config.lifespan != "main":
        return mode, None
    is_sent = mode is WorkerMode.PROCESS and app_path is not None
    return mode, MainApplication(app, config, is_sent=is_sent)


def _heed_gil(config: ServerConfig) -> WorkerMode:
    """What workers are, now that everything is loaded."""
    if not gil_enabled():
        return WorkerMode.THREAD
    if config.worker_mode == "thread":
        logger.warning("the GIL is on, so workers that are threads take turns on one CPU")
        return WorkerMode.THREAD
    logger.warning(
        "an extension module has turned the GIL on: workers are processes "
        "(PYTHON_GIL=0 keeps it off, --worker-mode thread has threads take turns)"
    )
    return WorkerMode.PROCESS
