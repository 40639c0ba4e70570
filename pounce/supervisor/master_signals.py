"""The signals that a master obeys."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final

from pounce.supervisor.actions import Action
from pounce.supervisor.pool import Pool
from pounce.supervisor.upgrades import Upgrades

logger = logging.getLogger("pounce.error")

_OF_THE_END: Final = ("SIGTERM", "SIGINT", "SIGQUIT")


class MasterSignals:
    """Turns signals into what they ask for.

    Args:
        pool: Decides.
        do: Carries out what the pool decides.
        upgrades: When one is over, signals are for the next master.
        stop: Ends the program, gracefully or not.
        reload: Begins a reload.
        reopen_logs: For the master and all workers.
    """

    def __init__(
        self,
        pool: Pool,
        do: Callable[[Sequence[Action]], None],
        upgrades: Upgrades,
        *,
        stop: Callable[[bool], None],
        reload: Callable[[], None],
        reopen_logs: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._do = do
        self._upgrades = upgrades
        self._handlers: dict[str, Callable[[], None]] = {
            "SIGTERM": lambda: stop(True),
            "SIGINT": lambda: stop(True),
            "SIGQUIT": lambda: stop(False),
            "SIGHUP": reload,
            "SIGTTIN": lambda: self._scale_by(1),
            "SIGTTOU": lambda: self._scale_by(-1),
            "SIGUSR1": reopen_logs,
            "SIGUSR2": lambda: upgrades.request("SIGUSR2"),
            "SIGWINCH": self._drain_all,
        }

    def install(self) -> None:
        """Has the running loop obey them."""
        loop = asyncio.get_running_loop()
        for name in self._handlers:
            loop.add_signal_handler(getattr(signal, name), self._obey, name)

    def _obey(self, name: str) -> None:
        logger.info("received %s", name)
        if self._upgrades.is_over:
            self._upgrades.forward(getattr(signal, name))
            if name not in _OF_THE_END:
                return
        self._handlers[name]()

    def _scale_by(self, change: int) -> None:
        if self._upgrades.is_under_way:
            logger.warning("an upgrade is under way: the number of workers stays")
            return
        target = self._pool.snapshot().target
        if target + change < 1:
            logger.warning("a pool has at least one worker")
            return
        self._do(self._pool.scale(target + change, time.monotonic()))

    def _drain_all(self) -> None:
        if os.isatty(0) or os.isatty(2):
            return  # a terminal sends it to say that its size has changed
        if self._upgrades.is_under_way:
            logger.warning("an upgrade is under way: the workers stay")
            return
        self._do(self._pool.drain_all(time.monotonic()))
