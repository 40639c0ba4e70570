"""How a process becomes the keeper of the one that has taken over from it, and what the keeper is
told; see `keeper`."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final, NoReturn

from pounce.supervisor import keeper
from pounce.supervisor.prctl import prctl

_PR_SET_CHILD_SUBREAPER: Final = 36  # <linux/prctl.h>


def open_line() -> tuple[int, int]:
    """A pipe to the keeper that this process will be: the end to read and the end to write."""
    ours, theirs = os.pipe()
    for end in (ours, theirs):
        os.set_blocking(end, False)
    return ours, theirs


def tell_keeper(line: int | None, kind: str, pid: int) -> None:
    """Writes a message of `keeper`; where there is no keeper (any more), it is nothing."""
    if line is not None:
        with contextlib.suppress(OSError):
            os.write(line, f"{kind} {pid}\n".encode())


async def hold_signals_of_loop() -> None:
    """Signals that the running loop has not answered yet, and those that come from now on, are kept
    for the keeper. To be called in the main thread, before the loop ends.

    Other threads, such as one that is stuck in the application, do not have them blocked, and take
    what comes. The interpreter then writes the number to a descriptor, which the loop goes by, and
    calls the handler in the main thread. At any moment the signal is kept by what is done with the
    number, by the handler, or by both, which makes it pending once.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.FORWARDED)
    loop = asyncio.get_running_loop()
    answered = asyncio.Event()
    loop.add_signal_handler(signal.SIGURG, answered.set)
    for number in keeper.FORWARDED:
        loop.add_signal_handler(number, signal.raise_signal, number)
    with _noted_signals() as (numbers, of_loop):
        for number in keeper.FORWARDED:
            signal.signal(number, _keep)
        # The loop learns of signals in their order: then it has been told of all before.
        os.write(of_loop, bytes([signal.SIGURG]))
        await answered.wait()
        for noted in _read(numbers):
            if noted in keeper.FORWARDED:
                signal.raise_signal(noted)
    loop.remove_signal_handler(signal.SIGURG)
    forgetting = threading.Thread(target=_forget_handlers, args=[loop])
    forgetting.start()
    forgetting.join()


def _forget_handlers(loop: asyncio.AbstractEventLoop) -> None:
    """Keeps `loop.close()` from giving the signals their default actions, which end the process."""
    for number in keeper.FORWARDED:
        # The loop forgets the handler, but only the main thread may change that of the process.
        with contextlib.suppress(ValueError):
            loop.remove_signal_handler(number)


def hold_signals() -> None:
    """The same where there is no loop (any more)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.FORWARDED)
    for number in keeper.FORWARDED:
        signal.signal(number, _keep)


def is_held(number: int) -> bool:
    """Whether a signal is kept for the keeper."""
    return signal.getsignal(number) is _keep


def _keep(number: int, _frame: object) -> None:
    # Handlers run in the main thread, where it is blocked and so waits for the keeper.
    signal.raise_signal(number)


@contextlib.contextmanager
def _noted_signals() -> Iterator[tuple[int, int]]:
    """Has the numbers of signals written to a pipe: its end to read, and the descriptor that they
    were written to before."""
    ours, theirs = os.pipe()
    for end in (ours, theirs):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    after = before
    try:
        yield ours, before
        after = -1  # whose descriptor it was, may close it now
    finally:
        signal.set_wakeup_fd(after, warn_on_full_buffer=False)
        os.close(ours)
        os.close(theirs)


def _read(numbers: int) -> bytes:
    try:
        return os.read(numbers, 4096)
    except BlockingIOError:
        return b""


def become_keeper(main: int, line: int) -> NoReturn:
    """Goes on as the keeper of the process `main`; `line` is the end of `open_line` to read.

    Nothing of the program is left after that, so what it had registered for its end is run.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    hold_signals()
    # Whoever takes over from `main` is to be a child of this process when `main` is gone.
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    with _noted_signals() as (numbers, _), contextlib.suppress(OSError):
        # Another thread may take one that the main thread does not come to any more.
        for end in (line, numbers):
            os.set_inheritable(end, True)
        arguments = [str(main), str(line), str(numbers)]
        # A bare interpreter, without the packages of the environment, takes a third of the memory.
        os.execv(sys.executable, [sys.executable, "-I", "-S", keeper.__file__, *arguments])
    keeper.main([str(main), str(line)])
