"""Changes of size, and replacements of single workers."""

from __future__ import annotations

import signal

from pounce.supervisor.actions import CloseSlot, OpenSlot, Signal, Spawn, TellDrain, TellServe
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_events import PoolScaled, RespawnDelayed, SpawnFailed, WorkerRecycled
from pounce.supervisor.worker_record import WorkerRecord
from tests.supervisor.pool_world import Health, World, make_settings, prepare, running

# Scaling


def test_scaling_up_opens_slots_and_fills_them() -> None:
    world = running(make_settings(1))
    world.scale(3)
    assert world.actions[-4:] == [OpenSlot(1), OpenSlot(2), Spawn(2, 1, 1), Spawn(3, 2, 1)]
    assert world.of(PoolScaled) == [PoolScaled(size=3, previous=1)]
    world.run(0)
    assert len(world.serving()) == 3


def test_scaling_down_closes_the_highest_slots_before_their_workers_drain() -> None:
    world = running(make_settings(3))
    world.scale(1)
    assert world.actions[-4:] == [
        CloseSlot(2),
        TellDrain(3, True, 30),
        CloseSlot(1),
        TellDrain(2, True, 30),
    ]
    world.run(0)
    assert world.serving() == {0: (1, 1)}


def test_the_last_worker_is_not_scaled_away() -> None:
    world = running(make_settings(2))
    world.scale(0)
    world.scale(-3)
    assert world.pool.snapshot().target == 1
    assert world.run(0).serving() == {0: (1, 1)}


def test_a_slot_can_come_back_while_its_last_worker_still_drains() -> None:
    world = running(make_settings(2))
    world.scale(1)
    world.scale(2)
    assert world.actions[-2:] == [OpenSlot(1), Spawn(3, 1, 1)]
    prepare(world, 3)
    world.ready(world.worker(3))
    assert world.states() == {1: "ready", 2: "draining", 3: "ready"}
    world.exited(world.worker(2), 1)
    assert world.states() == {1: "ready", 3: "ready"}
    assert not world.of(RespawnDelayed)


def test_a_worker_that_starts_in_a_slot_that_is_closed_gets_sigterm() -> None:
    world = running(make_settings(1))
    world.scale(2)
    world.spawned(world.worker(2))
    world.scale(1)
    assert world.actions[-2:] == [CloseSlot(1), Signal(2, signal.SIGTERM)]
    world.prepared(world.worker(2))  # had been on its way
    assert TellServe(2) not in world.actions
    world.wait(35)
    assert world.latest() == Signal(2, signal.SIGKILL)


def test_a_worker_that_is_not_wanted_any_more_gets_sigterm_when_its_pid_is_known() -> None:
    world = running(make_settings(1))
    world.scale(2)
    world.scale(1)
    world.spawned(world.worker(2))
    assert world.latest() == Signal(2, signal.SIGTERM)


def test_a_spawn_that_fails_for_a_slot_that_is_closed_is_no_failure() -> None:
    world = running(make_settings(1))
    world.scale(2)
    world.scale(1)
    world.spawn_failed(world.worker(2))
    assert world.of(SpawnFailed)
    assert not world.pool.snapshot().troubles
    assert world.states() == {1: "ready"}


# Replacing single workers


def test_restart_drains_a_worker_when_its_successor_is_ready_and_not_before() -> None:
    world = running(make_settings(2))
    world.restart(0)
    assert world.latest() == Spawn(3, 0, 1)
    prepare(world, 3)
    assert world.latest() == TellServe(3)
    assert world.states()[1] == "ready"
    world.ready(world.worker(3))
    assert world.latest() == TellDrain(1, True, 30)
    assert world.of(WorkerRecycled) == [
        WorkerRecycled(worker_id=1, slot=0, successor=3, reason="restart")
    ]
    assert world.run(0).serving() == {0: (3, 1), 1: (2, 1)}


def test_restarting_a_slot_twice_replaces_its_worker_once() -> None:
    world = running(make_settings(1))
    world.restart(0)
    world.restart(0)
    world.spawned(world.worker(2))
    world.restart(0)
    world.run(0)
    assert world.serving() == {0: (2, 1)}
    world.restart(0)
    assert world.run(0).serving() == {0: (3, 1)}


