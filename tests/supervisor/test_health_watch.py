"""When old heartbeats are no reason to end anybody."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pounce.metrics import catalogue
from pounce.runtime import WorkerMode
from pounce.shm.arena import Arena
from pounce.shm.slot import HEARTBEAT, Slot
from pounce.supervisor import health_watch
from pounce.supervisor.health_watch import HealthWatch
from tests.supervisor.pool_world import make_settings, running


class Clock:
    def __init__(self) -> None:
        # A whole number, so that fractions of two that are added to it are not rounded.
        self.now = math.ceil(time.monotonic()) + 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class FakeHandle:
    """A worker that tells its stacks when it gets to it."""

    pid: int = 1
    stopped: bool = False
    asked: int = 0
    stacks: bytes = b""
    """What it has written by now."""

    def is_stopped(self) -> bool:
        return self.stopped

    def ask_for_stacks(self) -> None:
        self.asked += 1

    def read_stacks(self) -> bytes:
        stacks, self.stacks = self.stacks, b""
        return stacks


@dataclass
class FakeMeasurements:
    layout: Any
    slots_by_worker: dict[int, Slot] = field(default_factory=dict)


class Watched:
    """A pool of two whose workers (timeout 30 s) beat when they are told to."""

    def __init__(self, arena: Arena, clock: Clock) -> None:
        self.clock = clock
        self.world = running(make_settings(2))
        slots = {worker_id: arena.acquire(worker_id, 1) for worker_id in (1, 2)}
        self.slots = slots
        self.handles = {1: FakeHandle(), 2: FakeHandle()}
        measurements = FakeMeasurements(arena.layout, slots)
        self.watch = HealthWatch(
            cast(Any, measurements),
            self.world.pool,
            cast(Any, self.handles),
            lambda actions: None,
            WorkerMode.PROCESS,
        )
        self.watch._awake_since = self.watch._looked_at = clock.now
        self.beat(1, 2)

    def beat(self, *worker_ids: int) -> None:
        for worker_id in worker_ids:
            self.slots[worker_id].identity[HEARTBEAT] = round(self.clock.now * 1e9)

    def wait(self, seconds: float, *beating: int) -> None:
        """Time passes, in which the master looks and some workers beat."""
        for _ in range(round(seconds)):
            self.clock.now += 1
            self.beat(*beating)
            self.watch._look()

    def asked(self) -> list[int]:
        return [worker_id for worker_id, handle in self.handles.items() if handle.asked]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    clock = Clock()
    monkeypatch.setattr(health_watch, "time", clock)

    class Loop:
        def call_later(self, *_: object) -> None:
            pass

    monkeypatch.setattr(health_watch.asyncio, "get_running_loop", Loop)
    with Arena.anonymous(catalogue.layout(2)) as arena:
        yield Watched(arena, clock)


def test_a_loop_is_blocked_when_its_timeout_is_over(watched: Watched) -> None:
    watched.wait(29, 2)
    assert watched.asked() == []
    watched.wait(1, 2)
    assert watched.asked() == [1]


def test_after_the_master_was_asleep_all_have_their_time_again(watched: Watched) -> None:
    watched.wait(20, 1, 2)
    watched.clock.now += 3600
    watched.watch._look()
    watched.wait(29)
    assert watched.asked() == []
    watched.wait(1, 2)
    assert watched.asked() == [1]


def test_a_stopped_worker_is_let_be_and_has_its_time_again(watched: Watched) -> None:
    watched.handles[1].stopped = True
    watched.wait(100, 2)
    assert watched.asked() == []
    watched.handles[1].stopped = False
    watched.wait(19, 2)
    assert watched.asked() == []
    watched.wait(30, 2)
    assert watched.asked() == [1]


@pytest.mark.parametrize(("comes_to_life", "state"), [(False, "killed"), (True, "ready")])
def test_a_worker_is_killed_only_if_it_is_still_blocked_when_its_stacks_are_there(
    watched: Watched, comes_to_life: bool, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    watched.wait(30, 2)
    assert watched.asked() == [1]
    watched.clock.now += health_watch.STACKS_PATIENCE
    watched.beat(2, *[1] * comes_to_life)
    watched.watch._collect(1)
    assert watched.world.states()[1] == state
    assert "worker 1: its event loop has been blocked for 32.0 s" in caplog.text
    assert ("turns again" in caplog.text) == comes_to_life


def test_stacks_are_waited_for_on_a_busy_machine(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    watched.wait(30, 2)
    for _ in range(3):
        watched.clock.now += 0.5
        watched.beat(2)
        watched.watch._collect(1)
    assert "has been blocked" not in caplog.text
    for part in (b'File "app.py", line 7', b" in view"):
        watched.handles[1].stacks = part
        watched.watch._collect(1)
        watched.clock.now += 8 / 64
    watched.clock.now += 11 / 64
    watched.watch._collect(1)  # 0.297 s after the last part
    assert "has been blocked" not in caplog.text
    watched.clock.now += 1 / 64
    watched.watch._collect(1)
    assert 'File "app.py", line 7 in view' in caplog.text
