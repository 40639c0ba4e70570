"""The stacks of a worker that does not answer.

In a process faulthandler writes them, in the handler of a signal. That works wherever the process
is: in a call that blocks, in a loop, in an extension module that does not let go of the GIL.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Final

from pounce.runtime import gil_enabled
from pounce.worker.frames import describe_frames

SIGNAL: Final = signal.SIGUSR2
"""What asks a worker process for its stacks."""

_READ_SIZE: Final = 65536


def write_stacks_when_asked(pipe: Connection) -> None:
    """From now on `SIGNAL` has this process write the stacks of all threads to a pipe."""
    # A copy that nothing closes: the handler goes by the number.
    fd = os.dup(pipe.fileno())
    # A full pipe must not hold up the worker; the rest is lost.
    os.set_blocking(fd, False)
    faulthandler.register(SIGNAL, file=fd, all_threads=True)


class StackPipe:
    """The master's end of the pipe of one worker process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)

    def read(self) -> bytes:
        """What is there; nothing if the worker has not written anything."""
        if self._pipe.closed:
            return b""
        try:
            return os.read(self._pipe.fileno(), _READ_SIZE)
        except BlockingIOError:
            return b""

    def drain(self) -> None:
        """Forgets what nobody has asked for."""
        while self.read():
            pass

    def close(self) -> None:
        self._pipe.close()


def stacks_of_threads(ident: int) -> bytes:
    """The stacks of this process, in the form of faulthandler, that of one thread first.

    Args:
        ident: Of that thread. Where there is no GIL it is the only one: the others run meanwhile,
            and their frames are not to be walked.
    """
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    idents = [ident] if ident in frames else []
    if gil_enabled():
        idents += [each for each in frames if each not in (ident, threading.get_ident())]
    parts = [
        f"Thread {names.get(each, each)} (most recent call first):\n{describe_frames(frames[each])}"
        for each in idents
    ]
    return "\n".join(parts).encode(errors="replace")
