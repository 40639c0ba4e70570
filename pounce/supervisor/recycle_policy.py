"""When a worker that works is replaced.

A policy answers for one worker at a time and keeps no state, so that it can be exchanged at a
reload. What it needs to know of a worker is in the record. Reasons are labels: short, few, fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pounce.supervisor.health_policy import health_policies_of
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_record import WorkerRecord


class RecyclePolicy(Protocol):
    """Decides on READY workers; asked at each report of a worker and when `due` says so."""

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        """The reason to replace `worker`; None: it may stay."""

    def due(self, worker: WorkerRecord) -> float | None:
        """When the verdict will change by the passing of time alone; None: it will not."""


class MaxRequests:
    """Replaces a worker after `limit` requests, or up to `jitter` more."""

    def __init__(self, limit: int, jitter: int = 0) -> None:
        self._limit = limit
        self._jitter = jitter

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        limit = self._limit + round(self._jitter * worker.jitter)
        return "max_requests" if worker.requests >= limit else None

    def due(self, worker: WorkerRecord) -> float | None:
        return None


class MaxLifetime:
    """Replaces a worker that has been READY for `seconds`, or up to `jitter` longer."""

    def __init__(self, seconds: float, jitter: float = 0.0) -> None:
        self._seconds = seconds
        self._jitter = jitter

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        due = self.due(worker)
        return "max_lifetime" if due is not None and now >= due else None

    def due(self, worker: WorkerRecord) -> float | None:
        if worker.ready_at is None:
            return None
        return worker.ready_at + self._seconds + self._jitter * worker.jitter


def policies_of(settings: PoolSettings) -> Sequence[RecyclePolicy]:
    """The policies that the settings ask for, the first to be asked first."""
    policies: list[RecyclePolicy] = []
    if settings.max_requests:
        policies.append(MaxRequests(settings.max_requests, settings.max_requests_jitter))
    if settings.max_lifetime:
        policies.append(MaxLifetime(settings.max_lifetime, settings.max_lifetime_jitter))
    policies.extend(health_policies_of(settings))
    return policies
