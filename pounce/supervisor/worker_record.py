"""One worker as the master sees it, and the table of what may become of it.

```
           says            told             says
          prepared        to serve         ready
 STARTING ───────> PREPARED ───> OPENING ───────> READY
    │                 │             │               │
    └────────┬────────┴─────────────┴───────────────┘
             │ told to leave                         any of them
             v                 killed                  │ exited, or written off
          DRAINING ──────────────────> KILLED          v
                 (so may be any of the above)        EXITED
```

A worker waits in PREPARED only while a reload holds it back. OPENING and KILLED are the moments
between an order and its effect: "told to serve" and "SIGKILL sent". They are states, so that they
have deadlines like the others.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.worker_health import HealthSample, WorkerHealth

STARTUP_FAILED: Final = 3
"""Exit code of a worker whose application cannot be loaded or refuses to start."""


class WorkerState(StrEnum):
    STARTING = "starting"
    """Spawned; loads the application and runs its lifespan startup."""
    PREPARED = "prepared"
    """Could serve, but has not been told to."""
    OPENING = "opening"
    """Told to serve; is about to accept."""
    READY = "ready"
    """Accepts connections."""
    DRAINING = "draining"
    """Told to leave; finishes what is in flight."""
    KILLED = "killed"
    """SIGKILL was sent; only its end can follow."""
    EXITED = "exited"


class Step(StrEnum):
    """What happens to a worker."""

    SAID_PREPARED = "said prepared"
    SAID_READY = "said ready"
    TOLD_TO_SERVE = "told to serve"
    TOLD_TO_LEAVE = "told to leave"
    KILLED = "killed"
    EXITED = "exited"


_S = WorkerState
_PRESENT: Final = (_S.STARTING, _S.PREPARED, _S.OPENING, _S.READY)

TRANSITIONS: Final[Mapping[tuple[WorkerState, Step], WorkerState]] = {
    (_S.STARTING, Step.SAID_PREPARED): _S.PREPARED,
    (_S.PREPARED, Step.TOLD_TO_SERVE): _S.OPENING,
    (_S.OPENING, Step.SAID_READY): _S.READY,
    **{(state, Step.TOLD_TO_LEAVE): _S.DRAINING for state in _PRESENT},
    **{(state, Step.KILLED): _S.KILLED for state in (*_PRESENT, _S.DRAINING)},
    **{(state, Step.EXITED): _S.EXITED for state in (*_PRESENT, _S.DRAINING, _S.KILLED)},
}
"""A pair that is not listed changes nothing: messages and orders may cross on their way."""


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """What the master knows of one worker. Times are monotonic seconds."""

    worker_id: int
    """Counts up for the life of the master; never used twice."""
    slot: int
    generation: int
    settings: PoolSettings
    """Those of its generation: its time limits are in them."""
    spawned_at: float
    jitter: float
    """Between 0 and 1, drawn once, so that workers of one age do not retire all together."""
    replaces: bool = False
    """Whether it was spawned to take over, and so counts as a replacement under way."""

    state: WorkerState = WorkerState.STARTING
    deadline: float | None = None
    """When the state ends by force; None: it may last."""
    pid: int | None = None
    """Unknown until the spawn is reported."""
    owed_signal: signal.Signals | None = None
    """What could not be sent because the pid was not known."""
    ready_at: float | None = None
    drains_gently: bool = False
    reason: str = ""
    """Why it is to be replaced, or why it leaves."""

    requests: int = 0
    connections: int = 0
    in_flight: int = 0
    health: WorkerHealth = field(default_factory=WorkerHealth)

    def measured(self, sample: HealthSample, now: float) -> None:
        """Takes note of what was measured of it."""
        settings = self.settings
        settled = self.ready_at is not None and now >= self.ready_at + settings.rss_settle_time
        self.health.note(sample, now, settled=settled, window=settings.error_rate_window)

    def move(self, step: Step, now: float) -> bool:
        """Whether the table has this step; if so it is done."""
        state = TRANSITIONS.get((self.state, step))
        if state is None:
            return False
        self.state = state
        limit = self.time_limit()
        self.deadline = None if limit is None else now + limit
        return True

    def time_limit(self) -> float | None:
        """How long it may stay in its state; None: for ever."""
        settings = self.settings
        match self.state:
            case WorkerState.STARTING | WorkerState.OPENING:
                return settings.timeout_worker_boot
            case WorkerState.DRAINING:
                return settings.timeout_graceful_shutdown + settings.drain_margin
            case WorkerState.KILLED:
                return settings.kill_patience
            case _:
                return None

    @property
    def is_present(self) -> bool:
        """Whether it serves or is to serve."""
        return self.state in _PRESENT

    @property
    def may_accept(self) -> bool:
        return self.state in (WorkerState.OPENING, WorkerState.READY)

    @property
    def seniority(self) -> tuple[int, int]:
        """The greater one takes over from the smaller one."""
        return (self.generation, self.worker_id)

    def __str__(self) -> str:
        pid = "" if self.pid is None else f" (pid {self.pid})"
        return f"worker {self.worker_id}{pid}"


def describe_exit(exit_code: int) -> str:
    """What an exit code says, to follow the name of a worker; negative is a signal."""
    if exit_code == STARTUP_FAILED:
        return "exited with code 3 (startup failed)"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    # The kernel's OOM killer is the usual sender that nobody thinks of.
    hint = ", perhaps for want of memory" if exit_code == -signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
