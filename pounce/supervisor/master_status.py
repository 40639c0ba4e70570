"""What `pounce ctl status` and the master's own server say of a master."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, cast

from pounce.addresses import bound_address
from pounce.net.listeners import ListenerGroup
from pounce.supervisor.control_messages import Status, Trouble, WorkerRow
from pounce.supervisor.health_watch import HealthWatch
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_status import SlotTrouble, WorkerStatus
from pounce.supervisor.reload_course import ReloadCourse
from pounce.supervisor.upgrades import Upgrades


class MasterStatus:
    """How a master does, asked at any time.

    Args:
        pool: Knows the workers.
        health: Knows what they are doing, where they are watched.
        listeners: Know where they listen.
        reloads, upgrades: Know how the last one went.
        version: Of Pounce.
    """

    def __init__(
        self,
        pool: Pool,
        health: HealthWatch | None,
        listeners: ListenerGroup,
        reloads: ReloadCourse,
        upgrades: Upgrades,
        version: str,
    ) -> None:
        self._pool = pool
        self._health = health
        self._listeners = listeners
        self._reloads = reloads
        self._upgrades = upgrades
        self._version = version
        self._started_at = time.monotonic()

    def is_ready(self) -> bool:
        """Whether more requests are wanted: not any more from the moment a stop was asked for."""
        status = self._pool.snapshot()
        return status.phase == "running" and any(w.state == "ready" for w in status.workers)

    def report(self) -> Status:
        """The result of the command `status`."""
        now = time.monotonic()
        pool = self._pool.snapshot(now)
        return {
            "version": self._version,
            "pid": os.getpid(),
            "uptime": now - self._started_at,
            "addresses": [str(bound_address(each)) for each in self._listeners.addresses()],
            "workers_target": pool.target,
            "generation": pool.generation,
            "last_reload": self._reloads.last,
            "upgrading": self._upgrades.is_under_way,
            "last_upgrade": self._upgrades.last,
            "workers": [_row(worker, self._figures(worker)) for worker in pool.workers],
            "troubles": [_trouble(trouble) for trouble in pool.troubles],
        }

    def _figures(self, worker: WorkerStatus) -> Mapping[str, Any]:
        if self._health is None:
            return {}
        return self._health.figures(worker.worker_id, worker.in_flight)


def _row(worker: WorkerStatus, figures: Mapping[str, Any]) -> WorkerRow:
    row: WorkerRow = {
        "slot": worker.slot,
        "worker_id": worker.worker_id,
        "pid": worker.pid,
        "generation": worker.generation,
        "state": worker.state,
        "age": worker.age,
        "connections": worker.connections,
        "requests": worker.requests,
        "in_flight": worker.in_flight,
        "reason": worker.reason or None,
    }
    row.update(cast(WorkerRow, figures))
    return row


def _trouble(trouble: SlotTrouble) -> Trouble:
    return {
        "slot": trouble.slot,
        "failures": trouble.failures,
        "retry_in": trouble.retry_in,
        "reason": trouble.reason,
    }
