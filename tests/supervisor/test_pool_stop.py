"""Stopping, draining all, and the end of the program."""

from __future__ import annotations

import signal

from pounce.supervisor.actions import Signal, Spawn, TellDrain, TellServe
from pounce.supervisor.pool_events import GaveUp, ReloadFailed, WorkerKilled, WorkerLost
from tests.supervisor.pool_world import (
    Health,
    World,
    make_settings,
    prepare,
    running,
    sick_generation,
)


def test_a_graceful_stop_tells_every_worker_at_once() -> None:
    world = running(make_settings(3))
    world.stop()
    assert world.actions[-3:] == [TellDrain(n, False, 30) for n in (1, 2, 3)]
    assert world.pool.exit_code is None
    world.exited(world.worker(2))
    world.exited(world.worker(1), -signal.SIGSEGV)
    assert world.pool.exit_code is None
    world.exited(world.worker(3))
    assert world.pool.exit_code == 0
    assert world.pool.next_deadline(world.now) is None


def test_workers_that_do_not_leave_are_killed_at_the_deadline() -> None:
    world = World(make_settings(2), lambda spawn: Health(ignores_drain=True)).start().run(0)
    world.stop()
    world.run(34.9)
    assert len(world.workers) == 2
    world.run(0.1)
    assert len(world.of(WorkerKilled)) == 2
    assert world.pool.exit_code == 0


def test_a_second_stop_kills() -> None:
    world = running(make_settings(2))
    world.stop()
    world.stop()
    assert world.latest() == Signal(2, signal.SIGKILL)
    world.stop()
    assert world.latest() == Signal(2, signal.SIGKILL)
    world.run(0)
    assert world.pool.exit_code == 0


def test_a_stop_that_is_not_graceful_kills_at_once() -> None:
    world = running(make_settings(2, shutdown_delay=10))
    world.stop(graceful=False)
    assert [action for action in world.actions if isinstance(action, Signal)] == [
        Signal(1, signal.SIGKILL),
        Signal(2, signal.SIGKILL),
    ]
    world.run(0)
    assert world.pool.exit_code == 0


def test_workers_that_even_sigkill_does_not_end_do_not_hold_up_the_program() -> None:
    world = World(make_settings(1), lambda spawn: Health(immortal=True)).start().run(0)
    world.stop(graceful=False)
    world.run(10)
    assert world.of(WorkerLost)
    assert world.pool.exit_code == 0


def test_with_a_shutdown_delay_workers_go_on_accepting_for_a_while() -> None:
    world = running(make_settings(2, shutdown_delay=10))
    world.stop()
    assert world.pool.snapshot().phase == "lingering"
    assert world.pool.next_deadline(world.now) == world.now + 10
    world.wait(9.9)
    assert len(world.serving()) == 2
    world.wait(0.1)
    assert world.actions[-2:] == [TellDrain(1, False, 30), TellDrain(2, False, 30)]
    assert world.pool.snapshot().phase == "stopping"


def test_a_second_stop_cuts_the_shutdown_delay_short() -> None:
    world = running(make_settings(1, shutdown_delay=10))
    world.stop()
    world.stop()
    assert world.latest() == Signal(1, signal.SIGKILL)


def test_a_pool_that_does_not_serve_does_not_linger() -> None:
    world = World(make_settings(1, shutdown_delay=10)).start()
    world.stop()
    assert world.pool.snapshot().phase == "stopping"


def test_nothing_is_spawned_while_the_pool_lingers_or_stops() -> None:
    world = running(make_settings(3, shutdown_delay=10))
    world.stop()
    world.exited(world.worker(1), 1)
    world.reload()
    world.scale(9)
    world.restart(1)
    world.drain_all()
    world.run(10)
    world.reload()
    world.scale(9)
    assert sum(isinstance(action, Spawn) for action in world.actions) == 3
    assert world.pool.exit_code == 0


def test_when_all_workers_have_left_during_the_delay_the_program_ends() -> None:
    world = running(make_settings(1, shutdown_delay=10))
    world.stop()
    world.exited(world.worker(1), 0)
    assert world.pool.exit_code == 0


