"""Whatever happens, in whatever order: the pool keeps its promises.

`World` checks after every input what must always hold. At the end all workers are healthy, and the
pool must come to rest where it was last told to be.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import settings as run_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pounce.supervisor.pool_events import (
    GaveUp,
    ReloadFailed,
    ReloadStarted,
    ReloadSucceeded,
    WorkerExited,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_health import HealthSample
from tests.supervisor.pool_world import FakeWorker, Stage, World

SETTINGS = st.builds(
    PoolSettings,
    workers=st.integers(1, 4),
    max_concurrent_replacements=st.integers(1, 3),
    timeout_worker_boot=st.sampled_from([5.0, 20.0]),
    timeout_graceful_shutdown=st.sampled_from([3.0, 30.0]),
    shutdown_delay=st.sampled_from([0.0, 7.0]),
    max_requests=st.sampled_from([0, 50]),
    max_lifetime=st.sampled_from([0.0, 40.0]),
    max_lifetime_jitter=st.just(10.0),
    max_rss=st.sampled_from([0, 1000]),
    max_health_recycles=st.sampled_from([0, 2]),
)
WHICH = st.integers(0, 11)
EXIT_CODES = st.sampled_from([0, 1, 3, -6, -9, -11, -15])


def has(wanted: Callable[[FakeWorker], bool]) -> Callable[[PoolMachine], bool]:
    """Whether there is such a worker."""
    return lambda machine: any(map(wanted, machine.world.workers.values()))


def is_spawning(worker: FakeWorker) -> bool:
    return worker.stage is Stage.SPAWNING


def is_booting(worker: FakeWorker) -> bool:
    return worker.stage is Stage.BOOTING


def may_open(worker: FakeWorker) -> bool:
    return worker.stage is Stage.PREPARED and worker.told_to_serve


def is_serving(worker: FakeWorker) -> bool:
    return worker.stage is Stage.SERVING


def was_told_to_leave(worker: FakeWorker) -> bool:
    return worker.told_to_leave or worker.killed


def anyone(worker: FakeWorker) -> bool:
    return True


class PoolMachine(RuleBasedStateMachine):
    @initialize(settings=SETTINGS, was_held=st.booleans(), has_served=st.booleans())
    def begin(self, settings: PoolSettings, was_held: bool, has_served: bool) -> None:
        self.world = World(settings, random=lambda: 0.5).start(held=was_held)
        if was_held:
            self.world.run(0)
            assert self.world.pool.is_prepared
            self.world.release()
        if has_served:
            self.world.run(0)

    def pick(self, wanted: Callable[[FakeWorker], bool], which: int) -> FakeWorker:
        workers = [worker for worker in self.world.workers.values() if wanted(worker)]
        return workers[which % len(workers)]

    # Workers

    @precondition(has(is_spawning))
    @rule(which=WHICH)
    def is_spawned(self, which: int) -> None:
        self.world.spawned(self.pick(is_spawning, which))

    @precondition(has(is_spawning))
    @rule(which=WHICH)
    def cannot_be_spawned(self, which: int) -> None:
        self.world.spawn_failed(self.pick(is_spawning, which))

    @precondition(has(is_booting))
    @rule(which=WHICH)
    def gets_prepared(self, which: int) -> None:
        self.world.prepared(self.pick(is_booting, which))

    @precondition(has(may_open))
    @rule(which=WHICH)
    def gets_ready(self, which: int) -> None:
        self.world.ready(self.pick(may_open, which))

    @precondition(has(is_serving))
    @rule(which=WHICH, requests=st.integers(0, 100))
    def reports(self, which: int, requests: int) -> None:
        self.world.reported(self.pick(is_serving, which), requests)

    @rule(rss=st.sampled_from([900, 1100]))
    def are_measured(self, rss: int) -> None:
        self.world.measured({each: HealthSample(rss=rss) for each in self.world.workers})

    @precondition(has(anyone))
    @rule(which=WHICH)
    def is_stalled(self, which: int) -> None:
        self.world.stalled(self.pick(anyone, which))

    @precondition(has(was_told_to_leave))
    @rule(which=WHICH)
    def leaves(self, which: int) -> None:
        self.world.exited(self.pick(was_told_to_leave, which))

    @precondition(has(anyone))
    @rule(which=WHICH, exit_code=EXIT_CODES)
    def dies(self, which: int, exit_code: int) -> None:
        self.world.exited(self.pick(anyone, which), exit_code)

    @rule()
    def all_do_what_they_should(self) -> None:
        self.world.run(0)

    @rule(worker_id=st.integers(0, 30), exit_code=EXIT_CODES)
    def messages_of_the_gone(self, worker_id: int, exit_code: int) -> None:
        pool, now = self.world.pool, self.world.now
        if worker_id in self.world.workers:
            return
        self.world.do(pool.tick(now))  # what has become due by the time that has passed
        before = pool.snapshot(now)
        self.world.do(pool.spawned(worker_id, 99, now))
        self.world.do(pool.prepared(worker_id, now))
        self.world.do(pool.ready(worker_id, now))
        self.world.do(pool.reported(worker_id, 1000, 1, 1, now))
        self.world.do(pool.measured({worker_id: HealthSample(rss=10**6)}, now))
        self.world.do(pool.stalled(worker_id, now))
        self.world.do(pool.spawn_failed(worker_id, "late", now))
        self.world.do(pool.exited(worker_id, exit_code, now))
        assert pool.snapshot(now) == before

    @precondition(has(anyone))
    @rule(which=WHICH)
    def messages_told_twice(self, which: int) -> None:
        pool, now = self.world.pool, self.world.now
        self.world.do(pool.tick(now))
        worker = self.pick(anyone, which)
        before = pool.snapshot(now)
        if worker.stage is not Stage.SPAWNING:
            self.world.do(pool.spawned(worker.worker_id, 99, now))
        if worker.stage in (Stage.PREPARED, Stage.SERVING):
            self.world.do(pool.prepared(worker.worker_id, now))
        if worker.stage is Stage.SERVING:
            self.world.do(pool.ready(worker.worker_id, now))
        assert pool.snapshot(now) == before

    # Time and orders

    @rule(seconds=st.sampled_from([0.1, 0.6, 5.0, 21.0, 36.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(settings=st.none() | SETTINGS)
    def reload(self, settings: PoolSettings | None) -> None:
        self.world.reload(settings)

    @rule(size=st.integers(0, 5))
    def scale(self, size: int) -> None:
        self.world.scale(size)

    @rule(slot=st.integers(0, 5))
    def restart(self, slot: int) -> None:
        self.world.restart(slot)

    @rule(rarely=WHICH)
    def drain_all(self, rarely: int) -> None:
        if rarely == 0:
            self.world.drain_all()

    @rule(rarely=WHICH, graceful=st.booleans())
    def stop(self, rarely: int, graceful: bool) -> None:
        if rarely == 0 or self.world.is_stopped:
            self.world.stop(graceful)

    @rule(rarely=WHICH)
    def leave(self, rarely: int) -> None:
        if rarely == 0:
            self.world.leave()

    # In the end

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.run(600)
        if not world.is_stopped:
            self.check_rest()
            world.stop()
            world.run(600)
        assert not world.workers
        assert world.pool.exit_code == (3 if world.of(GaveUp) else 0)
        ended = {event.worker_id for event in world.of(WorkerExited)}
        assert len(ended) == len(world.of(WorkerExited))

    def check_rest(self) -> None:
        """Healthy workers, and time enough: the pool is what it is to be."""
        world = self.world
        snapshot = world.pool.snapshot()
        assert snapshot.reload_under_way is None
        assert not snapshot.reload_queued
        successes = [event.generation for event in world.of(ReloadSucceeded)]
        failures = [event.generation for event in world.of(ReloadFailed)]
        begun = [event.generation for event in world.of(ReloadStarted)]
        assert sorted(successes + failures) == begun
        assert snapshot.generation == max([1, *successes])
        assert world.open_slots == set(range(snapshot.target))
        if snapshot.phase == "parked":
            assert not world.workers
            return
        assert snapshot.phase == "running"
        assert not snapshot.troubles
        assert [w.slot for w in snapshot.workers] == list(range(snapshot.target))
        assert {(w.state, w.generation) for w in snapshot.workers} == {
            ("ready", snapshot.generation)
        }


TestPool = PoolMachine.TestCase
TestPool.settings = run_settings(max_examples=100, stateful_step_count=40)
