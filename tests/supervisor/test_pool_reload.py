"""Reloads: all workers of the new generation, or none."""

from __future__ import annotations

import signal
from dataclasses import replace

from pounce.supervisor.actions import (
    CloseSlot,
    OpenSlot,
    Report,
    Signal,
    Spawn,
    TellDrain,
    TellServe,
)
from pounce.supervisor.pool_events import (
    PoolScaled,
    ReloadFailed,
    ReloadQueued,
    ReloadStarted,
    ReloadSucceeded,
    WorkerRecycled,
)
from pounce.supervisor.reload_state import ReloadOutcome
from tests.supervisor.pool_world import (
    Health,
    World,
    make_settings,
    prepare,
    running,
    sick_generation,
)


def test_no_worker_of_a_new_generation_serves_before_all_are_prepared() -> None:
    world = running(make_settings(2))
    world.reload()
    assert world.actions[-2:] == [Report(ReloadStarted(generation=2)), Spawn(3, 0, 2)]
    prepare(world, 3)
    assert world.latest() == Spawn(4, 1, 2)
    assert world.states() == {1: "ready", 2: "ready", 3: "prepared", 4: "starting"}
    assert world.pool.snapshot().generation == 1
    world.wait(15)
    prepare(world, 4)
    assert world.actions[-2:] == [TellServe(3), TellServe(4)]
    assert world.pool.snapshot().generation == 2


def test_each_predecessor_drains_gently_when_its_successor_is_ready() -> None:
    world = running(make_settings(2, max_concurrent_replacements=2))
    world.reload()
    prepare(world, 3)
    prepare(world, 4)
    world.ready(world.worker(4))
    assert world.latest() == TellDrain(2, True, 30)
    assert world.states() == {1: "ready", 2: "draining", 3: "opening", 4: "ready"}
    assert world.of(WorkerRecycled) == [
        WorkerRecycled(worker_id=2, slot=1, successor=4, reason="reload")
    ]
    assert not world.of(ReloadSucceeded)
    world.wait(2)
    world.ready(world.worker(3))
    assert world.of(ReloadSucceeded) == [ReloadSucceeded(generation=2, seconds=2.0, lost=0)]
    assert world.pool.snapshot().last_reload == ReloadOutcome(2, "succeeded", "", world.now)
    assert world.run(0).serving() == {0: (3, 2), 1: (4, 2)}


def test_candidates_start_no_more_at_once_than_allowed() -> None:
    world = running(make_settings(5, max_concurrent_replacements=2))
    world.reload()
    assert [w.slot for w in world.workers.values() if w.generation == 2] == [0, 1]
    prepare(world, 7)
    assert [w.slot for w in world.workers.values() if w.generation == 2] == [0, 1, 2]
    world.run(0)
    assert {generation for _, generation in world.serving().values()} == {2}


def test_a_candidate_that_fails_leaves_the_old_generation_untouched() -> None:
    world = running(make_settings(3, max_concurrent_replacements=2))
    serving = world.serving()
    world.reload()
    prepare(world, 4)
    world.spawned(world.worker(5))
    world.spawned(world.worker(6))
    world.exited(world.worker(6), 3, "SyntaxError")
    reason = "worker 6 (pid 10006) exited with code 3 (startup failed): SyntaxError"
    assert world.actions[-3:] == [
        Report(ReloadFailed(generation=2, seconds=0.0, reason=reason)),
        TellDrain(4, True, 30),
        Signal(5, signal.SIGTERM),
    ]
    world.run(0)
    assert world.serving() == serving
    assert world.pool.snapshot().last_reload == ReloadOutcome(2, "failed", reason, world.now)
    assert world.pool.snapshot().generation == 1
    assert not world.pool.snapshot().troubles


def test_a_candidate_that_is_late_fails_the_reload() -> None:
    world = running(make_settings(2))
    world.health = sick_generation(2, Health(hangs_at_boot=True))
    world.reload()
    world.run(19.9)
    assert not world.of(ReloadFailed)
    world.run(0.1)
    assert world.of(ReloadFailed)[0].reason == "worker 3 (pid 10003) was not prepared within 20 s"
    assert world.serving() == {0: (1, 1), 1: (2, 1)}
    assert len(world.workers) == 2


def test_candidates_that_are_late_together_fail_the_reload_once() -> None:
    world = running(make_settings(3, max_concurrent_replacements=3))
    world.health = sick_generation(2, Health(hangs_at_boot=True))
    world.reload()
    world.run(100)
    assert len(world.of(ReloadFailed)) == 1
    assert not world.pool.snapshot().troubles
    assert len(world.workers) == 3


