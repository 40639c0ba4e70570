"""How a worker does: what was measured of it from outside, and what follows from that over time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_STEPS: Final = 60
"""Into so many parts a window is divided; it may be longer by one of them."""


class HealthSample(NamedTuple):
    """What was measured at one moment; None is what this system does not tell."""

    rss: int | None = None
    """Bytes of resident memory."""
    open_fds: int | None = None
    fd_limit: int | None = None
    """The worker's own RLIMIT_NOFILE."""
    answers: int = 0
    """Responses so far."""
    errors: int = 0
    """Those of them that the application gave with a status of 5xx."""
    stuck_threads: int = 0
    """Threads of synchronous work that have been in one call for `thread_stall_timeout`."""


NOTHING_MEASURED: Final = HealthSample()


class _Answers(NamedTuple):
    at: float
    answers: int
    errors: int


@dataclass(slots=True)
class WorkerHealth:
    """What policies go by. All is 0 or None while nothing was measured."""

    sample: HealthSample = NOTHING_MEASURED
    settled_rss: int | None = None
    """Memory when the worker had been READY for `rss_settle_time`."""
    answers: int = 0
    """Responses within the last `error_rate_window`."""
    errors: int = 0
    _window: deque[_Answers] = field(default_factory=deque)

    def note(self, sample: HealthSample, now: float, *, settled: bool, window: float) -> None:
        """Takes note of a sample.

        Args:
            sample: The latest.
            now: When it was taken, in seconds.
            settled: Whether the worker has been READY for long enough to have its usual size.
            window: Seconds over which errors are counted.
        """
        self.sample = sample
        if settled and self.settled_rss is None:
            self.settled_rss = sample.rss
        if not self._window:
            self._window.append(_Answers(now, 0, 0))  # a worker begins to count at 0
        while len(self._window) > 1 and self._window[1].at <= now - window:
            self._window.popleft()
        self.answers = sample.answers - self._window[0].answers
        self.errors = sample.errors - self._window[0].errors
        if now - self._window[-1].at >= window / _STEPS:
            self._window.append(_Answers(now, sample.answers, sample.errors))
