"""Who asked for a reload and waits to be told how it went."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

Answer: TypeAlias = dict[str, Any]


class ReloadWaiters:
    """Those of the reload under way, and those of the one that follows it."""

    def __init__(self) -> None:
        self._current: list[asyncio.Future[Answer]] = []
        self._next: list[asyncio.Future[Answer]] = []

    def add(self) -> asyncio.Future[Answer]:
        """One more for the next reload to start."""
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._next.append(waiter)
        return waiter

    def started(self) -> None:
        """What was to follow is under way."""
        self._current += self._next
        self._next = []

    def ended(self, result: str, reason: str | None, generation: int) -> None:
        """The one under way is over."""
        waiters, self._current = self._current, []
        _answer(waiters, result, reason, generation)

    def given_up(self, reason: str, generation: int) -> None:
        """There will be none to follow."""
        waiters, self._next = self._next, []
        _answer(waiters, "failed", reason, generation)


def _answer(
    waiters: list[asyncio.Future[Answer]], result: str, reason: str | None, generation: int
) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result({"result": result, "reason": reason, "generation": generation})