def test_a_candidate_that_cannot_be_spawned_fails_the_reload() -> None:
    world = running(make_settings(1))
    world.health = sick_generation(2, Health(spawn_error="EAGAIN"))
    world.reload()
    world.run(0)
    assert world.of(ReloadFailed)[0].reason == "worker 2 could not be spawned: EAGAIN"
    assert world.serving() == {0: (1, 1)}


def test_a_candidate_that_dies_while_it_is_held_fails_the_reload() -> None:
    world = running(make_settings(2))
    world.reload()
    prepare(world, 3)
    world.exited(world.worker(3), -signal.SIGKILL)
    assert world.of(ReloadFailed)
    assert world.run(0).serving() == {0: (1, 1), 1: (2, 1)}


def test_after_a_failed_reload_the_next_one_gets_its_own_generation() -> None:
    world = running(make_settings(1))
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload()
    world.run(0)
    world.reload()
    world.run(0)
    assert world.serving() == {0: (3, 3)}
    assert world.of(ReloadSucceeded)[0].generation == 3


def test_a_second_reload_is_done_after_the_first_and_of_several_the_latest() -> None:
    world = running(make_settings(1))
    world.reload()
    world.reload(make_settings(2))
    world.reload(make_settings(3))
    assert world.of(ReloadQueued) == [ReloadQueued(), ReloadQueued()]
    assert world.pool.snapshot().reload_queued
    assert world.pool.snapshot().reload_under_way == 2
    world.run(0)
    assert [event.generation for event in world.of(ReloadSucceeded)] == [2, 3]
    assert {generation for _, generation in world.serving().values()} == {3}
    assert len(world.serving()) == 3
    assert not world.pool.snapshot().reload_queued


def test_a_queued_reload_follows_one_that_failed() -> None:
    world = running(make_settings(2))
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload()
    world.reload()
    world.run(0)
    assert [event.generation for event in world.of(ReloadFailed)] == [2]
    assert {generation for _, generation in world.serving().values()} == {3}


def test_a_reload_asked_for_after_the_commit_follows_too() -> None:
    world = running(make_settings(1))
    world.reload()
    prepare(world, 2)
    world.reload()
    assert world.of(ReloadQueued)
    assert world.run(0).serving() == {0: (3, 3)}


# Settings


def test_new_settings_count_for_candidates_at_once_and_for_the_pool_from_the_commit() -> None:
    world = running(make_settings(1))
    world.reload(replace(make_settings(1), timeout_worker_boot=50, max_requests=10))
    assert world.pool.next_deadline(world.now) == world.now + 50
    world.reported(world.worker(1), 10)
    prepare(world, 2)
    world.ready(world.worker(2))
    world.exited(world.worker(1))
    world.reported(world.worker(2), 10)
    assert world.latest() == Spawn(3, 0, 2)


def test_settings_of_a_failed_reload_are_forgotten() -> None:
    world = running(make_settings(1))
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload(make_settings(1, max_requests=10))
    world.run(0)
    world.reported(world.worker(1), 10)
    assert world.serving() == {0: (1, 1)}
    assert len(world.workers) == 1


def test_a_reload_to_more_workers_needs_all_of_them() -> None:
    world = running(make_settings(1, max_concurrent_replacements=9))
    world.reload(make_settings(3))
    assert world.actions[-5:] == [
        OpenSlot(1),
        OpenSlot(2),
        Spawn(2, 0, 2),
        Spawn(3, 1, 2),
        Spawn(4, 2, 2),
    ]
    prepare(world, 2)
    prepare(world, 3)
    assert world.pool.snapshot().target == 1
    prepare(world, 4)
    assert world.of(PoolScaled) == [PoolScaled(size=3, previous=1)]
    assert len(world.run(0).serving()) == 3


def test_a_failed_reload_to_more_workers_closes_their_slots_again() -> None:
    world = running(make_settings(1))
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload(make_settings(3))
    world.run(0)
    assert world.open_slots == {0}
    assert world.serving() == {0: (1, 1)}


def test_a_reload_to_fewer_workers_keeps_the_others_until_the_commit() -> None:
    world = running(make_settings(3))
    world.reload(make_settings(1))
    world.spawned(world.worker(4))
    assert len(world.serving()) == 3
    world.prepared(world.worker(4))
    assert [action for action in world.actions if isinstance(action, CloseSlot)] == [
        CloseSlot(2),
        CloseSlot(1),
    ]
    assert world.run(0).serving() == {0: (4, 2)}


def test_a_size_set_by_hand_outlives_a_reload_that_does_not_change_it() -> None:
    world = running(make_settings(2))
    world.scale(4)
    world.run(0)
    world.reload(make_settings(2, max_requests=100))
    assert len(world.run(0).serving()) == 4
    world.reload(make_settings(3, max_requests=100))
    assert len(world.run(0).serving()) == 3


