"""A world for the pool to act on: workers that are no processes, time that is a number.

`World` carries out what the pool asks for, and holds it to the promises that must be kept whatever
happens. Tests decide what the workers do; `World.run` lets healthy ones go on by themselves.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import TypeVar

from pounce.supervisor.actions import (
    Action,
    CloseSlot,
    OpenSlot,
    Report,
    Signal,
    Spawn,
    TellDrain,
    TellServe,
)
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_events import GaveUp, PoolEvent, ReloadFailed, WorkerLost
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_health import HealthSample

E = TypeVar("E")

LEAVING = ("draining", "killed")


class Stage(Enum):
    SPAWNING = auto()
    BOOTING = auto()
    PREPARED = auto()
    SERVING = auto()


@dataclass
class Health:
    """What a worker will do of itself in `World.run`."""

    boot_exit: int | None = None
    """Exits with this code instead of becoming prepared."""
    hangs_at_boot: bool = False
    spawn_error: str = ""
    ignores_drain: bool = False
    immortal: bool = False
    """SIGKILL does not help: its end is never seen."""


@dataclass
class FakeWorker:
    worker_id: int
    slot: int
    generation: int
    is_replacement: bool
    health: Health
    stage: Stage = Stage.SPAWNING
    told_to_serve: bool = False
    told_to_leave: bool = False
    killed: bool = False

    @property
    def accepts(self) -> bool:
        return self.stage is Stage.SERVING and not self.told_to_leave and not self.killed


class World:
    """Everything around a pool.

    Args:
        settings: Those the pool begins with.
        health: Decides on the health of each worker.
        random: The pool's source of randomness.
    """

    def __init__(
        self,
        settings: PoolSettings,
        health: Callable[[Spawn], Health] = lambda spawn: Health(),
        random: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.pool = Pool(settings, random=random)
        self.all_settings = [settings]
        """Those of the start and of all reloads."""
        self.health = health
        self.now = 1000.0
        self.workers: dict[int, FakeWorker] = {}
        self.gone: set[int] = set()
        self.open_slots: set[int] = set()
        self.events: list[PoolEvent] = []
        self.actions: list[Action] = []
        """All, in order."""
        self.failed_generations: set[int] = set()
        self.is_stopped = False
        self.is_parked = False

    # Telling the pool

    def start(self, *, held: bool = False) -> World:
        self.do(self.pool.start(self.now, held=held))
        return self

    def release(self) -> None:
        self.do(self.pool.release(self.now))

    def leave(self) -> None:
        self.is_stopped = True
        self.do(self.pool.leave(self.now))

    def reload(self, settings: PoolSettings | None = None) -> None:
        if settings is not None:
            self.all_settings.append(settings)
        self.do(self.pool.reload(self.now, settings))

    def scale(self, size: int) -> None:
        self.is_parked = False
        self.do(self.pool.scale(size, self.now))

    def restart(self, slot: int) -> None:
        self.do(self.pool.restart(slot, self.now))

    def drain_all(self) -> None:
        self.is_parked = True
        self.do(self.pool.drain_all(self.now))

    def stop(self, graceful: bool = True) -> None:
        self.is_stopped = True
        self.do(self.pool.stop(self.now, graceful))

    def spawned(self, worker: FakeWorker) -> None:
        worker.stage = Stage.BOOTING
        self.do(self.pool.spawned(worker.worker_id, 10_000 + worker.worker_id, self.now))

    def spawn_failed(self, worker: FakeWorker, reason: str = "no memory") -> None:
        self.bury(worker)
        self.do(self.pool.spawn_failed(worker.worker_id, reason, self.now))

    def prepared(self, worker: FakeWorker) -> None:
        worker.stage = Stage.PREPARED
        self.do(self.pool.prepared(worker.worker_id, self.now))

    def ready(self, worker: FakeWorker) -> None:
        worker.stage = Stage.SERVING
        self.do(self.pool.ready(worker.worker_id, self.now))

    def exited(self, worker: FakeWorker, exit_code: int = 0, message: str = "") -> None:
        self.bury(worker)
        self.do(self.pool.exited(worker.worker_id, exit_code, self.now, message))

    def reported(self, worker: FakeWorker, requests: int) -> None:
        self.do(self.pool.reported(worker.worker_id, requests, 2, 1, self.now))

    def measured(self, samples: Mapping[int, HealthSample]) -> None:
        self.do(self.pool.measured(samples, self.now))

    def stalled(self, worker: FakeWorker) -> None:
        self.do(self.pool.stalled(worker.worker_id, self.now))

    def bury(self, worker: FakeWorker) -> None:
        del self.workers[worker.worker_id]
        self.gone.add(worker.worker_id)

    # Time

    def wait(self, seconds: float) -> None:
        """Time passes, deadlines are minded, and workers do nothing."""
        self._wait_until(self.now + seconds)

    def run(self, seconds: float) -> World:
        """Time passes, and every worker does at once what its health lets it do."""
        end = self.now + seconds
        while True:
            while sum(self._live(worker) for worker in list(self.workers.values())):
                pass
            if self.now >= end:
                return self
            deadline = self.pool.next_deadline(self.now)
            self._wait_until(min(end, inf if deadline is None else deadline))

    def _wait_until(self, end: float) -> None:
        while True:
            deadline = self.pool.next_deadline(self.now)
            if deadline is None or deadline > end:
                break
            self.now = deadline
            self._tick()
        self.now = end

    def _tick(self) -> None:
        self.do(self.pool.tick(self.now))
        following = self.pool.next_deadline(self.now)
        assert following is None or following > self.now, "the loop would spin"

    def _live(self, worker: FakeWorker) -> bool:
        """Whether the worker did anything."""
        health = worker.health
        if worker.worker_id not in self.workers:
            return False
        if worker.stage is Stage.SPAWNING:
            if health.spawn_error:
                self.spawn_failed(worker, health.spawn_error)
            else:
                self.spawned(worker)
        elif worker.killed:
            if health.immortal:
                return False
            self.exited(worker, -signal.SIGKILL)
        elif worker.told_to_leave:
            if health.ignores_drain:
                return False
            self.exited(worker, 0)
        elif worker.stage is Stage.BOOTING:
            if health.hangs_at_boot:
                return False
            if health.boot_exit is not None:
                self.exited(worker, health.boot_exit)
            else:
                self.prepared(worker)
        elif worker.stage is Stage.PREPARED and worker.told_to_serve:
            self.ready(worker)
        else:
            return False
        return True

    # What there is

    def worker(self, worker_id: int) -> FakeWorker:
        return self.workers[worker_id]

    def in_slot(self, slot: int) -> list[FakeWorker]:
        return [worker for worker in self.workers.values() if worker.slot == slot]

    def latest(self) -> Action:
        return self.actions[-1]

    def serving(self) -> dict[int, tuple[int, int]]:
        """Slot -> (worker id, generation) of the worker that accepts there."""
        return {w.slot: (w.worker_id, w.generation) for w in self.workers.values() if w.accepts}

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def states(self) -> dict[int, str]:
        return {status.worker_id: status.state for status in self.pool.snapshot().workers}

    # Carrying out

    def do(self, actions: list[Action]) -> None:
        before = {worker.worker_id for worker in self.workers.values() if worker.accepts}
        for action in actions:
            self.actions.append(action)
            match action:
                case OpenSlot(slot):
                    assert slot not in self.open_slots
                    self.open_slots.add(slot)
                case CloseSlot(slot):
                    self.open_slots.remove(slot)
                case Spawn():
                    self._spawn(action)
                case Report(event):
                    self.events.append(event)
                    self._note(event, actions, before)
                case TellServe(worker_id):
                    self._tell_serve(self._addressee(worker_id))
                case TellDrain(worker_id, gentle, seconds):
                    self._tell_drain(self._addressee(worker_id), gentle, seconds)
                case Signal(worker_id, number):
                    self._signal(self._addressee(worker_id), number)
        self._check()

    def _note(self, event: PoolEvent, actions: list[Action], serving_before: set[int]) -> None:
        match event:
            case GaveUp():
                self.is_stopped = True
            case WorkerLost(worker_id=worker_id):
                self.bury(self._addressee(worker_id))
            case ReloadFailed():
                self._check_failed_reload(event, actions, serving_before)

    def _addressee(self, worker_id: int) -> FakeWorker:
        assert worker_id not in self.gone, f"an action for worker {worker_id}, which is gone"
        return self.workers[worker_id]

    def _spawn(self, action: Spawn) -> None:
        assert not self.is_stopped, "a spawn after stop"
        assert action.slot in self.open_slots
        assert action.worker_id not in self.workers.keys() | self.gone
        pool = self.pool.snapshot()
        takes_over = any(
            status.slot == action.slot
            and status.worker_id != action.worker_id
            and status.generation <= action.generation
            and status.state not in LEAVING
            for status in pool.workers
        )
        self.workers[action.worker_id] = FakeWorker(
            action.worker_id,
            action.slot,
            action.generation,
            is_replacement=takes_over or action.generation != pool.generation,
            health=self.health(action),
        )

    def _tell_serve(self, worker: FakeWorker) -> None:
        assert worker.stage is Stage.PREPARED
        assert not worker.told_to_serve
        assert not worker.told_to_leave
        assert not worker.killed
        assert worker.generation == self.pool.snapshot().generation
        assert worker.generation not in self.failed_generations
        self.is_parked = False
        worker.told_to_serve = True

    def _tell_drain(self, worker: FakeWorker, gentle: bool, seconds: float) -> None:
        assert worker.stage in (Stage.PREPARED, Stage.SERVING)
        assert not worker.killed
        assert seconds >= 0
        if worker.accepts and worker.slot in self.open_slots:
            heirs = [
                other
                for other in self.in_slot(worker.slot)
                if other.accepts
                and (other.generation, other.worker_id) > (worker.generation, worker.worker_id)
            ]
            assert heirs or self.is_stopped or self.is_parked, "nobody serves in its place"
        if worker.told_to_leave:
            assert not gentle
            assert self.is_stopped
        worker.told_to_leave = True

    def _signal(self, worker: FakeWorker, number: signal.Signals) -> None:
        assert worker.stage is not Stage.SPAWNING, "a signal for a worker without a pid"
        if number == signal.SIGTERM:
            assert worker.stage is Stage.BOOTING
            worker.told_to_leave = True
        else:
            assert number == signal.SIGKILL
            assert not worker.killed
            worker.killed = True

    # What always holds

    def _check_failed_reload(
        self, event: ReloadFailed, actions: list[Action], serving_before: set[int]
    ) -> None:
        self.failed_generations.add(event.generation)
        snapshot = self.pool.snapshot()
        assert snapshot.generation < event.generation
        for status in snapshot.workers:
            if status.generation == event.generation:
                assert status.state in LEAVING
        if not self.is_stopped and not self.is_parked:
            told = {action.worker_id for action in actions if isinstance(action, TellDrain)}
            assert not told & serving_before, "a failed reload touched the old generation"

    def _check(self) -> None:
        snapshot = self.pool.snapshot()
        assert {status.worker_id for status in snapshot.workers} == self.workers.keys()
        for slot in self.open_slots:
            accepting = sum(worker.accepts for worker in self.in_slot(slot))
            assert accepting <= 1 or snapshot.phase == "lingering"
        if not self.is_stopped:
            assert self.open_slots == set(range(len(self.open_slots)))
        starting = {s.worker_id for s in snapshot.workers if s.state == "starting"}
        replacing = sum(w.is_replacement for w in self.workers.values() if w.worker_id in starting)
        assert replacing <= max(s.max_concurrent_replacements for s in self.all_settings)
        self._check_deadlines()

    def _check_deadlines(self) -> None:
        boot = max(s.timeout_worker_boot for s in self.all_settings)
        drain = max(s.timeout_graceful_shutdown + s.drain_margin for s in self.all_settings)
        kill = max(s.kill_patience for s in self.all_settings)
        limits = {"starting": boot, "opening": boot, "draining": drain, "killed": kill}
        bounds = [
            limits[status.state]
            for status in self.pool.snapshot().workers
            if status.state in limits and not (status.state == "killed" and status.pid is None)
        ]
        if bounds and self.pool.exit_code is None:
            deadline = self.pool.next_deadline(self.now)
            assert deadline is not None
            assert deadline <= self.now + min(bounds)


def make_settings(
    workers: int = 2,
    *,
    max_concurrent_replacements: int = 1,
    shutdown_delay: float = 0.0,
    max_requests: int = 0,
    max_lifetime: float = 0.0,
) -> PoolSettings:
    return PoolSettings(
        workers=workers,
        timeout_worker_boot=20,
        timeout_graceful_shutdown=30,
        shutdown_delay=shutdown_delay,
        max_concurrent_replacements=max_concurrent_replacements,
        max_requests=max_requests,
        max_lifetime=max_lifetime,
        drain_margin=5,
        kill_patience=10,
    )


def running(settings: PoolSettings | None = None) -> World:
    """A pool whose workers are READY: worker 1 in slot 0, worker 2 in slot 1, ..."""
    return World(settings or make_settings()).start().run(0)


def sick_generation(generation: int, health: Health) -> Callable[[Spawn], Health]:
    """Workers of one generation have this health, all others are healthy."""
    return lambda spawn: health if spawn.generation == generation else Health()


def prepare(world: World, worker_id: int) -> None:
    """The worker boots, up to PREPARED."""
    world.spawned(world.worker(worker_id))
    world.prepared(world.worker(worker_id))