def test_what_is_about_to_serve_serves_during_the_delay_and_what_starts_is_stopped() -> None:
    world = World(make_settings(3, shutdown_delay=10)).start()
    prepare(world, 1)
    world.spawned(world.worker(2))
    world.stop()
    assert world.latest() == Signal(2, signal.SIGTERM)
    world.ready(world.worker(1))
    world.spawned(world.worker(3))
    assert world.latest() == Signal(3, signal.SIGTERM)
    assert world.states() == {1: "ready", 2: "draining", 3: "draining"}
    world.run(10)
    assert world.pool.exit_code == 0


def test_a_stop_ends_a_reload_and_the_one_that_waits() -> None:
    world = running(make_settings(2))
    world.reload()
    prepare(world, 3)
    world.reload()
    world.stop()
    assert world.of(ReloadFailed)[0].reason == "the server stops"
    assert TellDrain(3, False, 30) in world.actions
    assert not world.pool.snapshot().reload_queued
    world.run(0)
    assert world.pool.exit_code == 0


def test_a_worker_that_drains_gently_is_told_to_hurry_within_its_old_deadline() -> None:
    world = running(make_settings(2))
    world.scale(1)
    world.wait(10)
    world.stop()
    assert TellDrain(2, False, 20) in world.actions
    world.wait(25)
    assert Signal(2, signal.SIGKILL) in world.actions
    assert Signal(1, signal.SIGKILL) not in world.actions


def test_giving_up_drains_what_had_started() -> None:
    world = World(make_settings(2)).start()
    prepare(world, 1)
    world.spawned(world.worker(2))
    world.exited(world.worker(2), 3)
    assert world.of(GaveUp)
    assert world.latest() == TellDrain(1, False, 30)
    world.run(0)
    assert world.pool.exit_code == 3


def test_a_stop_after_giving_up_kills_and_keeps_the_exit_code() -> None:
    world = World(make_settings(2)).start()
    world.spawned(world.worker(1))
    world.spawned(world.worker(2))
    world.exited(world.worker(1), 3)
    world.stop()
    assert world.latest() == Signal(2, signal.SIGKILL)
    world.run(0)
    assert world.pool.exit_code == 3


# Draining all workers, keeping the master


def test_drain_all_lets_every_worker_leave_and_keeps_the_slots() -> None:
    world = running(make_settings(2))
    world.drain_all()
    assert world.actions[-2:] == [TellDrain(1, True, 30), TellDrain(2, True, 30)]
    world.run(3600)
    assert not world.workers
    assert world.open_slots == {0, 1}
    assert world.pool.exit_code is None
    assert world.pool.snapshot().phase == "parked"
    assert world.pool.next_deadline(world.now) is None


def test_scale_brings_back_a_drained_pool() -> None:
    world = running(make_settings(2))
    world.drain_all()
    world.scale(3)
    assert world.run(0).serving() == {0: (3, 1), 1: (4, 1), 2: (5, 1)}


def test_reload_brings_back_a_drained_pool_with_the_new_generation_only() -> None:
    world = running(make_settings(2))
    world.drain_all()
    world.run(0)
    world.reload()
    assert world.latest() == Spawn(3, 0, 2)
    prepare(world, 3)
    assert TellServe(3) not in world.actions
    assert world.run(0).serving() == {0: (3, 2), 1: (4, 2)}
    assert world.pool.snapshot().phase == "running"


def test_a_failed_reload_leaves_a_drained_pool_drained() -> None:
    world = running(make_settings(2))
    world.drain_all()
    world.health = sick_generation(2, Health(boot_exit=3))
    world.reload()
    world.run(100)
    assert world.of(ReloadFailed)
    assert not world.workers
    world.reload()
    assert {generation for _, generation in world.run(0).serving().values()} == {3}


def test_drain_all_ends_a_reload_and_the_one_that_waits() -> None:
    world = running(make_settings(1))
    world.reload()
    world.reload()
    world.drain_all()
    world.run(100)
    assert world.of(ReloadFailed)[0].reason == "the pool was drained"
    assert not world.workers


def test_a_drained_pool_stops_at_once() -> None:
    world = running(make_settings(1, shutdown_delay=10))
    world.drain_all()
    world.run(0)
    world.stop()
    assert world.pool.exit_code == 0
