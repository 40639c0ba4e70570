"""What the pool reports, as log records."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from pounce.metrics.catalogue import BLACK_BOX_TICK
from pounce.shm.black_box import BlackBoxRecord
from pounce.supervisor.pool_events import (
    GaveUp,
    PoolEvent,
    PoolScaled,
    RecycleHeldBack,
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
            level = logging.INFO if event.is_asked_for else logging.ERROR
            logger.log(level, "killing worker %d: %s", event.worker_id, event.reason)
        case WorkerLost():
            logger.error("worker %d (pid %s) does not end", event.worker_id, event.pid)
        case WorkerRecycled():
            logger.info(
                "worker %d is replaced by worker %d: %s",
                event.worker_id,
                event.successor,
                event.reason,
            )
        case RecycleHeldBack():
            logger.warning(
                "worker %d should be replaced (%s), but has to wait, and so have others: "
                "%s allows %d %s",
                event.worker_id,
                event.reason,
                event.limit,
                event.allowed,
                "within a minute" if event.limit == "max_health_recycles" else "at once",
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


def log_in_flight(
    worker_id: int, records: Sequence[BlackBoxRecord], *, is_asked_for: bool = False
) -> None:
    """Says what a worker that has ended was working on, in one entry.

    Args:
        worker_id: Its number.
        records: What it left.
        is_asked_for: Whether an operator wanted no patience.
    """
    requests = in_flight_lines(records)
    if requests:
        logger.log(
            logging.WARNING if is_asked_for else logging.ERROR,
            "worker %d left %d requests unanswered:\n%s",
            worker_id,
            len(requests),
            "\n".join(requests),
            extra={"requests": requests},
        )
    if len(requests) < len(records):
        # A moment later they would have been.
        logger.warning(
            "worker %d left %d requests that it had answered, but not counted",
            worker_id,
            len(records) - len(requests),
        )


def log_stall(
    worker_id: int, seconds: float, records: Sequence[BlackBoxRecord], stacks: str
) -> None:
    """Says what a worker is doing whose event loop is blocked, in one entry.

    Args:
        worker_id: Its number.
        seconds: For how long.
        records: The requests in flight.
        stacks: Of its threads, as far as there are any.
    """
    requests = in_flight_lines(records)
    logger.error(
        "worker %d: its event loop has been blocked for %.1f s\nrequests in flight: %d\n%s%s",
        worker_id,
        seconds,
        len(requests),
        "".join(f"  {line}\n" for line in requests),
        stacks.rstrip() or "no stacks: the process does not react to signals",
        extra={"requests": requests, "stacks": stacks, "seconds": round(seconds, 3)},
    )


def in_flight_lines(records: Sequence[BlackBoxRecord]) -> list[str]:
    """A line for each request that is not answered: method, target, client, and for how long."""
    now = time.monotonic_ns()
    return [
        f"{record.text.decode('latin-1')}, for {(now - record.stamp * BLACK_BOX_TICK) / 1e9:.2f} s"
        for record in records
        if record.stamp > 0
    ]
