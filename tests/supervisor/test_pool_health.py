"""Replacements for the sake of health: which ones happen, and how many at most."""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

from pounce.supervisor.actions import Signal, Spawn
from pounce.supervisor.health_policy import WORKER_STALL
from pounce.supervisor.pool_events import (
    RecycleHeldBack,
    WorkerKilled,
    WorkerLost,
    WorkerRecycled,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_health import HealthSample
from pounce.supervisor.worker_record import WorkerState
from tests.supervisor.pool_world import Health, World, make_settings, running

FAT = HealthSample(rss=1001)
SLIM = HealthSample(rss=1000)


def settings(workers: int, *, at_once: int = 1, **more: Any) -> PoolSettings:
    base = make_settings(workers, max_concurrent_replacements=at_once)
    return dataclasses.replace(base, **{"max_rss": 1000, "worker_stall_timeout": 30, **more})


def measure_for(world: World, seconds: int, sample: HealthSample) -> None:
    for _ in range(seconds):
        world.measured(dict.fromkeys(world.workers, sample))
        world.run(1)


def test_a_worker_that_is_too_large_serves_until_its_successor_does() -> None:
    world = running(settings(2))
    world.measured({1: SLIM, 2: FAT})
    assert world.latest() == Spawn(3, 1, 1)
    assert world.serving() == {0: (1, 1), 1: (2, 1)}
    world.run(1)
    assert world.serving() == {0: (1, 1), 1: (3, 1)}
    assert world.of(WorkerRecycled) == [
        WorkerRecycled(worker_id=2, slot=1, successor=3, reason="max_rss")
    ]


def test_so_many_at_once_as_replacements_may_be() -> None:
    world = running(settings(4, at_once=2))
    world.measured(dict.fromkeys(world.workers, FAT))
    assert [action for action in world.actions if isinstance(action, Spawn)][4:] == [
        Spawn(5, 0, 1),
        Spawn(6, 1, 1),
    ]


def test_a_limit_that_nobody_keeps_replaces_each_worker_once_a_minute_and_says_so_once() -> None:
    world = running(settings(3))
    measure_for(world, 300, FAT)
    # At once, and each time a minute is over.
    assert len(world.of(WorkerRecycled)) == 3 * 5
    assert world.of(RecycleHeldBack) == [
        RecycleHeldBack(
            worker_id=4, slot=0, reason="max_rss", limit="max_health_recycles", allowed=3
        )
    ]
    assert len(world.serving()) == 3


def test_the_limit_within_a_minute_can_be_chosen() -> None:
    world = running(settings(3, max_health_recycles=1))
    measure_for(world, 59, FAT)
    assert len(world.of(WorkerRecycled)) == 1
    measure_for(world, 3, FAT)
    assert len(world.of(WorkerRecycled)) == 2


def test_what_is_held_back_is_said_again_when_it_had_been_over() -> None:
    world = running(settings(1))
    measure_for(world, 5, FAT)
    assert len(world.of(RecycleHeldBack)) == 1
    measure_for(world, 610, SLIM)
    measure_for(world, 5, FAT)
    assert len(world.of(RecycleHeldBack)) == 2


def test_other_reasons_are_not_rationed() -> None:
    world = running(settings(1, max_requests=10))
    measure_for(world, 5, FAT)
    for _ in range(3):
        [worker] = world.workers.values()
        world.reported(worker, 10)
        world.run(0)
    assert [event.reason for event in world.of(WorkerRecycled)] == ["max_rss"] + [
        "max_requests"
    ] * 3


def test_each_worker_has_its_turn_where_others_are_due_again_at_once() -> None:
    world = running(settings(3, max_requests=10))

    def serve(worker_id: int) -> None:
        worker = world.worker(worker_id)
        world.spawned(worker)
        world.prepared(worker)
        world.ready(worker)

    for worker in list(world.workers.values()):
        world.reported(worker, 10)
    serve(4)
    world.reported(world.worker(4), 10)  # while the successor in slot 1 starts
    serve(5)
    assert [action for action in world.actions if isinstance(action, Spawn)][3:] == [
        Spawn(4, 0, 1),
        Spawn(5, 1, 1),
        Spawn(6, 2, 1),
    ]


def test_a_successor_that_does_not_start_leaves_the_old_worker_where_it_is() -> None:
    world = running(settings(1))
    world.health = lambda spawn: Health(boot_exit=1)
    measure_for(world, 120, FAT)
    assert world.serving() == {0: (1, 1)}
    assert not world.of(WorkerRecycled)


# Blocked event loops


def test_a_blocked_worker_is_killed_and_another_one_started_at_once() -> None:
    world = running(settings(2))
    world.stalled(world.worker(1))
    assert world.of(WorkerKilled) == [
        WorkerKilled(
            worker_id=1,
            slot=0,
            state=WorkerState.READY,
            reason="its event loop is blocked",
            recycled_for=WORKER_STALL,
        )
    ]
    assert Signal(1, signal.SIGKILL) in world.actions
    assert world.latest() == Spawn(3, 0, 1)
    world.run(1)
    assert world.serving() == {0: (3, 1), 1: (2, 1)}


def test_only_ready_workers_are_blocked_and_only_beyond_the_timeout() -> None:
    world = running(settings(2))
    assert world.pool.blocked({1: 29.9, 2: 30.0, 77: 99.0}) == [2]
    world.measured({1: FAT})
    world.spawned(world.worker(3))
    assert world.pool.blocked({3: 99.0}) == []
    world.stop()
    assert world.pool.blocked({1: 99.0, 2: 99.0}) == []
    world.stalled(world.worker(1))
    assert not world.of(WorkerKilled)


def test_a_timeout_of_0_is_never_over() -> None:
    world = running(settings(1, worker_stall_timeout=0))
    assert world.pool.blocked({1: 1e9}) == []


def test_when_all_are_blocked_one_after_the_other_is_replaced() -> None:
    world = running(settings(4))
    for _ in range(10):
        for worker_id in range(1, 5):
            if worker_id in world.workers:
                world.stalled(world.worker(worker_id))
    assert sorted(world.states().values()) == ["killed", "ready", "ready", "ready", "starting"]
    assert [event.limit for event in world.of(RecycleHeldBack)] == ["max_concurrent_replacements"]
    world.run(1)
    for worker_id in range(2, 5):
        world.stalled(world.worker(worker_id))
        world.run(1)
    assert world.serving() == {0: (5, 1), 1: (6, 1), 2: (7, 1), 3: (8, 1)}


def test_none_is_killed_while_the_successor_of_another_does_not_start() -> None:
    world = running(settings(3))
    world.health = lambda spawn: Health(boot_exit=1)
    world.stalled(world.worker(1))
    world.run(300)
    world.stalled(world.worker(2))
    world.run(300)
    assert world.serving().keys() == {1, 2}
    world.health = lambda spawn: Health()
    world.reload()  # which does not have to wait for that
    world.run(60)
    assert {generation for _, generation in world.serving().values()} == {2}


def test_no_more_are_killed_within_a_minute_than_may_be() -> None:
    world = running(settings(2))
    for _ in range(20):
        for worker in list(world.workers.values()):
            world.stalled(worker)
            world.run(0.5)
    assert len(world.of(WorkerKilled)) == 2
    world.run(60)
    world.stalled(next(iter(world.workers.values())))
    assert len(world.of(WorkerKilled)) == 3


def test_a_worker_that_cannot_be_killed_has_a_successor_and_is_written_off() -> None:
    world = running(settings(1))
    world.worker(1).health = Health(immortal=True)
    world.stalled(world.worker(1))
    world.run(1)
    assert world.serving() == {0: (2, 1)}
    world.run(10)
    assert [event.worker_id for event in world.of(WorkerLost)] == [1]


def test_a_blocked_worker_whose_successor_is_on_its_way_is_killed_when_there_is_room() -> None:
    world = running(settings(2, at_once=2))
    world.measured({1: FAT})
    world.stalled(world.worker(1))
    assert world.states() == {1: "killed", 2: "ready", 3: "starting"}
    world.run(1)
    assert world.serving() == {0: (3, 1), 1: (2, 1)}
