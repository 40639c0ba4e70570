"""What is wanted of the pool, what there is, and the rules that bring the one to the other.

There are no procedures that could be interrupted half way. An input changes what is known or what
is wanted (`pool`); then `settle` compares the two and takes the next step:

- a slot without a worker gets one of the committed generation, when its backoff allows;
- a slot whose worker is of an old generation, or is to be recycled, gets a successor;
- during a reload each slot gets a candidate of the new generation, which is held in PREPARED until
  every slot has one; then the new generation is the committed one;
- a PREPARED worker of the committed generation is told to serve;
- when a slot has a READY worker, those it took over from are told to drain.

Successors and candidates start `max_concurrent_replacements` at a time, workers for empty slots all
at once. Workers that are blocked are killed so many at a time, and `health_limits` has more limits.
What may become of one worker is in `worker_record`, of a reload in `reload_state`.

Until a reload is committed, a worker that crashes is replaced by one of the old generation, and its
candidate stays held: else an unproven generation would serve, and a failed reload could not leave
things as they were. (A generation is a configuration; the code is what is on disk at the spawn.)
Slots that are added during a reload wait for its end, and get the generation that wins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from math import inf
from typing import Final

from pounce.supervisor.actions import CloseSlot, OpenSlot
from pounce.supervisor.crash_policy import CrashBackoff, RespawnBudget
from pounce.supervisor.health_limits import HealthLimits
from pounce.supervisor.health_policy import HEALTH_REASONS, WORKER_STALL
from pounce.supervisor.pool_events import (
    GaveUp,
    PoolScaled,
    RespawnDelayed,
    WorkerRecycled,
)
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.recycle_policy import RecyclePolicy, policies_of
from pounce.supervisor.reload_state import Reload, Reloads
from pounce.supervisor.roster import Roster
from pounce.supervisor.slot import Slot
from pounce.supervisor.worker_record import WorkerRecord, WorkerState

CANNOT_START: Final = 3
"""Exit code of a program whose pool could not start."""


class Phase(StrEnum):
    NEW = "new"
    RUNNING = "running"
    PARKED = "parked"
    """Drained; a reload that is committed, or a change of size, brings the workers back."""
    LINGERING = "lingering"
    """To stop, but still accepting for `shutdown_delay`; nothing is spawned any more."""
    LEAVING = "leaving"
    """Another master serves; connections get one more request, as in a reload."""
    STOPPING = "stopping"


class Staffing:
    """The state behind a `Pool`, see there for the arguments."""

    def __init__(
        self,
        settings: PoolSettings,
        policies: Sequence[RecyclePolicy],
        random: Callable[[], float],
    ) -> None:
        self._random = random
        self._further_policies = tuple(policies)
        self._adopt(settings)
        self.roster = Roster(random)
        self._health_limits = HealthLimits(self.roster)
        self.slots: dict[int, Slot] = {}
        self.target = settings.workers
        self.generation = 1
        """The committed one: of this generation are all workers that are told to serve."""
        self.phase = Phase.NEW
        self.is_held = False
        """Whether workers wait in PREPARED for another master to let go; all must get there."""
        self.reloads = Reloads(self.roster)
        self.restarts = 0
        self.has_been_ready = False
        self._boot_failures = 0
        self.linger_until = inf
        self.final_code = 0

    def _adopt(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.policies = (*policies_of(settings), *self._further_policies)
        self._budget = RespawnBudget(settings.crash)

    @property
    def is_open(self) -> bool:
        """Whether workers may be spawned, now or later."""
        return self.phase in (Phase.RUNNING, Phase.PARKED)

    def settle(self) -> None:
        self._enforce_deadlines()
        if self.is_open:
            if not self.is_held:
                self._advance_reload()
            self._fit_slots()
            for slot in self.slots.values():
                self._hand_over(slot)
            self._judge_all()
            self._fill_vacancies()
            self._start_replacements()

    # Deadlines and failures

    def _enforce_deadlines(self) -> None:
        for worker in self.roster.overdue():
            match worker.state:
                case WorkerState.STARTING | WorkerState.OPENING:
                    reason = f"not {_aim(worker)} within {worker.settings.timeout_worker_boot:g} s"
                    self.roster.kill(worker, reason)
                    self.failed(worker, f"{worker} was {reason}")
                case WorkerState.DRAINING:
                    self.roster.kill(worker, "still there when its time to drain was over")
                case _:
                    self.roster.write_off(worker)
        if self.phase is Phase.LINGERING and self.linger_until <= self.roster.now:
            self.drain_to_stop()

    def failed(
        self,
        worker: WorkerRecord,
        reason: str,
        *,
        startup_failed: bool = False,
        from_outside: bool = False,
    ) -> None:
        """Draws the conclusions when a worker that was to stay is gone, or has been killed."""
        if not self.is_open:
            return
        self.reloads.worker_failed(worker)
        if worker.generation > self.generation:
            self.reloads.candidate_failed(worker, reason)
            return
        slot = self.slots[worker.slot]
        delay = slot.backoff.failed(self.roster.now, from_outside=from_outside)
        slot.retry_at = self.roster.now + delay
        slot.trouble = reason
        if not self.has_been_ready:
            self._boot_failures += 1
            is_last = self._boot_failures >= self.settings.crash.boot_attempts
            if startup_failed or is_last or self.is_held:
                self._give_up(reason)
                return
        if delay:
            self.roster.report(
                RespawnDelayed(
                    slot=slot.index, delay=delay, failures=slot.backoff.failures, reason=reason
                )
            )

    def _give_up(self, reason: str) -> None:
        self.final_code = CANNOT_START
        self.roster.report(GaveUp(reason=reason, exit_code=CANNOT_START))
        self.reloads.cancel("the pool could not start")
        self.drain_to_stop()

    def drain_to_stop(self) -> None:
        """Begins the end of the program: nothing accepts from here on."""
        self.phase = Phase.STOPPING
        for worker in self.roster:
            self.roster.dismiss(worker, "stop", gentle=False)

    def drain_to_leave(self) -> None:
        """The same when another master serves already."""
        self.phase = Phase.LEAVING
        for worker in self.roster:
            self.roster.dismiss(worker, "upgrade", gentle=True)

    # Reloads

    def _advance_reload(self) -> None:
        if self.reloads.candidates is not None:
            self._commit_if_prepared(self.reloads.candidates)
        elif self.reloads.under_way is not None and not self.reloads.is_opening:
            self.reloads.succeed()
        self.reloads.begin_if_queued(self.settings, self.target)

    def _commit_if_prepared(self, reload: Reload) -> None:
        members = set[int]()
        for index in range(reload.target):
            slot = self.slots.get(index)
            candidate = None if slot is None else slot.candidate(reload.generation)
            if candidate is None or candidate.state is not WorkerState.PREPARED:
                return
            members.add(candidate.worker_id)
        reload.members = frozenset(members)
        self.generation = reload.generation
        self._adopt(reload.settings)
        self.resize(reload.target)
        self.phase = Phase.RUNNING
        for slot in self.slots.values():
            slot.has_started = True
            slot.is_healing = False
            slot.backoff, slot.retry_at = self._new_backoff(), -inf  # it was other code that failed

    # Slots

    def resize(self, size: int) -> None:
        if size != self.target:
            self.roster.report(PoolScaled(size=size, previous=self.target))
            self.target = size

    def _fit_slots(self) -> None:
        """Has the slots that the size asks for, and those of a reload to a greater size."""
        size = (
            self.target
            if self.reloads.candidates is None
            else max(self.target, self.reloads.candidates.target)
        )
        for index in sorted(self.slots, reverse=True):
            if index >= size:
                self.roster.order(CloseSlot(index))
                for worker in self.slots.pop(index).present:
                    self.roster.dismiss(worker, "scale", gentle=True)
        for index in range(size):
            if index not in self.slots:
                self.slots[index] = Slot(index, self._new_backoff())
                self.roster.order(OpenSlot(index))

    def _new_backoff(self) -> CrashBackoff:
        return CrashBackoff(self.settings.crash, self._budget, self._random)

    def _hand_over(self, slot: Slot) -> None:
        for worker in slot.present:
            is_committed = worker.generation == self.generation
            if worker.state is WorkerState.PREPARED and is_committed:
                if not self.is_held:
                    self.roster.serve(worker)
            elif not worker.may_accept and not self._is_wanted(worker.generation):
                self.roster.dismiss(worker, "reload", gentle=True)
        heir = slot.newest_ready()
        if heir is None:
            return
        for worker in slot.present:
            if worker.seniority >= heir.seniority:
                continue
            reason = worker.reason or "reload"
            if worker.state is WorkerState.READY:
                self.roster.report(
                    WorkerRecycled(
                        worker_id=worker.worker_id,
                        slot=slot.index,
                        successor=heir.worker_id,
                        reason=reason,
                    )
                )
            self.roster.dismiss(worker, reason, gentle=True)

    def _is_wanted(self, generation: int) -> bool:
        """Whether a worker of this generation that does not serve yet may still come to."""
        is_candidate = (
            self.reloads.candidates is not None and generation == self.reloads.candidates.generation
        )
        return is_candidate or generation == self.generation

    # Recycling

    def is_to_be_judged(self, worker: WorkerRecord) -> bool:
        return worker.state is WorkerState.READY and not worker.reason

    def judge(self, worker: WorkerRecord, now: float) -> bool:
        """Whether a policy wants a worker replaced; if so, the reason is in its record."""
        for policy in self.policies:
            reason = policy.verdict(worker, now)
            if reason is None:
                continue
            if reason in HEALTH_REASONS and not self._may_heal(worker, reason, now):
                continue
            worker.reason = reason
            return True
        return False

    def end_stalled(self, worker: WorkerRecord) -> None:
        """Kills a READY worker whose event loop is blocked, if that is not too much at once."""
        healing = self._under_way() + sum(slot.is_healing for slot in self.slots.values())
        room = self.settings.max_concurrent_replacements
        if healing >= room:
            self._health_limits.hold_back(
                worker, WORKER_STALL, "max_concurrent_replacements", room, self.roster.now
            )
        elif self._may_heal(worker, WORKER_STALL, self.roster.now):
            self.slots[worker.slot].is_healing = True
            self.roster.kill(worker, "its event loop is blocked", recycled_for=WORKER_STALL)

    def _may_heal(self, worker: WorkerRecord, reason: str, now: float) -> bool:
        limit = self.settings.max_health_recycles or self.target
        return self._health_limits.may_replace(worker, reason, limit, now)

    def _judge_all(self) -> None:
        if self.policies:
            for worker in self.roster:
                if self.is_to_be_judged(worker):
                    self.judge(worker, self.roster.now)

    # Spawning

    def _fill_vacancies(self) -> None:
        for slot in self.slots.values():
            waits_for_reload = self.reloads.candidates is not None and not slot.has_started
            if (
                self.phase is Phase.RUNNING
                and slot.newest(self.generation) is None
                and not waits_for_reload
                and slot.retry_at <= self.roster.now
            ):
                self._spawn(slot, replaces=False)

    def _under_way(self) -> int:
        """Replacements that are starting."""
        return sum(
            worker.replaces and worker.state in (WorkerState.STARTING, WorkerState.OPENING)
            for worker in self.roster
        )

    def _start_replacements(self) -> None:
        room = self.settings.max_concurrent_replacements - self._under_way()
        if self.reloads.candidates is None:
            # A reload does not wait for them: it may be what mends them.
            room -= sum(slot.is_healing for slot in self.slots.values())
        # The oldest first: in the order of slots, the last one would never have its turn where the
        # successors of others are due again soon.
        for slot in sorted(self.slots.values(), key=Slot.seniority):
            if room <= 0:
                return
            if self.reloads.candidates is not None:
                if self._lacks_candidate(slot, self.reloads.candidates):
                    self._spawn_candidate(slot, self.reloads.candidates)
                    room -= 1
            elif self._lacks_successor(slot):
                self._spawn(slot, replaces=True)
                room -= 1

    def _lacks_candidate(self, slot: Slot, reload: Reload) -> bool:
        # Never three in a slot: a successor that was on its way is awaited first.
        return (
            slot.index < reload.target
            and slot.candidate(reload.generation) is None
            and not slot.is_handing_over(self.generation)
        )

    def _lacks_successor(self, slot: Slot) -> bool:
        worker = slot.newest(self.generation)
        return (
            self.phase is Phase.RUNNING
            and worker is not None
            and worker.state is WorkerState.READY
            and (bool(worker.reason) or worker.generation < self.generation)
            and slot.retry_at <= self.roster.now
        )

    def _spawn_candidate(self, slot: Slot, reload: Reload) -> None:
        slot.workers.append(
            self.roster.spawn(slot.index, reload.generation, reload.settings, replaces=True)
        )

    def _spawn(self, slot: Slot, *, replaces: bool) -> None:
        slot.has_started = True
        self.restarts += bool(slot.trouble)
        slot.workers.append(
            self.roster.spawn(slot.index, self.generation, self.settings, replaces=replaces)
        )


def _aim(worker: WorkerRecord) -> str:
    """The state that a worker is on its way to."""
    return "prepared" if worker.state is WorkerState.STARTING else "ready"
