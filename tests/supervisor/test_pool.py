"""What the pool does, promise by promise."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from pounce.errors import ConfigError
from pounce.supervisor.actions import OpenSlot, Signal, Spawn, TellDrain, TellServe
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_events import (
    ExitReason,
    GaveUp,
    RespawnDelayed,
    SpawnFailed,
    WorkerExited,
    WorkerKilled,
    WorkerLost,
    WorkerReady,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_record import WorkerState
from tests.supervisor.pool_world import Health, World, make_settings, prepare, running

# Starting


def test_at_the_start_every_slot_is_opened_and_gets_a_worker_at_once() -> None:
    world = World(make_settings(3)).start()
    assert world.actions == [
        OpenSlot(0),
        OpenSlot(1),
        OpenSlot(2),
        Spawn(1, 0, 1),
        Spawn(2, 1, 1),
        Spawn(3, 2, 1),
    ]


def test_a_worker_is_told_to_serve_when_it_is_prepared() -> None:
    world = World(make_settings(2)).start()
    world.spawned(world.worker(1))
    assert TellServe(1) not in world.actions
    world.prepared(world.worker(1))
    assert world.latest() == TellServe(1)
    assert world.states() == {1: "opening", 2: "starting"}
    world.wait(3)
    world.ready(world.worker(1))
    assert world.states()[1] == "ready"
    assert world.of(WorkerReady) == [WorkerReady(worker_id=1, slot=0, generation=1, boot_time=3.0)]


def test_starting_twice_starts_nothing_twice() -> None:
    world = World(make_settings()).start()
    world.start()
    assert len(world.workers) == 2


def test_nothing_happens_before_the_start() -> None:
    pool = Pool(make_settings())
    assert pool.tick(0) == pool.reload(1) == pool.scale(5, 2) == pool.restart(0, 3) == []
    assert pool.next_deadline(4) is None
    assert pool.exit_code is None
    assert pool.snapshot().phase == "new"


def test_a_stop_before_the_start_is_the_end() -> None:
    pool = Pool(make_settings())
    assert pool.stop(0, graceful=True) == []
    assert pool.exit_code == 0


def test_a_startup_that_fails_ends_a_pool_that_never_served() -> None:
    world = World(make_settings(2)).start()
    world.spawned(world.worker(1))
    world.spawned(world.worker(2))
    world.exited(world.worker(1), 3, "LifespanError: no database")
    reason = "worker 1 (pid 10001) exited with code 3 (startup failed): LifespanError: no database"
    assert world.of(GaveUp) == [GaveUp(reason=reason, exit_code=3)]
    assert Signal(2, signal.SIGTERM) in world.actions
    assert world.pool.exit_code is None
    world.run(0)
    assert world.pool.exit_code == 3


def test_the_third_crash_at_boot_ends_a_pool_that_never_served() -> None:
    world = World(make_settings(1), lambda spawn: Health(boot_exit=-signal.SIGSEGV)).start()
    world.run(60)
    assert len(world.of(WorkerExited)) == 3
    assert len(world.of(GaveUp)) == 1
    assert world.pool.exit_code == 3


def test_workers_that_cannot_be_spawned_end_a_pool_that_never_served() -> None:
    world = World(make_settings(1), lambda spawn: Health(spawn_error="EAGAIN")).start().run(60)
    assert world.of(SpawnFailed)[0].reason == "EAGAIN"
    assert world.of(GaveUp)[0].reason == "worker 3 could not be spawned: EAGAIN"
    assert world.pool.exit_code == 3


def test_workers_that_hang_at_boot_end_a_pool_that_never_served() -> None:
    world = World(make_settings(4), lambda spawn: Health(hangs_at_boot=True)).start().run(60)
    assert world.of(GaveUp)[0].reason.endswith("was not prepared within 20 s")
    assert world.pool.exit_code == 3
    assert not world.workers


def test_one_worker_that_fails_at_boot_does_not_stop_its_siblings() -> None:
    world = World(make_settings(2), lambda spawn: Health(boot_exit=3 if spawn.slot == 1 else None))
    world.start()
    world.spawned(world.worker(1))
    world.prepared(world.worker(1))
    world.ready(world.worker(1))
    world.run(3600)
    assert world.serving() == {0: (1, 1)}
    assert world.pool.exit_code is None
    assert world.pool.snapshot().restarts > 100
    delays = [event.delay for event in world.of(RespawnDelayed)]
    assert delays[:7] == [0.5, 1, 2, 4, 8, 16, 30]
    assert set(delays[7:]) == {30}


# Deadlines


def test_a_worker_that_hangs_while_booting_is_killed_and_started_again() -> None:
    world = running(make_settings(1))
    world.exited(world.worker(1), 1)
    world.spawned(world.worker(2))
    world.wait(19.9)
    assert world.states() == {2: "starting"}
    world.wait(0.1)
    assert world.states() == {2: "killed"}
    assert world.actions[-2] == Signal(2, signal.SIGKILL)
    assert world.of(WorkerKilled) == [
        WorkerKilled(
            worker_id=2,
            slot=0,
            state=WorkerState.STARTING,
            reason="not prepared within 20 s",
        )
    ]
    assert world.of(RespawnDelayed)[0].reason == "worker 2 (pid 10002) was not prepared within 20 s"
    world.run(1)
    assert world.serving() == {0: (3, 1)}


def test_a_worker_that_never_gets_ready_after_it_was_told_to_serve_is_killed() -> None:
    world = running(make_settings(1))
    world.exited(world.worker(1), 1)
    prepare(world, 2)
    world.wait(20)
    assert world.of(WorkerKilled)[0].state is WorkerState.OPENING
    assert world.of(WorkerKilled)[0].reason == "not ready within 20 s"


def test_a_worker_that_ignores_its_drain_is_killed_when_its_time_and_the_margin_are_over() -> None:
    world = running(make_settings(2))
    world.scale(1)
    assert world.latest() == TellDrain(2, True, 30)
    world.wait(34.9)
    assert world.states()[2] == "draining"
    world.wait(0.1)
    assert world.latest() == Signal(2, signal.SIGKILL)
    assert world.of(WorkerKilled)[0].state is WorkerState.DRAINING
    world.exited(world.worker(2), -signal.SIGKILL)
    assert world.of(WorkerExited)[0].reason is ExitReason.KILLED
    assert len(world.workers) == 1


def test_a_worker_whose_end_is_never_seen_is_written_off() -> None:
    world = running(make_settings(2))
    world.scale(1)
    world.wait(45)
    assert world.of(WorkerLost) == [WorkerLost(worker_id=2, slot=1, pid=10002)]
    assert world.states() == {1: "ready"}
    assert world.pool.exited(2, -signal.SIGKILL, world.now) == []


def test_a_worker_is_killed_as_soon_as_its_pid_is_known() -> None:
    world = running(make_settings(1))
    world.exited(world.worker(1), 1)
    world.wait(25)  # its spawn is still not answered
    assert Signal(2, signal.SIGKILL) not in world.actions
    assert world.states() == {2: "killed", 3: "starting"}
    world.spawned(world.worker(2))
    assert world.latest() == Signal(2, signal.SIGKILL)
    world.wait(10)
    assert world.of(WorkerLost)


# Crashes


def test_the_first_crash_is_answered_at_once_and_further_ones_later_and_later() -> None:
    world = running(make_settings(2))
    waits = []
    for _ in range(5):
        crashed_at = world.now
        world.exited(world.worker(world.serving()[0][0]), -signal.SIGSEGV)
        while 0 not in world.serving():
            world.run(0.25)
        waits.append(world.now - crashed_at)
    assert waits == [0.25, 0.5, 1, 2, 4]
    assert world.pool.snapshot().restarts == 5
    assert world.serving()[1] == (2, 1)


def test_a_worker_that_was_ready_for_a_minute_is_replaced_at_once_again() -> None:
    world = running(make_settings(1))
    for _ in range(10):
        world.exited(world.worker(world.serving()[0][0]), 1)
        world.run(60)
    assert not world.of(RespawnDelayed)


def test_a_kill_every_second_is_answered_at_once() -> None:
    world = running(make_settings(4))
    for second in range(60):
        world.exited(world.worker(world.serving()[second % 4][0]), -signal.SIGKILL)
        world.run(1)
        assert len(world.serving()) == 4
    assert not world.of(RespawnDelayed)
    assert world.of(WorkerExited)[0].reason is ExitReason.OUTSIDE


def test_a_slot_that_waits_for_its_backoff_shows_why() -> None:
    world = running(make_settings(1))
    for worker_id in (1, 2):
        world.exited(world.worker(worker_id), 1)
    world.wait(0.2)
    (trouble,) = world.pool.snapshot(world.now).troubles
    assert (trouble.slot, trouble.failures) == (0, 2)
    assert trouble.retry_in == pytest.approx(0.3)
    assert trouble.reason == "worker 2 exited with code 1"
    assert world.pool.next_deadline(world.now) == pytest.approx(world.now + 0.3)
    world.run(1)
    assert not world.pool.snapshot().troubles


def test_an_exit_tells_how_and_in_which_state() -> None:
    world = running(make_settings(1))
    world.exited(world.worker(1), 70, "out of luck")
    assert world.of(WorkerExited) == [
        WorkerExited(
            worker_id=1,
            slot=0,
            generation=1,
            pid=10001,
            state=WorkerState.READY,
            exit_code=70,
            reason=ExitReason.CRASH,
            detail="worker 1 (pid 10001) exited with code 70: out of luck",
        )
    ]


def test_an_abnormal_end_of_a_worker_that_drains_is_told_but_is_no_crash() -> None:
    world = running(make_settings(2))
    world.scale(1)
    world.exited(world.worker(2), -signal.SIGSEGV)
    (event,) = world.of(WorkerExited)
    assert event.reason is ExitReason.DRAINED
    assert not event.is_normal
    assert world.pool.snapshot().restarts == 0
    assert not world.pool.snapshot().troubles


# What crosses on its way


def test_messages_of_workers_that_are_gone_or_never_were_are_nothing() -> None:
    world = running(make_settings(2))
    world.exited(world.worker(1), 1)
    pool, now = world.pool, world.now
    before = pool.snapshot()
    for worker_id in (1, 99, -1):
        assert pool.spawned(worker_id, 5, now) == []
        assert pool.spawn_failed(worker_id, "late", now) == []
        assert pool.prepared(worker_id, now) == []
        assert pool.ready(worker_id, now) == []
        assert pool.reported(worker_id, 1, 1, 1, now) == []
        assert pool.exited(worker_id, 0, now) == []
    assert pool.restart(99, now) == []
    assert pool.snapshot() == before


def test_messages_told_twice_or_out_of_turn_are_nothing() -> None:
    world = World(make_settings(1)).start()
    pool, now = world.pool, world.now
    assert pool.ready(1, now) == []
    assert world.states() == {1: "starting"}
    prepare(world, 1)
    assert pool.prepared(1, now) == []
    assert pool.spawned(1, 777, now) == []
    assert pool.snapshot().workers[0].pid == 10001
    world.ready(world.worker(1))
    assert pool.ready(1, now) == pool.prepared(1, now) == []
    assert world.states() == {1: "ready"}


def test_time_does_not_go_back() -> None:
    world = running(make_settings(1))
    world.pool.tick(world.now + 50)
    world.pool.exited(1, 1, world.now)
    (worker,) = world.pool.snapshot().workers
    assert world.pool.next_deadline(world.now) == world.now + 50 + 20
    assert worker.age == 0


def test_a_worker_that_is_prepared_before_its_spawn_is_told() -> None:
    world = World(make_settings(1)).start()
    assert world.pool.prepared(1, world.now) == [TellServe(1)]
    assert world.pool.spawned(1, 4711, world.now) == []
    world.pool.ready(1, world.now)
    assert world.pool.snapshot().workers[0].pid == 4711


# Looking


def test_the_snapshot_shows_every_worker() -> None:
    world = running(make_settings(2))
    world.wait(5)
    world.reported(world.worker(1), 42)
    world.restart(0)
    snapshot = world.pool.snapshot(world.now + 1)
    assert (snapshot.phase, snapshot.generation, snapshot.target) == ("running", 1, 2)
    assert [(w.slot, w.worker_id, w.state, w.age) for w in snapshot.workers] == [
        (0, 1, "ready", 6),
        (0, 3, "starting", 1),
        (1, 2, "ready", 6),
    ]
    first = snapshot.workers[0]
    assert (first.pid, first.requests, first.connections, first.in_flight) == (10001, 42, 2, 1)
    assert first.reason == "restart"


def test_a_quiet_pool_has_no_deadline() -> None:
    assert running().pool.next_deadline(0) is None


def test_a_deadline_that_has_passed_is_now() -> None:
    world = World(make_settings(1)).start()
    assert world.pool.next_deadline(world.now + 500) == world.now + 500


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"max_concurrent_replacements": 0},
        {"timeout_worker_boot": 0},
        {"timeout_graceful_shutdown": 0},
        {"max_requests": -1},
        {"shutdown_delay": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PoolSettings(**wrong)
