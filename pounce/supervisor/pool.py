"""The pool of workers: tell it what has happened, and it says what is to be done.

Every input takes the time (`now`, monotonic seconds) and returns actions, to be carried out in
their order. None raises for what crosses on its way: messages of workers that are gone, exits told
twice, orders that are being followed already. The rules are in `staffing`.
"""

from __future__ import annotations

import random as random_module
import signal
from collections.abc import Callable, Mapping, Sequence
from math import inf

from pounce.supervisor.actions import Action
from pounce.supervisor.crash_policy import exit_reason
from pounce.supervisor.pool_events import (
    ExitReason,
    SpawnFailed,
    WorkerExited,
    WorkerReady,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.pool_status import PoolStatus, slot_trouble, worker_status
from pounce.supervisor.recycle_policy import RecyclePolicy
from pounce.supervisor.staffing import Phase, Staffing
from pounce.supervisor.worker_health import HealthSample
from pounce.supervisor.worker_record import (
    STARTUP_FAILED,
    Step,
    WorkerRecord,
    WorkerState,
    describe_exit,
)


class Pool:
    """The state of all workers of one master.

    Args:
        settings: Those of the first generation.
        policies: Further reasons to recycle workers, besides those that the settings ask for.
        random: Returns numbers from 0 up to 1.
        last_worker_id: The highest number of a worker that there was before.
    """

    def __init__(
        self,
        settings: PoolSettings,
        *,
        policies: Sequence[RecyclePolicy] = (),
        random: Callable[[], float] = random_module.random,
        last_worker_id: int = 0,
    ) -> None:
        self._staff = Staffing(settings, policies, random)
        self._roster = self._staff.roster
        self._roster.last_worker_id = last_worker_id

    def _settle(self) -> list[Action]:
        self._staff.settle()
        return self._roster.take_actions()

    # What is asked for

    def start(self, now: float, *, held: bool = False) -> list[Action]:
        """Begins; a second time is nothing.

        Args:
            held: Workers are prepared, and told to serve by `release`. If one cannot be prepared
                the pool gives up.
        """
        self._roster.advance(now)
        if self._staff.phase is Phase.NEW:
            self._staff.phase = Phase.RUNNING
            self._staff.is_held = held
        return self._settle()

    def release(self, now: float) -> list[Action]:
        """Workers that were held serve."""
        self._roster.advance(now)
        self._staff.is_held = False
        return self._settle()

    def reload(self, now: float, settings: PoolSettings | None = None) -> list[Action]:
        """Replaces all workers by a new generation, or none if one of it cannot be prepared.

        While a reload is under way the latest request is remembered. The size of the pool changes
        only when `settings` has another `workers` than the settings before: otherwise what TTIN,
        TTOU and `scale` made of it stays. A pool that was drained is brought back by the commit.
        """
        self._roster.advance(now)
        if self._staff.is_open:
            self._staff.reloads.ask_for(settings)
        return self._settle()

    def scale(self, size: int, now: float) -> list[Action]:
        """Changes the size, to 1 at least; the highest slots go first. Brings back a drained pool.

        During a reload the new size is also that of the new generation.
        """
        self._roster.advance(now)
        if self._staff.is_open:
            self._staff.resize(max(1, size))
            self._staff.reloads.resized(self._staff.target)
            self._staff.phase = Phase.RUNNING
        return self._settle()

    def restart(self, slot: int, now: float) -> list[Action]:
        """Replaces the worker of a slot; one that waits for its backoff is started at once.

        A worker that is not READY yet, or is being replaced already, is let be.
        """
        self._roster.advance(now)
        place = self._staff.slots.get(slot)
        if place is not None and self._staff.is_open:
            place.retry_at = self._roster.now
            worker = place.newest(self._staff.generation)
            if worker is not None and worker.state is WorkerState.READY:
                worker.reason = worker.reason or "restart"
        return self._settle()

    def drain_all(self, now: float) -> list[Action]:
        """Lets all workers leave, keeps slots and sockets, and waits for `reload` or `scale`."""
        self._roster.advance(now)
        if self._staff.is_open:
            self._staff.phase = Phase.PARKED
            self._staff.reloads.cancel("the pool was drained")
            for worker in self._roster:
                self._roster.dismiss(worker, "drain", gentle=True)
        return self._settle()

    def stop(self, now: float, graceful: bool) -> list[Action]:
        """Ends the program: workers go on accepting for `shutdown_delay`, then drain.

        The second time, or if not `graceful`, all are killed at once. Those that leave already,
        see `leave`, are told to hurry.
        """
        self._roster.advance(now)
        is_second = self.is_stopping
        self._staff.reloads.cancel("the server stops")
        if is_second or not graceful:
            self._staff.phase = Phase.STOPPING
            for worker in self._roster:
                self._roster.kill(worker, "stop", is_asked_for=True)
        elif self._staff.phase is Phase.LEAVING:
            self._staff.drain_to_stop()
        elif self._staff.settings.shutdown_delay and any(w.may_accept for w in self._roster):
            self._staff.phase = Phase.LINGERING
            self._staff.linger_until = self._roster.now + self._staff.settings.shutdown_delay
            for worker in self._roster:
                if not worker.may_accept:
                    self._roster.dismiss(worker, "stop", gentle=False)
        else:
            self._staff.drain_to_stop()
        return self._settle()

    def leave(self, now: float) -> list[Action]:
        """Ends the program when another one serves at the same addresses: all workers drain gently.

        One that stops already goes on doing so.
        """
        self._roster.advance(now)
        if self._staff.phase not in (Phase.LINGERING, Phase.STOPPING):
            self._staff.reloads.cancel("another master has taken over")
            self._staff.drain_to_leave()
        return self._settle()

    def tick(self, now: float) -> list[Action]:
        """Nothing has happened, but deadlines may have passed: see `next_deadline`."""
        self._roster.advance(now)
        return self._settle()

    # What workers do

    def spawned(self, worker_id: int, pid: int, now: float) -> list[Action]:
        """The process is there; for a thread any number may stand for its pid."""
        self._roster.advance(now)
        worker = self._roster.get(worker_id)
        if worker is not None:
            self._roster.spawned(worker, pid)
        return self._settle()

    def spawn_failed(self, worker_id: int, reason: str, now: float) -> list[Action]:
        """There is no process and will be none."""
        self._roster.advance(now)
        worker = self._roster.get(worker_id)
        if worker is not None:
            counts = worker.is_present
            self._roster.remove(worker)
            self._roster.report(
                SpawnFailed(
                    worker_id=worker_id,
                    slot=worker.slot,
                    generation=worker.generation,
                    reason=reason,
                )
            )
            if counts:
                self._staff.failed(worker, f"{worker} could not be spawned: {reason}")
        return self._settle()

    def prepared(self, worker_id: int, now: float) -> list[Action]:
        """The application is loaded and its lifespan startup complete."""
        self._roster.advance(now)
        worker = self._roster.get(worker_id)
        if worker is not None:
            worker.move(Step.SAID_PREPARED, self._roster.now)
        return self._settle()

    def ready(self, worker_id: int, now: float) -> list[Action]:
        """The worker accepts, as it was told."""
        self._roster.advance(now)
        worker = self._roster.get(worker_id)
        if worker is not None and worker.move(Step.SAID_READY, self._roster.now):
            worker.ready_at = self._roster.now
            self._staff.has_been_ready = True
            slot = self._staff.slots[worker.slot]
            slot.backoff.became_ready(self._roster.now)
            slot.retry_at, slot.trouble = -inf, ""
            slot.is_healing = False
            self._roster.report(
                WorkerReady(
                    worker_id=worker_id,
                    slot=worker.slot,
                    generation=worker.generation,
                    boot_time=self._roster.now - worker.spawned_at,
                )
            )
        return self._settle()

    def reported(
        self, worker_id: int, requests: int, connections: int, in_flight: int, now: float
    ) -> list[Action]:
        """What a worker counts; comes often, so it does no more than it must."""
        worker = self._roster.get(worker_id)
        if worker is None:
            return []
        worker.requests = requests
        worker.connections = connections
        worker.in_flight = in_flight
        if not (self._staff.is_to_be_judged(worker) and self._staff.judge(worker, now)):
            return []
        self._roster.advance(now)
        return self._settle()

    def measured(self, samples: Mapping[int, HealthSample], now: float) -> list[Action]:
        """How workers do; comes about every second, for those of them that are known."""
        self._roster.advance(now)
        for worker_id, sample in samples.items():
            worker = self._roster.get(worker_id)
            if worker is not None:
                worker.measured(sample, self._roster.now)
        return self._settle()

    def stalled(self, worker_id: int, now: float) -> list[Action]:
        """The worker's event loop is blocked: it is killed, and so replaced, unless limits hold
        that back; then this may be said again and again."""
        self._roster.advance(now)
        worker = self._roster.get(worker_id)
        if worker is not None and self._may_be_ended(worker):
            self._staff.end_stalled(worker)
        return self._settle()

    def exited(self, worker_id: int, exit_code: int, now: float, message: str = "") -> list[Action]:
        """The worker is gone; a negative code is the signal that ended it.

        Args:
            message: What it had to say about that, if it could.
        """
        self._roster.advance(now)
        worker = self._roster.get(worker_id)
        if worker is None:
            return self._settle()
        state = worker.state
        self._roster.remove(worker)
        reason = exit_reason(state, exit_code)
        was_killed_here = reason is ExitReason.KILLED and exit_code == -signal.SIGKILL
        how = "was killed" if was_killed_here else describe_exit(exit_code)
        detail = f"{worker} {how}" + (f": {message}" if message else "")
        self._roster.report(
            WorkerExited(
                worker_id=worker_id,
                slot=worker.slot,
                generation=worker.generation,
                pid=worker.pid,
                state=state,
                exit_code=exit_code,
                reason=reason,
                detail=detail,
            )
        )
        if reason not in (ExitReason.DRAINED, ExitReason.KILLED):
            self._staff.failed(
                worker,
                detail,
                startup_failed=exit_code == STARTUP_FAILED,
                from_outside=reason is ExitReason.OUTSIDE,
            )
        return self._settle()

    # What can be asked

    def next_deadline(self, now: float) -> float | None:
        """When to call `tick` if nothing happens before, not earlier than `now`; None: never."""
        if self.exit_code is not None:
            return None
        deadlines = [w.deadline for w in self._roster if w.deadline is not None]
        if self._staff.phase is Phase.LINGERING:
            deadlines.append(self._staff.linger_until)
        if self._staff.phase is Phase.RUNNING:
            # What is due already waits for something else, which has a deadline of its own.
            waits = [slot.retry_at for slot in self._staff.slots.values()]
            for worker in self._roster:
                if self._staff.is_to_be_judged(worker):
                    due = (policy.due(worker) for policy in self._staff.policies)
                    waits.extend(moment for moment in due if moment is not None)
            deadlines.extend(moment for moment in waits if moment > self._roster.now)
        return max(now, min(deadlines)) if deadlines else None

    @property
    def settings(self) -> PoolSettings:
        """Those of the committed generation."""
        return self._staff.settings

    def blocked(self, ages: Mapping[int, float]) -> list[int]:
        """Those of some workers whose event loop has not turned for longer than it may.

        Args:
            ages: Seconds since the last turn, by worker id.
        """
        blocked = []
        for worker_id, age in ages.items():
            worker = self._roster.get(worker_id)
            if worker is not None and self._may_be_ended(worker):
                timeout = worker.settings.worker_stall_timeout
                if timeout and age >= timeout:
                    blocked.append(worker_id)
        return blocked

    def _may_be_ended(self, worker: WorkerRecord) -> bool:
        # In every other state a worker has a deadline, or does not serve yet.
        return self._staff.is_open and worker.state is WorkerState.READY

    @property
    def is_prepared(self) -> bool:
        """Whether the pool is held, and has all of the workers that it is to have."""
        staff = self._staff
        if not staff.is_held or len(staff.slots) != staff.target:
            return False
        return all(
            any(worker.state is WorkerState.PREPARED for worker in slot.present)
            for slot in staff.slots.values()
        )

    @property
    def last_worker_id(self) -> int:
        """The highest number of a worker that there was."""
        return self._roster.last_worker_id

    @property
    def exit_code(self) -> int | None:
        """The program's exit code; None until it is at its end."""
        is_ending = self.is_stopping or self._staff.phase is Phase.LEAVING
        return self._staff.final_code if is_ending and not self._roster else None

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called, or what comes to the same has happened."""
        return self._staff.phase in (Phase.LINGERING, Phase.STOPPING)

    def snapshot(self, now: float | None = None) -> PoolStatus:
        """How things are, now or at the time of the last input."""
        staff = self._staff
        reload = staff.reloads.under_way
        moment = self._roster.now if now is None else now
        workers = sorted(self._roster, key=lambda worker: (worker.slot, worker.worker_id))
        return PoolStatus(
            phase=staff.phase.value,
            generation=staff.generation,
            target=staff.target,
            workers=tuple(worker_status(worker, moment) for worker in workers),
            troubles=tuple(
                slot_trouble(slot, moment) for slot in staff.slots.values() if slot.trouble
            ),
            reload_under_way=None if reload is None else reload.generation,
            reload_queued=staff.reloads.queued is not None,
            last_reload=staff.reloads.last,
            restarts=staff.restarts,
        )
