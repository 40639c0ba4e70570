from __future__ import annotations

import signal
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.supervisor.crash_policy import CrashBackoff, RespawnBudget, exit_reason
from pounce.supervisor.pool_events import ExitReason
from pounce.supervisor.pool_settings import CrashSettings
from pounce.supervisor.worker_record import WorkerState

SETTINGS = CrashSettings()


def make_backoff(settings: CrashSettings = SETTINGS, random: float = 0.0) -> CrashBackoff:
    return CrashBackoff(settings, RespawnBudget(settings), lambda: random)


def test_the_first_crash_is_answered_at_once_and_further_ones_wait_longer_and_longer() -> None:
    backoff = make_backoff()
    delays = [backoff.failed(now) for now in range(10)]
    assert delays == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_jitter_takes_up_to_half_of_a_delay_away() -> None:
    backoff = make_backoff(random=0.5)
    assert [backoff.failed(0) for _ in range(4)] == [0, 0.375, 0.75, 1.5]


def test_a_worker_that_was_ready_for_a_minute_has_the_crashes_forgotten() -> None:
    backoff = make_backoff()
    for _ in range(5):
        backoff.failed(0)
    backoff.became_ready(10)
    assert backoff.failed(69.9) == 8  # not quite a minute
    backoff.became_ready(100)
    assert backoff.failed(160) == 0
    assert backoff.failures == 1


def test_a_worker_that_goes_on_serving_forgives_its_successors_once() -> None:
    backoff = make_backoff()
    backoff.failed(0)
    backoff.became_ready(1)
    assert backoff.failed(1000) == 0
    assert backoff.failed(2000) == 0.5  # the same worker still serves
    assert backoff.failed(3000) == 1


def test_an_end_from_outside_is_no_crash_while_there_is_budget() -> None:
    settings = CrashSettings(budget=3, budget_per_second=1)
    backoff = make_backoff(settings)
    assert [backoff.failed(0, from_outside=True) for _ in range(3)] == [0, 0, 0]
    assert backoff.failures == 0
    assert backoff.failed(0, from_outside=True) == 0.5
    assert backoff.failed(1, from_outside=True) == 0


def test_a_kill_every_second_is_answered_at_once_for_ever() -> None:
    backoff = make_backoff()
    assert not any(backoff.failed(second, from_outside=True) for second in range(600))


def test_the_budget_is_shared_by_the_slots() -> None:
    settings = CrashSettings(budget=2, budget_per_second=0.5)
    budget = RespawnBudget(settings)
    slots = [CrashBackoff(settings, budget, lambda: 0.0) for _ in range(4)]
    assert [slot.failed(0) for slot in slots] == [0, 0, 0.5, 0.5]
    late = CrashBackoff(settings, budget, lambda: 0.0)
    assert late.failed(2) == 0


def test_the_budget_holds_no_more_than_its_capacity() -> None:
    budget = RespawnBudget(CrashSettings(budget=2, budget_per_second=1))
    assert [budget.take(0), budget.take(0), budget.take(0)] == [True, True, False]
    assert [budget.take(1000), budget.take(1000), budget.take(1000)] == [True, True, False]


@given(failures=st.integers(1, 3000), seed=st.integers())
def test_delays_stay_in_their_bounds(failures: int, seed: int) -> None:
    backoff = CrashBackoff(SETTINGS, RespawnBudget(SETTINGS), Random(seed).random)
    backoff.failures = failures
    delay = backoff.failed(0)
    assert SETTINGS.delay_base / 2 <= delay <= SETTINGS.delay_ceiling


@pytest.mark.parametrize(
    ("state", "exit_code", "reason"),
    [
        (WorkerState.STARTING, 0, ExitReason.BOOT_FAILURE),
        (WorkerState.STARTING, -signal.SIGKILL, ExitReason.BOOT_FAILURE),
        (WorkerState.PREPARED, 0, ExitReason.BOOT_FAILURE),
        (WorkerState.OPENING, 1, ExitReason.BOOT_FAILURE),
        (WorkerState.READY, 1, ExitReason.CRASH),
        (WorkerState.READY, -signal.SIGSEGV, ExitReason.CRASH),
        (WorkerState.READY, 0, ExitReason.OUTSIDE),
        (WorkerState.READY, -signal.SIGKILL, ExitReason.OUTSIDE),
        (WorkerState.READY, -signal.SIGTERM, ExitReason.OUTSIDE),
        (WorkerState.DRAINING, 1, ExitReason.DRAINED),
        (WorkerState.DRAINING, -signal.SIGSEGV, ExitReason.DRAINED),
        (WorkerState.KILLED, -signal.SIGKILL, ExitReason.KILLED),
    ],
)
def test_the_reason_of_an_exit(state: WorkerState, exit_code: int, reason: ExitReason) -> None:
    assert exit_reason(state, exit_code) is reason
