"""A reload: asked for, under way, over.

```
 asked for ──> preparing: candidates are spawned and held in PREPARED
                  │   │ one fails, is late, or the pool is drained or stopped
                  │   └──> failed: candidates leave, all else is as it was
                  │ all slots have a PREPARED one
                  v
               committed: candidates are told to serve; each predecessor drains when its
                  │       successor is READY. No way back: from here on failures are crashes.
                  v none is left between PREPARED and READY
               succeeded
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pounce.supervisor.pool_settings import PoolSettings


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    settings: PoolSettings | None
    """None: those of the pool as it is when the reload begins."""


@dataclass(slots=True, eq=False)
class Reload:
    """The one under way."""

    generation: int
    settings: PoolSettings
    target: int
    """Size of the pool when it is committed."""
    started_at: float
    members: frozenset[int] | None = None
    """The candidates that were told to serve, by worker id; None before the commit."""
    lost: int = 0
    """How many of them failed."""

    @property
    def is_preparing(self) -> bool:
        return self.members is None


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    generation: int
    result: Literal["succeeded", "failed"]
    reason: str
    """Why it failed, or what went wrong although it succeeded."""
    at: float
    """Monotonic seconds."""
