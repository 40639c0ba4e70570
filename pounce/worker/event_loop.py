"""An event loop from its beginning to its end, which an application cannot put off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

logger = logging.getLogger("pounce.error")

T = TypeVar("T")

PATIENCE: Final = 2.0
"""Seconds that cancelled tasks, and then threads, get to come to an end."""


def run(
    main: Coroutine[Any, Any, T],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    *,
    seconds_left: Callable[[], float],
) -> T:
    """Runs `main` in a loop of its own, as `asyncio.run` does.

    That one waits for ever for a task that ignores its cancellation, and for a thread of the
    default executor.

    Args:
        main: What to run.
        new_loop: Makes the loop.
        seconds_left: Asked when `main` is done: how long threads may take at least.
    """
    loop = new_loop()
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)

    async def whole() -> T:
        try:
            return await main
        finally:
            await _end_tasks(loop)
            await _end_threads(executor, max(seconds_left(), PATIENCE))

    # One run: uvloop loses a signal that comes between two.
    task = loop.create_task(whole())
    try:
        return loop.run_until_complete(task)
    finally:
        try:
            if not task.done():  # something else than `main` ended the run
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    loop.run_until_complete(task)
            elif not task.cancelled():
                task.exception()  # is raised already: nothing to log
        finally:
            loop.close()


async def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        done, pending = await asyncio.wait(tasks, timeout=PATIENCE)
        for task in done:
            if not task.cancelled() and task.exception() is not None:
                logger.error("exception in a task at the end", exc_info=task.exception())
        if pending:
            logger.error("%d tasks do not end although they were cancelled", len(pending))
    await asyncio.wait({asyncio.ensure_future(loop.shutdown_asyncgens())}, timeout=PATIENCE)


async def _end_threads(executor: ThreadPoolExecutor, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    joined = asyncio.Event()

    def join() -> None:
        executor.shutdown()
        with contextlib.suppress(RuntimeError):  # the loop is closed: it took too long
            loop.call_soon_threadsafe(joined.set)

    # A thread of its own, because joining may take for ever, and the loop still has signals.
    threading.Thread(target=join, daemon=True).start()
    try:
        await asyncio.wait_for(joined.wait(), seconds)
    except TimeoutError:
        executor.shutdown(wait=False, cancel_futures=True)
