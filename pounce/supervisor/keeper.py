"""The keeper: what is left of a program that was upgraded, for those who know it by its pid.

A container's runtime, supervisord, systemd with `Type=simple` and a shell wait for the process that
they have started. When another one has taken over its work, that process becomes the keeper: it
passes signals on to the main process, and ends as that one does.

Whoever is the main process writes to the keeper's pipe: `next PID`, a process that is to take over
(0: none), and `main PID`, one that has. There is one keeper, however often the program is upgraded.

This file is run as a script by a bare interpreter, so that the keeper stays small: it imports
nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Final, NoReturn

FORWARDED: Final = tuple(
    getattr(signal, name)
    for name in (
        "SIGTERM",
        "SIGINT",
        "SIGQUIT",
        "SIGHUP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGUSR1",
        "SIGUSR2",
        "SIGWINCH",
    )
    if hasattr(signal, name)
)
"""They are blocked when the keeper begins, so that none is lost meanwhile."""

_FROM_KERNEL: Final = 0x80  # SI_KERNEL, <asm-generic/siginfo.h>
_LOOK: Final = 0.2
"""Seconds between two looks at a process that is no child of this one."""


class _Keeper:
    def __init__(self, main: int, line: int) -> None:
        self._main = main
        self._next = 0
        self._line = line
        self._received = b""
        self._ends: dict[int, int] = {}
        """How children have ended, until it is known which of them mattered."""

    def run(self) -> int:
        """Returns the wait status of the main process, when it has ended."""
        waited_for = {*FORWARDED, signal.SIGCHLD, signal.SIGALRM}
        signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
        while (status := self._look()) is None:
            number, is_from_terminal = _next_signal(waited_for)
            # What comes from a terminal, the main process gets as well.
            if number in FORWARDED and not is_from_terminal and self._look() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._main, number)
        return status

    def _look(self) -> int | None:
        """How the main process has ended; None while there is one."""
        self._read()
        with contextlib.suppress(ChildProcessError):
            while (child := os.waitpid(-1, os.WNOHANG))[0]:
                self._ends[child[0]] = child[1]
        self._read()  # what it has written before its end
        while self._is_gone(self._main):
            if not self._next:
                return self._ends.get(self._main, 0)
            # It was killed while the next one was on its way, which takes over now.
            self._main, self._next = self._next, 0
        return None

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._line, 4096):
                self._received += data
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            kind, _, number = line.partition(b" ")
            pid = int(number)
            self._ends.pop(pid, None)  # of an earlier process with that number
            if kind == b"main":
                self._main, self._next = pid, 0
            else:
                self._next = pid

    def _is_gone(self, pid: int) -> bool:
        if pid in self._ends:
            return True
        try:
            child, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return self._is_gone_elsewhere(pid)
        if child:
            self._ends[pid] = status
        return bool(child)

    def _is_gone_elsewhere(self, pid: int) -> bool:
        """The same of a child of another process, whose end nobody tells: it is looked at again
        soon."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        signal.setitimer(signal.ITIMER_REAL, _LOOK)
        return False


def _next_signal(numbers: set[signal.Signals]) -> tuple[int, bool]:
    """Waits for a signal, and tells whether a terminal has sent it."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return signal.sigwait(numbers), False
    info = signal.sigwaitinfo(numbers)
    return info.si_signo, info.si_code == _FROM_KERNEL


def _end_like(status: int) -> NoReturn:
    """Ends this process in the way that a wait status tells."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    with contextlib.suppress(OSError, ValueError):
        signal.signal(-code, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
    os.kill(os.getpid(), -code)
    # Process 1 of a container does not die of a signal that it has no handler for.
    os._exit(128 - code)


def _take_noted(numbers: int) -> None:
    """Makes the signals pending whose numbers another thread has written to a pipe before it was
    gone. One that is pending already stays single."""
    os.set_blocking(numbers, False)
    with contextlib.suppress(BlockingIOError):
        for number in os.read(numbers, 4096):
            if number in FORWARDED:
                signal.raise_signal(number)
    os.close(numbers)


def main(arguments: list[str]) -> NoReturn:
    """Runs the keeper of the process `arguments[0]`, with the pipe `arguments[1]`; there may be
    numbers of signals in the pipe `arguments[2]`."""
    pid, line, *more = (int(argument) for argument in arguments)
    for numbers in more:
        _take_noted(numbers)
    os.closerange(3, line)
    os.closerange(line + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_blocking(line, False)
    _end_like(_Keeper(pid, line).run())


if __name__ == "__main__":
    main(sys.argv[1:])
