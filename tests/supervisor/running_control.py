"""A control socket that answers beside the test, as a master in another process would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pounce.supervisor.control import ControlServer

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]


class RunningControl:
    """Answers with what `answer` returns or raises; `asked` has every command with its arguments.

    `hold` makes the commands wait that are in it, until the server is closed.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hold: set[str] = set()
        self._answer = answer
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with ControlServer(self.path, self._handle):
            self._started.set()
            await self._stop.wait()

    async def _handle(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((command, arguments))
        if command in self.hold:
            await asyncio.Event().wait()
        return self._answer(command, arguments)
