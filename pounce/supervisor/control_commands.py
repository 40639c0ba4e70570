"""The commands of `pounce ctl`, carried out on the pool."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pounce.supervisor.actions import Action
from pounce.supervisor.control_messages import ControlError, Status
from pounce.supervisor.pool import Pool
from pounce.supervisor.reload_course import ReloadCourse, ReloadRefused
from pounce.supervisor.upgrades import Upgrades


class ControlCommands:
    """Carries out what `control_messages.COMMANDS` lists.

    Args:
        pool: Decides.
        do: Carries out what the pool decides.
        reloads: Says how a reload went.
        upgrades: Keep from most commands while one is under way.
        request_reload: Begins a reload, or raises `ReloadRefused`.
        is_reload_upgrade: Whether new code takes a new process.
        status: The answer to `status`.
        stop: Ends the program, gracefully or not.
    """

    def __init__(
        self,
        pool: Pool,
        do: Callable[[Sequence[Action]], None],
        reloads: ReloadCourse,
        upgrades: Upgrades,
        *,
        request_reload: Callable[[], None],
        is_reload_upgrade: bool,
        status: Callable[[], Status],
        stop: Callable[[bool], None],
    ) -> None:
        self._pool = pool
        self._do = do
        self._reloads = reloads
        self._upgrades = upgrades
        self._request_reload = request_reload
        self._is_reload_upgrade = is_reload_upgrade
        self._status = status
        self._stop = stop

    async def handle(self, command: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The result of a command.

        Raises:
            ControlError: It is refused.
        """
        if command == "status":
            return self._status()
        if self._upgrades.is_under_way and command != "stop":
            raise ControlError("an upgrade is under way; try again when it is over")
        match command:
            case "reload" if self._is_reload_upgrade:
                return await self._upgrade(wait=arguments["wait"])
            case "reload":
                return await self._reload(wait=arguments["wait"])
            case "scale":
                return self._scale(arguments["workers"])
            case "restart-worker":
                return self._restart(arguments["worker_id"])
        assert command == "stop"
        # The answer goes first.
        asyncio.get_running_loop().call_soon(self._stop, not arguments["now"])
        return {"pid": os.getpid()}

    async def _reload(self, *, wait: bool) -> Mapping[str, Any]:
        # Before the request, which may start the reload.
        outcome = self._reloads.outcome()
        try:
            self._request_reload()
        except ReloadRefused as refusal:
            return {**self._started(), "result": "failed", "reason": str(refusal)}
        if wait or outcome.done():
            return await outcome
        return self._started()

    async def _upgrade(self, *, wait: bool) -> Mapping[str, Any]:
        outcome = self._upgrades.outcome()
        self._upgrades.request("reload")
        started = self._started()
        if not wait:
            return started
        return {**await outcome, "generation": started["generation"]}

    def _started(self) -> Mapping[str, Any]:
        generation = self._pool.snapshot().generation
        return {"result": "started", "reason": None, "generation": generation}

    def _scale(self, size: int) -> Mapping[str, Any]:
        previous = self._pool.snapshot().target
        self._do(self._pool.scale(size, time.monotonic()))
        return {"workers_target": self._pool.snapshot().target, "previous": previous}

    def _restart(self, worker_id: int) -> Mapping[str, Any]:
        for worker in self._pool.snapshot().workers:
            if worker.worker_id == worker_id:
                self._do(self._pool.restart(worker.slot, time.monotonic()))
                return {"worker_id": worker.worker_id, "slot": worker.slot}
        raise ControlError(f"there is no worker {worker_id}")
