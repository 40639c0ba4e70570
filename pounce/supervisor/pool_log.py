"""What the pool reports, as log records."""

from __future__ import annotations

import logging

from pounce.supervisor.pool_events import (
    GaveUp,
    PoolEvent,
    PoolScaled,
    ReloadFailed,
    ReloadQueued,
    ReloadStarted,
    ReloadSucceeded,
    RespawnDelayed,
    SpawnFailed,
    WorkerExited,
    WorkerKilled,
    WorkerLost,
    WorkerReady,
    WorkerRecycled,
)

logger = logging.getLogger("pounce.error")


def log_event(event: PoolEvent) -> None:
    """Says what has happened, as loud as it matters to an operator."""
    match event:
        case WorkerReady():
            logger.info(
                "worker %d is ready (slot %d, generation %d, after %.2f s)",
                event.worker_id,
                event.slot,
                event.generation,
                event.boot_time,
            )
        case WorkerExited():
            level = logging.INFO if event.is_normal else logging.ERROR
            logger.log(level, "%s", event.detail)
        case SpawnFailed():
            logger.error("worker %d could not be started: %s", event.worker_id, event.reason)
        case WorkerKilled():
            logger.error("killing worker %d: %s", event.worker_id, event.reason)
        case WorkerLost():
            logger.error("worker %d (pid %s) does not end", event.worker_id, event.pid)
        case WorkerRecycled():
            logger.info(
                "worker %d is replaced by worker %d: %s",
                event.worker_id,
                event.successor,
                event.reason,
            )
        case RespawnDelayed():
            logger.warning(
                "slot %d failed %d times in a row; next attempt in %.1f s",
                event.slot,
                event.failures,
                event.delay,
            )
        case ReloadStarted():
            logger.info("reload: starting generation %d", event.generation)
        case ReloadQueued():
            logger.info("reload: another one is under way; this one follows")
        case ReloadSucceeded():
            logger.info(
                "reload: generation %d serves, after %.2f s", event.generation, event.seconds
            )
        case ReloadFailed():
            logger.error(
                "reload: generation %d failed, the one before goes on: %s",
                event.generation,
                event.reason,
            )
        case PoolScaled():
            logger.info("the pool has %d workers now, after %d", event.size, event.previous)
        case GaveUp():
            logger.critical("giving up: %s", event.reason)
