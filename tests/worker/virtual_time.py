"""An event loop whose clock jumps: it never sleeps, so deadlines of minutes are tested at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it says how long the loop wanted to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                # Only another thread could wake the loop: that wait has to be real.
                return super().select(20)
            self.skipped += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its `time()` moves only when there is nothing to do, and then to the next timer."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.skipped

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        # Threads end in real time: a timeout would be over before they have.
        await super().shutdown_default_executor()

    def skip(self, seconds: float) -> None:
        """Lets time pass in which nothing runs."""
        self._jumping.skipped += seconds


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)


def block(seconds: float) -> None:
    """As if something had kept the running loop from its timers for so long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.skip(seconds)


async def settle(turns: int = 6) -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(turns):
        await asyncio.sleep(0)
