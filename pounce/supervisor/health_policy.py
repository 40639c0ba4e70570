"""When a worker is replaced for its health.

The policies are like those of `recycle_policy`, and judge what was measured last. What they ask for
is rationed, see `health_limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_record import WorkerRecord

WORKER_STALL: Final = "worker_stall"

HEALTH_REASONS: Final = (
    "max_rss",
    "max_rss_growth",
    "max_error_rate",
    "max_open_fds",
    "max_stuck_threads",
    WORKER_STALL,
)
"""Reasons to replace a worker that are rationed."""


class HealthPolicy:
    """Judges the latest sample, so that time alone changes nothing."""

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        """See `RecyclePolicy`."""
        raise NotImplementedError

    def due(self, worker: WorkerRecord) -> float | None:
        """See `RecyclePolicy`."""
        return None


class MaxRss(HealthPolicy):
    """Replaces a worker whose resident memory is more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        rss = worker.health.sample.rss
        return "max_rss" if rss is not None and rss > self._limit else None


class MaxRssGrowth(HealthPolicy):
    """Replaces a worker that has grown by more than `limit` bytes since it settled."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        rss, settled = worker.health.sample.rss, worker.health.settled_rss
        if rss is None or settled is None:
            return None
        return "max_rss_growth" if rss - settled > self._limit else None


class MaxErrorRate(HealthPolicy):
    """Replaces a worker that answers more than `percent` of its requests with 5xx, once it has
    answered `min_requests` within the window."""

    def __init__(self, percent: int, min_requests: int) -> None:
        self._percent = percent
        self._min_requests = min_requests

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        answers, errors = worker.health.answers, worker.health.errors
        if answers < max(1, self._min_requests):
            return None
        return "max_error_rate" if 100 * errors > self._percent * answers else None


class MaxOpenFds(HealthPolicy):
    """Replaces a worker that has more than `percent` of its file descriptors open."""

    def __init__(self, percent: int) -> None:
        self._percent = percent

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        sample = worker.health.sample
        if sample.open_fds is None or sample.fd_limit is None:
            return None
        is_above = 100 * sample.open_fds > self._percent * sample.fd_limit
        return "max_open_fds" if is_above else None


class MaxStuckThreads(HealthPolicy):
    """Replaces a worker that has `limit` stuck threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def verdict(self, worker: WorkerRecord, now: float) -> str | None:
        is_reached = worker.health.sample.stuck_threads >= self._limit
        return "max_stuck_threads" if is_reached else None


def health_policies_of(settings: PoolSettings) -> Sequence[HealthPolicy]:
    """The policies that the settings ask for, the first to be asked first."""
    policies: list[HealthPolicy] = []
    if settings.max_rss:
        policies.append(MaxRss(settings.max_rss))
    if settings.max_rss_growth:
        policies.append(MaxRssGrowth(settings.max_rss_growth))
    if settings.max_error_rate:
        policies.append(MaxErrorRate(settings.max_error_rate, settings.error_rate_min_requests))
    if settings.max_open_fds:
        policies.append(MaxOpenFds(settings.max_open_fds))
    if settings.max_stuck_threads:
        policies.append(MaxStuckThreads(settings.max_stuck_threads))
    return policies
