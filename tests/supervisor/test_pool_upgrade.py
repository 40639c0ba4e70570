"""The pool of a master that takes over from another one, and of the one that lets go."""

from __future__ import annotations

import signal

import pytest

from pounce.supervisor.actions import Signal, Spawn, TellDrain, TellServe
from pounce.supervisor.pool_events import GaveUp, ReloadFailed, ReloadStarted
from tests.supervisor.pool_world import Health, World, make_settings, prepare, running


def test_a_held_pool_serves_when_it_is_released() -> None:
    world = World(make_settings(2)).start(held=True)
    prepare(world, 1)
    assert not world.pool.is_prepared
    prepare(world, 2)
    assert world.pool.is_prepared
    world.run(1000)
    assert not world.serving()
    assert not [action for action in world.actions if isinstance(action, TellServe)]
    world.release()
    assert not world.pool.is_prepared
    assert world.run(0).serving() == {0: (1, 1), 1: (2, 1)}


@pytest.mark.parametrize(
    "health",
    [Health(boot_exit=1), Health(hangs_at_boot=True), Health(spawn_error="no memory")],
    ids=["dies", "hangs", "cannot be spawned"],
)
def test_a_held_pool_is_prepared_whole_or_gives_up(health: Health) -> None:
    world = World(
        make_settings(2), lambda spawn: health if spawn.worker_id == 2 else Health()
    ).start(held=True)
    world.run(100)
    assert world.of(GaveUp)
    assert world.pool.exit_code == 3
    assert sum(isinstance(action, Spawn) for action in world.actions) == 2


def test_a_reload_of_a_held_pool_follows_its_release() -> None:
    world = World(make_settings(1)).start(held=True).run(0)
    world.reload()
    assert not world.run(10).of(ReloadStarted)
    world.release()
    assert world.run(10).serving() == {0: (2, 2)}


def test_leaving_drains_gently() -> None:
    world = running(make_settings(2, shutdown_delay=10))
    world.leave()
    assert world.actions[-2:] == [TellDrain(n, True, 30) for n in (1, 2)]
    assert world.pool.exit_code is None
    assert world.run(0).pool.exit_code == 0


def test_leaving_gives_a_reload_up() -> None:
    world = running(make_settings(1))
    world.reload()
    world.leave()
    assert world.of(ReloadFailed)
    world.reload()
    assert world.run(0).pool.exit_code == 0


def test_a_stop_hurries_those_who_leave_and_a_second_one_kills() -> None:
    world = running(make_settings(1))
    world.leave()
    world.wait(10)
    world.stop()
    assert world.latest() == TellDrain(1, False, 20)
    world.stop()
    assert world.latest() == Signal(1, signal.SIGKILL)


def test_what_stops_does_not_leave() -> None:
    world = running(make_settings(1))
    world.stop()
    count = len(world.actions)
    world.leave()
    assert len(world.actions) == count
