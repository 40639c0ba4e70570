from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.supervisor.health_policy import (
    HEALTH_REASONS,
    WORKER_STALL,
    HealthPolicy,
    MaxErrorRate,
    MaxOpenFds,
    MaxRss,
    MaxRssGrowth,
    MaxStuckThreads,
    health_policies_of,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_health import HealthSample, WorkerHealth
from pounce.supervisor.worker_record import WorkerRecord, WorkerState


def make_worker(**settings: Any) -> WorkerRecord:
    return WorkerRecord(
        worker_id=1,
        slot=0,
        generation=1,
        settings=PoolSettings(**settings),
        spawned_at=90.0,
        jitter=0.5,
        state=WorkerState.READY,
        ready_at=100.0,
    )


def verdict(policy: HealthPolicy, sample: HealthSample, **settings: Any) -> str | None:
    worker = make_worker(**settings)
    worker.measured(sample, 100)
    assert policy.due(worker) is None
    return policy.verdict(worker, 100)


EVERY_POLICY = [
    MaxRss(1),
    MaxRssGrowth(1),
    MaxErrorRate(1, 1),
    MaxOpenFds(1),
    MaxStuckThreads(1),
]


@pytest.mark.parametrize("policy", EVERY_POLICY, ids=lambda policy: type(policy).__name__)
def test_what_is_not_known_is_no_reason(policy: HealthPolicy) -> None:
    assert policy.verdict(make_worker(), 1e9) is None
    assert verdict(policy, HealthSample()) is None


def test_memory_may_reach_its_limit() -> None:
    assert verdict(MaxRss(1000), HealthSample(rss=1000)) is None
    assert verdict(MaxRss(1000), HealthSample(rss=1001)) == "max_rss"


def test_growth_counts_from_when_the_worker_has_settled() -> None:
    worker = make_worker(rss_settle_time=10)
    policy = MaxRssGrowth(500)
    for now, rss, expected in [
        (100, 1000, None),
        (109, 9000, None),
        (110, 2000, None),
        (111, 2500, None),
        (112, 2501, "max_rss_growth"),
        (113, 2400, None),
    ]:
        worker.measured(HealthSample(rss=rss), now)
        assert policy.verdict(worker, now) == expected, now


def test_errors_count_above_their_share_of_enough_responses() -> None:
    policy = MaxErrorRate(10, min_requests=20)
    worker = make_worker(error_rate_window=60)
    worker.measured(HealthSample(), 100)
    for answers, errors, expected in [
        (19, 19, None),
        (20, 2, None),
        (20, 3, "max_error_rate"),
        (100, 10, None),
        (100, 11, "max_error_rate"),
    ]:
        worker.measured(HealthSample(answers=answers, errors=errors), 101)
        assert policy.verdict(worker, 101) == expected, (answers, errors)


def test_errors_are_forgotten_when_they_leave_the_window() -> None:
    policy = MaxErrorRate(50, min_requests=5)
    worker = make_worker(error_rate_window=60)
    worker.measured(HealthSample(answers=10, errors=10), 100)
    assert policy.verdict(worker, 100) == "max_error_rate"
    for second in range(101, 159):
        worker.measured(HealthSample(answers=10 + second - 100, errors=10), second)
    worker.measured(HealthSample(answers=80, errors=10), 161)
    assert policy.verdict(worker, 161) is None
    assert worker.health.errors == 0
    assert 50 < worker.health.answers <= 70


def test_descriptors_count_against_the_limit_of_the_worker() -> None:
    assert verdict(MaxOpenFds(80), HealthSample(open_fds=80, fd_limit=100)) is None
    assert verdict(MaxOpenFds(80), HealthSample(open_fds=81, fd_limit=100)) == "max_open_fds"
    assert verdict(MaxOpenFds(80), HealthSample(open_fds=1000)) is None


def test_stuck_threads_count_from_their_limit_on() -> None:
    assert verdict(MaxStuckThreads(2), HealthSample(stuck_threads=1)) is None
    assert verdict(MaxStuckThreads(2), HealthSample(stuck_threads=2)) == "max_stuck_threads"


def test_the_settings_say_which_policies_there_are() -> None:
    assert not health_policies_of(PoolSettings())
    settings = PoolSettings(
        max_rss=1, max_rss_growth=1, max_error_rate=1, max_open_fds=1, max_stuck_threads=1
    )
    assert [type(each) for each in health_policies_of(settings)] == [
        type(each) for each in EVERY_POLICY
    ]


def test_every_reason_is_rationed() -> None:
    sample = HealthSample(rss=10, open_fds=10, fd_limit=10, answers=10, errors=10, stuck_threads=10)
    worker = make_worker(rss_settle_time=0)
    worker.measured(HealthSample(rss=1), 100)
    worker.measured(sample, 200)
    reasons = [policy.verdict(worker, 200) for policy in EVERY_POLICY]
    assert (*reasons, WORKER_STALL) == HEALTH_REASONS


@given(
    steps=st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 50), st.integers(0, 5))),
    window=st.floats(1, 120),
)
def test_a_window_holds_what_was_answered_in_it(
    steps: list[tuple[float, int, int]], window: float
) -> None:
    health = WorkerHealth()
    health.note(HealthSample(), 0.0, settled=False, window=window)
    now, answers, errors = 0.0, 0, 0
    history = [(now, answers, errors)]
    for seconds, more, bad in steps:
        now, answers, errors = now + seconds, answers + more + bad, errors + bad
        history.append((now, answers, errors))
        sample = HealthSample(answers=answers, errors=errors)
        health.note(sample, now, settled=False, window=window)
        # Nothing newer than the window is left out, and what is older by more than one step and
        # the time since the sample before it does not count.
        at_least = [h for h in history if h[0] <= now - window] or history[:1]
        assert health.answers >= answers - max(h[1] for h in history if h[0] <= at_least[-1][0])
        assert 0 <= health.errors <= health.answers
        assert len(health._window) <= 64
