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
    """Signals that come from now on are kept for the keeper; those that have come are answered by
    the handlers of the running loop. To be called in the main thread, before the loop ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.FORWARDED)
    loop = asyncio.get_running_loop()
    # The loop learns of signals from a pipe, so all that came before this one have been answered.
    answered = asyncio.Event()
    loop.add_signal_handler(signal.SIGURG, answered.set)
    signal.raise_signal(signal.SIGURG)
    await answered.wait()
    loop.remove_signal_handler(signal.SIGURG)
    for number in keeper.FORWARDED:
        # One by one: until it has its next handler, a signal ends the process.
        loop.remove_signal_handler(number)
        signal.signal(number, _keep)


def hold_signals() -> None:
    """The same where there is no loop (any more)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, keeper.FORWARDED)
    # Other threads, such as one that is stuck in the application, take them nevertheless.
    for number in keeper.FORWARDED:
        signal.signal(number, _keep)


def is_held(number: int) -> bool:
    """Whether a signal is kept for the keeper."""
    return signal.getsignal(number) is _keep


def _keep(number: int, _frame: object) -> None:
    # Handlers run in the main thread, where it is blocked and so waits for the keeper.
    signal.pthread_kill(threading.get_ident(), number)


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
    os.set_inheritable(line, True)
    arguments = [str(main), str(line)]
    # A bare interpreter, without the packages of the environment, takes a third of the memory.
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, "-I", "-S", keeper.__file__, *arguments])
    keeper.main(arguments)
