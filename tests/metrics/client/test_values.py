"""The lock of an increment, whatever interrupts it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pounce.metrics.client.values import Record, SharedValue, local_cells
from tests.waiting import PATIENCE

INTERRUPTING = (signal.SIGALRM, signal.SIGUSR2)


class Interrupted(Exception):
    """What a signal handler raises, wherever the program is."""


@pytest.fixture
def record() -> Record:
    return Record(local_cells([0.0] * 4))


@pytest.fixture
def interruptions() -> Iterator[None]:
    """The handler raises one for each of two signals."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in INTERRUPTING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_free(record: Record) -> bool:
    """Whether another thread can have the lock."""
    results = []

    def try_it() -> None:
        taken = record.lock.acquire(blocking=False)
        results.append(taken)
        if taken:
            record.lock.release()

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return results == [True]


def wait_for_it(value: SharedValue) -> None:
    """An increment that is interrupted soon."""
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    value.inc(1.0)


@pytest.mark.usefixtures("interruptions")
def test_an_increment_that_is_interrupted_gives_the_lock_back(record: Record) -> None:
    value = SharedValue(record, 1)
    for number in range(500):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-4 + number * 1e-7)
            while True:
                value.inc(1.0)
        except Interrupted:
            assert is_free(record)


@pytest.mark.usefixtures("interruptions")
def test_an_increment_that_is_interrupted_while_it_waits_raises_just_that(record: Record) -> None:
    value = SharedValue(record, 1)
    taken, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with record.lock:
            taken.set()
            may_go.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(PATIENCE)
    with pytest.raises(Interrupted):
        wait_for_it(value)
    may_go.set()
    thread.join()
    assert is_free(record)
    assert value.get() == 0.0


def whatever_interrupts(do: Callable[[], None]) -> None:
    """Goes on also when it is interrupted twice."""
    try:
        try:  # noqa: SIM105
            do()
        except Interrupted:
            pass
    except Interrupted:
        pass


@pytest.mark.usefixtures("interruptions")
def test_an_increment_that_is_interrupted_twice_gives_the_lock_back(record: Record) -> None:
    """One handler raises when the lock is had, the other one as soon as it can after that."""
    value = SharedValue(record, 1)
    waits = threading.get_ident()
    taken = threading.Event()
    interval = sys.getswitchinterval()

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTING)
        with record.lock:
            taken.set()
            time.sleep(0.02)  # the other thread is about to wait for the lock
            sys.setswitchinterval(1.0)  # and does not go on before both signals are sent
        for number in INTERRUPTING:
            signal.pthread_kill(waits, number)

    thread = threading.Thread(target=hold)

    def count() -> None:
        thread.start()
        taken.wait(PATIENCE)
        value.inc(1.0)

    def end() -> None:
        thread.join(PATIENCE)
        signal.pthread_sigmask(signal.SIG_BLOCK, [])  # calls a handler that is still to be called

    whatever_interrupts(count)
    whatever_interrupts(end)
    sys.setswitchinterval(interval)
    assert is_free(record)


def test_an_increment_of_cells_that_are_gone_gives_the_lock_back(record: Record) -> None:
    record.cells.release()
    with pytest.raises(ValueError, match="released"):
        SharedValue(record, 1).inc(1.0)
    assert is_free(record)


class SlowCells(list[float]):
    """Others get their turn between reading a cell and writing it."""

    def __getitem__(self, place: int) -> float:  # type: ignore[override]
        value: float = list.__getitem__(self, place)
        time.sleep(0)
        return value


def test_no_increment_of_several_threads_is_lost(record: Record) -> None:
    record.cells = SlowCells([0.0] * 4)  # type: ignore[assignment]
    value = SharedValue(record, 2)

    def count() -> None:
        for _ in range(1000):
            value.inc(0.5)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value.get() == 2000.0


def test_a_handler_may_count_in_the_middle_of_an_increment(record: Record) -> None:
    value = SharedValue(record, 1)
    handled = 0

    def count(number: int, frame: object) -> None:
        nonlocal handled
        value.inc(1.0)
        handled += 1

    before = signal.signal(signal.SIGALRM, count)
    counted = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        deadline = time.monotonic() + PATIENCE
        while handled < 100 and time.monotonic() < deadline:
            value.inc(1.0)
            counted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handled >= 100
    assert value.get() == counted + handled
