"""The workers that there are, and the orders they can be given.

Every order goes through here: so no worker that is gone gets one, each state has its deadline, and
it is decided in one place when a worker is asked, when it is killed and when it is written off:

- a worker that is READY, or about to be, is asked over its channel (`TellDrain`);
- one that still starts may be unable to listen, and gets SIGTERM;
- one that has not left at the deadline gets SIGKILL: workers take SIGTERM for the same request;
- one whose end is not seen after that is written off.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from math import inf

from pounce.supervisor.actions import Action, Report, Signal, Spawn, TellDrain, TellServe
from pounce.supervisor.pool_events import PoolEvent, WorkerKilled, WorkerLost
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_record import Step, WorkerRecord, WorkerState


class Roster:
    """All workers from their spawn to their exit, and the actions not taken yet.

    Args:
        random: Returns numbers from 0 up to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self.now = -inf
        self._random = random
        self._workers: dict[int, WorkerRecord] = {}
        self.last_worker_id = 0
        self._actions: list[Action] = []

    def advance(self, now: float) -> None:
        """Time does not go back, even if two inputs were noted in the wrong order."""
        self.now = max(self.now, now)

    def take_actions(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def order(self, action: Action) -> None:
        self._actions.append(action)

    def report(self, event: PoolEvent) -> None:
        self._actions.append(Report(event))

    # Who there is

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[WorkerRecord]:
        """All, in a list of their own: orders may be given meanwhile."""
        return iter(list(self._workers.values()))

    def get(self, worker_id: int) -> WorkerRecord | None:
        return self._workers.get(worker_id)

    def overdue(self) -> Iterator[WorkerRecord]:
        """Those whose deadline has passed, each looked at when its turn comes: what is done about
        one may give others another deadline."""
        return (w for w in self if w.deadline is not None and w.deadline <= self.now)

    def remove(self, worker: WorkerRecord) -> None:
        """It has come to its end."""
        del self._workers[worker.worker_id]
        worker.move(Step.EXITED, self.now)

    # Orders

    def spawn(
        self, slot: int, generation: int, settings: PoolSettings, *, replaces: bool
    ) -> WorkerRecord:
        self.last_worker_id += 1
        worker = WorkerRecord(
            worker_id=self.last_worker_id,
            slot=slot,
            generation=generation,
            settings=settings,
            spawned_at=self.now,
            deadline=self.now + settings.timeout_worker_boot,
            jitter=self._random(),
            replaces=replaces,
        )
        self._workers[worker.worker_id] = worker
        self.order(Spawn(worker.worker_id, slot, generation))
        return worker

    def serve(self, worker: WorkerRecord) -> None:
        if worker.move(Step.TOLD_TO_SERVE, self.now):
            self.order(TellServe(worker.worker_id))

    def dismiss(self, worker: WorkerRecord, reason: str, *, gentle: bool) -> None:
        """Asks a worker to leave; one that leaves gently already can be made to hurry."""
        if worker.drains_gently and not gentle and worker.state is WorkerState.DRAINING:
            self._hurry(worker)
            return
        is_starting = worker.state is WorkerState.STARTING
        if not worker.move(Step.TOLD_TO_LEAVE, self.now):
            return
        worker.reason = reason
        if is_starting:
            self._signal(worker, signal.SIGTERM)
            return
        worker.drains_gently = gentle
        seconds = worker.settings.timeout_graceful_shutdown
        self.order(TellDrain(worker.worker_id, gentle, seconds))

    def _hurry(self, worker: WorkerRecord) -> None:
        # Its deadline stands: it was told to leave before the others.
        assert worker.deadline is not None
        worker.drains_gently = False
        seconds = max(0.0, worker.deadline - worker.settings.drain_margin - self.now)
        self.order(TellDrain(worker.worker_id, False, seconds))

    def kill(
        self,
        worker: WorkerRecord,
        reason: str,
        *,
        is_asked_for: bool = False,
        recycled_for: str = "",
    ) -> None:
        state = worker.state
        if not worker.move(Step.KILLED, self.now):
            return
        worker.reason = reason
        self.report(
            WorkerKilled(
                worker_id=worker.worker_id,
                slot=worker.slot,
                state=state,
                reason=reason,
                is_asked_for=is_asked_for,
                recycled_for=recycled_for,
            )
        )
        self._signal(worker, signal.SIGKILL)

    def write_off(self, worker: WorkerRecord) -> None:
        """Gives up waiting for the end of a worker that was killed."""
        self.remove(worker)
        self.report(WorkerLost(worker_id=worker.worker_id, slot=worker.slot, pid=worker.pid))

    def _signal(self, worker: WorkerRecord, number: signal.Signals) -> None:
        if worker.pid is not None:
            self.order(Signal(worker.worker_id, number))
            return
        worker.owed_signal = number
        if worker.state is WorkerState.KILLED:
            # Not to be written off: the answer to a spawn always comes, and then it can be killed.
            worker.deadline = None

    def spawned(self, worker: WorkerRecord, pid: int) -> None:
        """Takes note of the pid, and sends the signal that was waiting for it."""
        if worker.pid is not None:
            return
        worker.pid = pid
        if worker.owed_signal is None:
            return
        self.order(Signal(worker.worker_id, worker.owed_signal))
        worker.owed_signal = None
        if worker.state is WorkerState.KILLED:
            worker.deadline = self.now + worker.settings.kill_patience
