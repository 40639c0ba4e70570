"""An event loop from its beginning to its end, which an application cannot put off."""

from __future__ import annotations

import asyncio
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
    patient: Callable[[], bool],
) -> T:
    """Runs `main` in a loop of its own, as `asyncio.run` does.

    That one waits for ever for a task that ignores its cancellation, and for a thread of the
    default executor.

    Args:
        main: What to run.
        new_loop: Makes the loop.
        patient: Asked when `main` is done: whether to wait for threads as long as they take.
    """
    loop = new_loop()
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            loop.run_until_complete(_end_tasks(loop))
            _end_threads(executor, None if patient() else PATIENCE)
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


def _end_threads(executor: ThreadPoolExecutor, timeout: float | None) -> None:
    executor.shutdown(wait=False, cancel_futures=True)
    # Joining may take for ever, so a thread does that, which nobody waits for in turn.
    joining = threading.Thread(target=executor.shutdown, daemon=True)
    joining.start()
    joining.join(timeout)
