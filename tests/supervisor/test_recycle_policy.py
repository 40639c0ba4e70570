from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.recycle_policy import MaxLifetime, MaxRequests, policies_of
from pounce.supervisor.worker_record import WorkerRecord, WorkerState


def make_worker(
    *, requests: int = 0, ready_at: float | None = 100.0, jitter: float = 0.0
) -> WorkerRecord:
    return WorkerRecord(
        worker_id=1,
        slot=0,
        generation=1,
        settings=PoolSettings(),
        spawned_at=90.0,
        jitter=jitter,
        state=WorkerState.READY,
        ready_at=ready_at,
        requests=requests,
    )


def test_max_requests_counts_the_requests_served() -> None:
    policy = MaxRequests(100)
    assert policy.verdict(make_worker(requests=99), 1e9) is None
    assert policy.verdict(make_worker(requests=100), 0) == "max_requests"
    assert policy.due(make_worker(requests=100)) is None


def test_jitter_lets_a_worker_serve_more_requests() -> None:
    policy = MaxRequests(100, jitter=50)
    assert policy.verdict(make_worker(requests=124, jitter=0.5), 0) is None
    assert policy.verdict(make_worker(requests=125, jitter=0.5), 0) == "max_requests"


def test_max_lifetime_counts_from_ready() -> None:
    policy = MaxLifetime(60)
    worker = make_worker(ready_at=100)
    assert policy.due(worker) == 160
    assert policy.verdict(worker, 159.9) is None
    assert policy.verdict(worker, 160) == "max_lifetime"


def test_jitter_lets_a_worker_live_longer() -> None:
    worker = make_worker(ready_at=100, jitter=0.5)
    assert MaxLifetime(60, jitter=30).due(worker) == 175


def test_a_worker_that_is_not_ready_has_no_age() -> None:
    policy = MaxLifetime(60)
    assert policy.due(make_worker(ready_at=None)) is None
    assert policy.verdict(make_worker(ready_at=None), 1e9) is None


@given(limit=st.integers(1, 10**9), jitter=st.integers(0, 10**9), luck=st.floats(0, 1))
def test_the_limit_with_jitter_is_within_its_bounds(limit: int, jitter: int, luck: float) -> None:
    policy = MaxRequests(limit, jitter)
    assert policy.verdict(make_worker(requests=limit - 1, jitter=luck), 0) is None
    assert policy.verdict(make_worker(requests=limit + jitter, jitter=luck), 0) is not None


@given(
    seconds=st.floats(0.1, 1e6),
    jitter=st.floats(0, 1e6),
    luck=st.floats(0, 1),
    ready_at=st.floats(0, 1e9),
)
def test_the_verdict_changes_exactly_when_it_is_due(
    seconds: float, jitter: float, luck: float, ready_at: float
) -> None:
    policy = MaxLifetime(seconds, jitter)
    worker = make_worker(ready_at=ready_at, jitter=luck)
    due = policy.due(worker)
    assert due is not None
    assert policy.verdict(worker, due) is not None


def test_settings_of_zero_ask_for_no_policy() -> None:
    assert not policies_of(PoolSettings())
    assert not policies_of(PoolSettings(max_requests_jitter=5, max_lifetime_jitter=5))
    settings = PoolSettings(max_requests=10, max_lifetime=10)
    assert [type(policy) for policy in policies_of(settings)] == [MaxRequests, MaxLifetime]