def test_restarting_a_slot_that_waits_for_its_backoff_starts_it_at_once() -> None:
    world = running(make_settings(1))
    for worker_id in (1, 2, 3, 4, 5):
        world.exited(world.worker(worker_id), 1)
        world.wait(world.pool.snapshot(world.now).troubles[0].retry_in * (worker_id < 5))
    assert not world.workers
    world.restart(0)
    assert world.run(0).serving() == {0: (6, 1)}


def test_a_successor_that_fails_leaves_its_predecessor_alone_and_is_tried_again_later() -> None:
    world = running(make_settings(1))
    world.health = lambda spawn: Health(boot_exit=3 if spawn.worker_id <= 5 else None)
    world.restart(0)
    world.run(3)
    assert world.serving() == {0: (1, 1)}
    assert [event.delay for event in world.of(RespawnDelayed)] == [0.5, 1, 2]
    world.run(2)
    assert world.serving() == {0: (6, 1)}


def test_the_successor_of_a_worker_that_is_killed_meanwhile_takes_its_place() -> None:
    world = running(make_settings(1))
    world.restart(0)
    world.spawned(world.worker(2))
    world.exited(world.worker(1), -signal.SIGKILL)
    assert len(world.workers) == 1
    assert world.run(0).serving() == {0: (2, 1)}


def test_no_more_replacements_than_allowed_are_under_way_at_once() -> None:
    world = running(make_settings(4, max_concurrent_replacements=2))
    for slot in range(4):
        world.restart(slot)
    assert sorted(world.workers) == [1, 2, 3, 4, 5, 6]
    prepare(world, 5)
    assert sorted(world.workers) == [1, 2, 3, 4, 5, 6]  # not READY yet
    world.ready(world.worker(5))
    assert sorted(world.workers) == [1, 2, 3, 4, 5, 6, 7]
    assert world.run(0).serving() == {0: (5, 1), 1: (6, 1), 2: (7, 1), 3: (8, 1)}


def test_a_crash_is_answered_whatever_is_being_replaced() -> None:
    world = running(make_settings(3, max_concurrent_replacements=1))
    world.restart(0)
    world.exited(world.worker(2), 1)
    world.exited(world.worker(3), 1)
    assert sorted(world.workers) == [1, 4, 5, 6]


def test_a_worker_that_has_served_its_requests_is_replaced() -> None:
    world = running(make_settings(2, max_requests=100))
    world.reported(world.worker(1), 99)
    assert len(world.workers) == 2
    world.reported(world.worker(1), 100)
    assert world.latest() == Spawn(3, 0, 1)
    world.reported(world.worker(1), 150)
    world.run(0)
    assert world.serving() == {0: (3, 1), 1: (2, 1)}
    assert world.of(WorkerRecycled)[0].reason == "max_requests"


def test_a_worker_that_has_lived_long_enough_is_replaced_when_it_is_due() -> None:
    world = running(make_settings(1, max_lifetime=60))
    assert world.pool.next_deadline(world.now) == world.now + 60
    world.run(59.9)
    assert world.serving() == {0: (1, 1)}
    world.run(0.1)
    assert world.serving() == {0: (2, 1)}
    assert world.of(WorkerRecycled)[0].reason == "max_lifetime"


def test_workers_of_one_age_retire_one_after_the_other() -> None:
    world = World(make_settings(4, max_lifetime=60)).start().run(0)
    world.wait(60)
    assert len(world.workers) == 5
    world.run(0)
    assert {generation for _, generation in world.serving().values()} == {1}
    assert min(worker_id for worker_id, _ in world.serving().values()) == 5


def test_further_policies_can_be_plugged_in() -> None:
    class Connections:
        def verdict(self, worker: WorkerRecord, now: float) -> str | None:
            return "connections" if worker.connections > 10 else None

        def due(self, worker: WorkerRecord) -> float | None:
            return None

    world = World(make_settings(1))
    world.pool = Pool(make_settings(1), policies=[Connections()], random=lambda: 0.0)
    world.start().run(0)
    assert world.pool.reported(1, 0, 10, 0, world.now) == []
    assert world.pool.reported(1, 0, 11, 0, world.now) == [Spawn(2, 0, 1)]
