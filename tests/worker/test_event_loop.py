"""How an event loop comes to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from pounce.worker import event_loop

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])


@LOOPS
def test_a_signal_that_comes_when_main_is_done_is_not_lost(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    may_end = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, may_end.set)
        loop.run_in_executor(None, may_end.wait, 30)

    def seconds_left() -> float:
        os.kill(os.getpid(), signal.SIGUSR1)
        return 20.0

    begun = time.monotonic()
    event_loop.run(main(), new_loop, seconds_left=seconds_left)
    assert may_end.is_set()
    assert time.monotonic() - begun < 20


@LOOPS
def test_what_else_ends_the_run_ends_main_and_its_tasks(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    ended = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        task = asyncio.ensure_future(wait("task"))
        asyncio.get_running_loop().call_soon(interrupt)
        await wait("main")
        await task

    with pytest.raises(KeyboardInterrupt):
        event_loop.run(main(), new_loop, seconds_left=lambda: 0.0)
    assert sorted(ended) == ["main", "task"]


@LOOPS
def test_what_main_raises_is_raised(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as raised:
        event_loop.run(main(), new_loop, seconds_left=lambda: 0.0)
    assert raised.value.code == 3
