from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from pounce.runtime import gil_enabled
from pounce.worker.stuck_threads import StuckThreads, call_of
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not gil_enabled(), reason="frames are not walked without the GIL")


def frame_of(thread: threading.Thread) -> FrameType:
    assert thread.ident is not None
    return sys._current_frames()[thread.ident]


class Work:
    """Calls of an executor with one thread, which end when they are told to."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._begun = threading.Event()
        self._end = threading.Event()

    def begin(self) -> None:
        self._begun.clear()
        self._end.clear()
        self._future = self._executor.submit(self._run)
        assert self._begun.wait(60)

    def _run(self) -> None:
        self._begun.set()
        self._end.wait(60)

    def end(self) -> None:
        self._end.set()
        self._future.result(60)


def test_one_call_that_lasts_is_stuck_and_reported_once() -> None:
    reported = []
    threads = StuckThreads(10, lambda name, frame: reported.append(name))
    with ThreadPoolExecutor(1, "test") as executor:
        work = Work(executor)
        work.begin()
        # Followed from the second look on.
        assert [threads.count(now) for now in (0, 1, 10.9, 11, 20)] == [0, 0, 0, 1, 1]
        assert reported == ["test_0"]
        work.end()
        # The thread comes out of the call a moment after its result.
        wait_until(lambda: threads.count(21) == 0, "it has come back")


def test_calls_one_after_the_other_are_not() -> None:
    threads = StuckThreads(10)
    with ThreadPoolExecutor(1) as executor:
        work = Work(executor)
        for now in range(0, 40, 4):
            work.begin()
            assert threads.count(now) == 0
            assert threads.count(now + 1) == 0
            work.end()


def test_threads_of_the_application_itself_are_left_alone() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(30,))
    thread.start()
    try:
        assert call_of(frame_of(thread)) is None
    finally:
        end.set()
        thread.join()
