"""Threads of synchronous work that do not come back.

Such work waits in vain for a lock or a database, say, while the event loop goes on. When all
threads of an executor are stuck, no request that needs one is answered any more.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import thread as executor_threads
from types import CodeType, FrameType
from typing import Final, NamedTuple

from pounce.worker.frames import describe_frames

logger = logging.getLogger("pounce.error")

PERIOD: Final = 1.0
"""Seconds between two looks."""

# A frame of its own for each call: of ThreadPoolExecutor, so of asyncio's default executor and
# those of asgiref.
_WORK_ITEM: Final = executor_threads._WorkItem.run.__code__
# The frame of the whole thread, that calls the work: of AnyIO.
_ANYIO_MODULE: Final = "anyio._backends._asyncio"
_ANYIO_THREAD: Final = "WorkerThread.run"
_QUEUE_GET: Final = queue.Queue.get.__code__


class _Call(NamedTuple):
    number: int
    """The id of its frame, which another frame may have had before."""
    frame: FrameType | None
    """Held only from the second look on: it keeps alive what the call has, for a moment longer
    than the call lasts. While it is held, its id is of this call alone."""
    since: float
    is_stuck: bool


class StuckThreads:
    """Counts the threads that have been in one call of synchronous work for too long.

    Args:
        timeout: Seconds from which on that is too long.
        report: Gets the name and the stack of each thread that is found stuck.
    """

    def __init__(
        self, timeout: float, report: Callable[[str, FrameType], None] | None = None
    ) -> None:
        self._timeout = timeout
        self._report = report
        self._calls: dict[int, _Call] = {}
        """By thread."""

    def count(self, now: float) -> int:
        """Looks at all threads; how many are stuck.

        Args:
            now: The time in seconds.
        """
        calls = {}
        own = threading.get_ident()
        for ident, innermost in sys._current_frames().items():
            frame = None if ident == own else call_of(innermost)
            if frame is not None:
                call = self._follow(self._calls.get(ident), frame, now)
                if call.is_stuck and self._report and not self._calls[ident].is_stuck:
                    self._report(_name_of(ident), innermost)
                calls[ident] = call
        self._calls = calls
        return sum(call.is_stuck for call in calls.values())

    def _follow(self, before: _Call | None, frame: FrameType, now: float) -> _Call:
        if before is None or before.number != id(frame):
            return _Call(id(frame), None, now, False)
        if before.frame is None:
            return _Call(id(frame), frame, now, False)
        return before._replace(is_stuck=now - before.since >= self._timeout)


class ThreadWatch:
    """Looks for stuck threads once in a while, in the event loop.

    Args:
        threads: Does it.
        store: Gets their number.
    """

    def __init__(self, threads: StuckThreads, store: Callable[[int], None]) -> None:
        self._threads = threads
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._handle = self._loop.call_later(PERIOD, self._look)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _look(self) -> None:
        self._store(self._threads.count(self._loop.time()))
        self.start()


def call_of(frame: FrameType | None) -> FrameType | None:
    """The outermost frame of the synchronous work that a thread does; None: it does none.

    Work of AnyIO that is a C function has none, and is not seen.

    Args:
        frame: The thread's innermost one.
    """
    call = inner = None
    while frame is not None:
        code = frame.f_code
        if code is _WORK_ITEM:
            call = frame
        elif inner is not None and inner.f_code is not _QUEUE_GET and _is_anyio(code, frame):
            call = inner
        inner, frame = frame, frame.f_back
    return call


def log_stuck_thread(name: str, innermost: FrameType) -> None:
    """Says where a thread is stuck."""
    logger.warning(
        "thread %s has been in one call for too long:\n%s", name, describe_frames(innermost)
    )


def _is_anyio(code: CodeType, frame: FrameType) -> bool:
    return code.co_qualname == _ANYIO_THREAD and frame.f_globals.get("__name__") == _ANYIO_MODULE


def _name_of(ident: int) -> str:
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return str(ident)
