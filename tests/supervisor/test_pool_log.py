"""How loud the log is about what happens to workers."""

from __future__ import annotations

import logging
import signal

import pytest

from pounce.supervisor.pool_events import (
    ExitReason,
    RecycleHeldBack,
    WorkerExited,
    WorkerKilled,
)
from pounce.supervisor.pool_log import log_event
from pounce.supervisor.worker_record import WorkerState


def exited(reason: ExitReason, exit_code: int) -> WorkerExited:
    return WorkerExited(
        worker_id=1,
        slot=0,
        generation=1,
        pid=10,
        state=WorkerState.READY,
        exit_code=exit_code,
        reason=reason,
        detail="it is gone",
    )


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (exited(ExitReason.DRAINED, 0), logging.INFO),
        # It was told so while it was starting.
        (exited(ExitReason.DRAINED, -signal.SIGTERM), logging.INFO),
        (exited(ExitReason.DRAINED, -signal.SIGSEGV), logging.ERROR),
        (exited(ExitReason.DRAINED, 1), logging.ERROR),
        (exited(ExitReason.KILLED, -signal.SIGKILL), logging.INFO),
        (exited(ExitReason.CRASH, 1), logging.ERROR),
        (exited(ExitReason.OUTSIDE, -signal.SIGKILL), logging.ERROR),
        (exited(ExitReason.BOOT_FAILURE, 3), logging.ERROR),
        (
            WorkerKilled(worker_id=1, slot=0, state=WorkerState.READY, reason="late"),
            logging.ERROR,
        ),
        (
            WorkerKilled(
                worker_id=1, slot=0, state=WorkerState.READY, reason="stop", is_asked_for=True
            ),
            logging.INFO,
        ),
    ],
)
def test_only_what_was_not_asked_for_is_an_error(
    event: WorkerExited | WorkerKilled, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "pounce.error"):
        log_event(event)
    assert [record.levelno for record in caplog.records] == [level]


@pytest.mark.parametrize(
    ("limit", "end"),
    [
        ("max_health_recycles", "max_health_recycles allows 2 within a minute"),
        ("max_concurrent_replacements", "max_concurrent_replacements allows 2 at once"),
    ],
)
def test_what_is_held_back_is_a_warning(
    limit: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    event = RecycleHeldBack(worker_id=3, slot=0, reason="max_rss", limit=limit, allowed=2)
    log_event(event)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("worker 3 should be replaced (max_rss), but has to wait")
    assert record.getMessage().endswith(end)
