from __future__ import annotations

import signal
from itertools import product

import pytest

from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_record import (
    TRANSITIONS,
    Step,
    WorkerRecord,
    WorkerState,
    describe_exit,
)


def make_worker(state: WorkerState) -> WorkerRecord:
    settings = PoolSettings(
        timeout_worker_boot=20, timeout_graceful_shutdown=30, drain_margin=5, kill_patience=10
    )
    return WorkerRecord(
        worker_id=1,
        slot=0,
        generation=1,
        settings=settings,
        spawned_at=0.0,
        jitter=0.0,
        state=state,
    )


def test_a_worker_goes_from_start_to_end() -> None:
    worker = make_worker(WorkerState.STARTING)
    states = []
    for step in (
        Step.SAID_PREPARED,
        Step.TOLD_TO_SERVE,
        Step.SAID_READY,
        Step.TOLD_TO_LEAVE,
        Step.KILLED,
        Step.EXITED,
    ):
        assert worker.move(step, 0.0)
        states.append(worker.state.value)
    assert states == ["prepared", "opening", "ready", "draining", "killed", "exited"]


def test_from_every_state_the_end_is_one_step_away() -> None:
    for state in WorkerState:
        worker = make_worker(state)
        assert worker.move(Step.EXITED, 0.0) is (state is not WorkerState.EXITED)


def test_nobody_comes_back() -> None:
    order = list(WorkerState)
    for (state, _), following in TRANSITIONS.items():
        assert order.index(following) > order.index(state)


def test_a_step_that_is_not_listed_changes_nothing() -> None:
    for state, step in product(WorkerState, Step):
        if (state, step) not in TRANSITIONS:
            worker = make_worker(state)
            worker.deadline = 7.0
            assert not worker.move(step, 100.0)
            assert worker.state is state
            assert worker.deadline == 7.0


@pytest.mark.parametrize(
    ("state", "step", "deadline"),
    [
        (WorkerState.STARTING, Step.SAID_PREPARED, None),
        (WorkerState.PREPARED, Step.TOLD_TO_SERVE, 120),
        (WorkerState.OPENING, Step.SAID_READY, None),
        (WorkerState.READY, Step.TOLD_TO_LEAVE, 135),
        (WorkerState.DRAINING, Step.KILLED, 110),
        (WorkerState.KILLED, Step.EXITED, None),
    ],
)
def test_each_state_has_its_deadline(
    state: WorkerState, step: Step, deadline: float | None
) -> None:
    worker = make_worker(state)
    assert worker.move(step, 100.0)
    assert worker.deadline == deadline


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (0, "exited with code 0"),
        (1, "exited with code 1"),
        (3, "exited with code 3 (startup failed)"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGKILL, "was killed by SIGKILL, perhaps for want of memory"),
        (-1000, "was killed by signal 1000"),
    ],
)
def test_an_exit_is_described(exit_code: int, text: str) -> None:
    assert describe_exit(exit_code) == text
