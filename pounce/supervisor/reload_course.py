"""Reloads as the master knows them: what is read for one, and who is told how it went.

How a reload is decided, for all slots at once, is the pool's; see `reload_state`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from pounce.config import ServerConfig
from pounce.errors import PounceError
from pounce.net.sockets import configured_access, configured_addresses
from pounce.runtime import WorkerMode
from pounce.supervisor.control_messages import LastReload
from pounce.supervisor.generation_configs import GenerationConfigs
from pounce.supervisor.notify import Notifier
from pounce.supervisor.pool_events import (
    PoolEvent,
    ReloadFailed,
    ReloadStarted,
    ReloadSucceeded,
)
from pounce.supervisor.pool_settings import PoolSettings, pool_settings
from pounce.supervisor.pool_status import PoolStatus
from pounce.supervisor.reload_waiters import ReloadWaiters

logger = logging.getLogger("pounce.error")


class ReloadRefused(PounceError):
    """The configuration cannot be used: everything stays as it is. That is in the log already."""


class ReloadCourse:
    """The reloads of one master.

    Args:
        config: The configuration of the first generation.
        mode: What workers are.
        read_config: Reads the configuration again; None keeps the one there is.
        has_app_object: Whether the application was given as an object.
        notifier: Tells the service manager.
        generation: The one that serves.
        noted: Called with the result of each.
    """

    def __init__(
        self,
        config: ServerConfig,
        mode: WorkerMode,
        *,
        read_config: Callable[[], ServerConfig] | None,
        has_app_object: bool,
        notifier: Notifier,
        generation: Callable[[], int],
        noted: Callable[[str], None],
    ) -> None:
        self._configs = GenerationConfigs(config)
        self._mode = mode
        self._read_config = read_config
        self._has_app_object = has_app_object
        self._notifier = notifier
        self._generation = generation
        self._noted = noted
        self._waiters = ReloadWaiters()
        self.last: LastReload | None = None
        """What became of the last one."""

    @property
    def config(self) -> ServerConfig:
        """The one of the generation that serves."""
        return self._configs.in_force

    def config_of(self, generation: int) -> ServerConfig:
        return self._configs.of(generation)

    def prepare(self) -> PoolSettings | None:
        """Reads the configuration for the next generation; None: the pool's settings stay.

        Raises:
            ReloadRefused: It cannot be used.
        """
        settings = None
        if self._read_config is not None:
            before = self._configs.latest
            config = self._read_again(self._read_config)
            if _listening_options(config) != _listening_options(before):
                logger.warning(
                    "where to listen changes with a restart only, and so does the pidfile"
                )
            settings = pool_settings(config, self._mode)
        if self._has_app_object:
            logger.warning("the application was given as an object: a reload runs the same code")
        return settings

    def _read_again(self, read_config: Callable[[], ServerConfig]) -> ServerConfig:
        try:
            config = read_config()
            self._configs.request(config)
        except (PounceError, OSError) as exc:
            reason = f"the configuration cannot be used: {exc}"
            logger.error("reload failed: %s", reason)
            self._notifier.reloading()  # systemd waits for both to come in answer to SIGHUP
            self._note("failed", reason)
            raise ReloadRefused(reason) from exc
        return config

    # What becomes of them

    def outcome(self) -> asyncio.Future[dict[str, Any]]:
        """What becomes of the next one to start; see `control_messages.ReloadResult`."""
        return self._waiters.add()

    def follow(self, event: PoolEvent) -> None:
        """Takes note of what has happened in the pool, and tells who waits for it."""
        match event:
            case ReloadStarted(generation=generation):
                self._configs.of(generation)  # what comes while it is prepared is for the next
                self._waiters.started()
                self._notifier.reloading(f"starting generation {generation}")
            case ReloadSucceeded(generation=generation):
                self._configs.succeeded(generation)
                self._note("succeeded", None)
                self._waiters.ended("succeeded", None, generation)
            case ReloadFailed(generation=generation, reason=reason):
                self._configs.failed(generation)
                self._note("failed", reason)
                self._waiters.ended("failed", reason, self._generation())

    def forget_unless_queued(self, status: PoolStatus) -> None:
        """Tells who waits for a reload that there will be none, if so."""
        if not status.reload_queued:
            self._waiters.given_up(f"the pool is {status.phase}", status.generation)

    def _note(self, result: str, reason: str | None) -> None:
        self._noted(result)
        self.last = {"result": result, "reason": reason, "at": time.time()}
        self._notifier.ready(f"serving, generation {self._generation()}; last reload {result}")


def _listening_options(config: ServerConfig) -> tuple[object, ...]:
    return (
        configured_addresses(config),
        configured_access(config),
        config.backlog,
        config.socket_strategy,
        config.pidfile,
    )