# Other things that happen meanwhile


def test_a_crash_before_the_commit_is_answered_by_the_old_generation() -> None:
    world = running(make_settings(2))
    world.reload()
    prepare(world, 3)
    world.exited(world.worker(1), 1)
    assert Spawn(5, 0, 1) in world.actions
    prepare(world, 5)
    world.ready(world.worker(5))
    assert world.serving() == {0: (5, 1), 1: (2, 1)}
    assert world.states()[3] == "prepared"
    assert world.run(0).serving() == {0: (3, 2), 1: (4, 2)}


def test_what_starts_of_the_old_generation_is_given_up_at_the_commit() -> None:
    world = running(make_settings(1))
    world.reload()
    world.spawned(world.worker(2))
    world.exited(world.worker(1), 1)
    world.spawned(world.worker(3))
    world.prepared(world.worker(2))
    assert world.actions[-2:] == [TellServe(2), Signal(3, signal.SIGTERM)]
    assert world.run(0).serving() == {0: (2, 2)}


def test_a_worker_that_fails_after_the_commit_is_started_again_and_its_predecessor_stays() -> None:
    world = running(make_settings(2, max_concurrent_replacements=2))
    world.reload()
    prepare(world, 3)
    prepare(world, 4)
    world.exited(world.worker(3), 1)
    assert world.states() == {1: "ready", 2: "ready", 4: "opening", 5: "starting"}
    assert world.latest() == Spawn(5, 0, 2)
    world.ready(world.worker(4))
    assert world.of(ReloadSucceeded)[0].lost == 1
    outcome = world.pool.snapshot().last_reload
    assert outcome is not None
    assert outcome.reason == "1 of its workers failed and were started again"
    assert world.run(0).serving() == {0: (5, 2), 1: (4, 2)}


def test_a_reload_mends_a_pool_that_crashes_without_waiting_for_its_backoff() -> None:
    world = running(make_settings(2))
    world.health = sick_generation(1, Health(boot_exit=3))
    world.exited(world.worker(1), 1)
    world.exited(world.worker(2), 1)
    world.run(100)
    assert not world.serving()
    world.reload()
    world.run(0)
    assert world.serving().keys() == {0, 1}
    assert {generation for _, generation in world.serving().values()} == {2}
    assert not world.pool.snapshot().troubles


def test_a_slot_added_during_a_reload_gets_the_new_generation_if_it_wins() -> None:
    world = running(make_settings(1))
    world.reload()
    world.scale(2)
    assert world.latest() == OpenSlot(1)
    prepare(world, 2)
    assert world.latest() == Spawn(3, 1, 2)
    assert world.states()[2] == "prepared"
    assert world.run(0).serving() == {0: (2, 2), 1: (3, 2)}


def test_a_slot_added_during_a_reload_gets_the_old_generation_if_the_new_one_fails() -> None:
    world = running(make_settings(1))
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload()
    world.scale(2)
    assert world.run(0).serving() == {0: (1, 1), 1: (3, 1)}


def test_a_slot_removed_during_a_reload_is_not_waited_for() -> None:
    world = running(make_settings(2))
    world.reload()
    prepare(world, 3)
    world.spawned(world.worker(4))
    world.scale(1)
    assert TellServe(3) in world.actions
    assert Signal(4, signal.SIGTERM) in world.actions
    assert not world.of(ReloadFailed)
    assert world.run(0).serving() == {0: (3, 2)}
    assert world.of(ReloadSucceeded)[0].lost == 0


def test_a_restart_during_a_reload_is_done_by_the_reload() -> None:
    world = running(make_settings(1))
    world.reload()
    world.restart(0)
    assert len(world.workers) == 2
    assert world.run(0).serving() == {0: (2, 2)}
    assert len(world.of(WorkerRecycled)) == 1


def test_a_restart_during_a_reload_that_fails_is_done_afterwards() -> None:
    world = running(make_settings(1))
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload()
    world.restart(0)
    assert world.run(0).serving() == {0: (3, 1)}
    assert world.of(WorkerRecycled)[0].reason == "restart"


def test_there_are_never_three_workers_in_a_slot() -> None:
    world = running(make_settings(1, max_concurrent_replacements=5))
    world.restart(0)
    world.spawned(world.worker(2))
    world.reload()
    assert len(world.workers) == 2
    world.prepared(world.worker(2))
    world.ready(world.worker(2))
    assert world.latest() == Spawn(3, 0, 2)
    assert world.run(0).serving() == {0: (3, 2)}


def test_a_reload_while_the_first_generation_still_boots() -> None:
    world = World(make_settings(2)).start()
    world.reload()
    assert world.run(0).serving() == {0: (3, 2), 1: (4, 2)}
