"""A worker seen from the master: its process or thread, and the line to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import ForkProcess, SpawnProcess
from typing import Any, Final, TypeAlias

import psutil

from pounce.supervisor import stacks
from pounce.supervisor.channel import Channel
from pounce.supervisor.stacks import StackPipe, stacks_of_threads
from pounce.supervisor.worker_process import LEFT_TO_THE_MASTER, WorkerSpec, worker_main
from pounce.supervisor.worker_thread import WorkerThread

_STOPPED: Final = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)

Receive: TypeAlias = Callable[[int, dict[str, Any]], None]
"""Gets the id of a worker and a message of it."""


class WorkerHandle(ABC):
    """One worker.

    Args:
        worker_id: Its number.
        line: The master's end of its channel.
        receive: Gets its messages.
    """

    def __init__(self, worker_id: int, line: socket.socket, receive: Receive) -> None:
        self.worker_id = worker_id
        self.last_words = ""
        """Why it could not start, if it said so."""
        self._line = line
        self._channel = Channel(line, lambda message: receive(worker_id, message), lambda: None)

    @property
    @abstractmethod
    def pid(self) -> int:
        """What the system knows it by."""

    @property
    @abstractmethod
    def sentinel(self) -> int:
        """A descriptor that is readable when the worker has come to its end."""

    def tell(self, kind: str, **fields: Any) -> None:
        """Sends a message; one to a worker that is gone is lost."""
        self._channel.send(kind, **fields)

    @abstractmethod
    def signal(self, number: signal.Signals) -> None:
        """Sends SIGTERM or SIGKILL. The only place where a worker is killed."""

    @abstractmethod
    def ask_for_stacks(self) -> None:
        """Has the worker tell where each of its threads is, for `read_stacks`."""

    @abstractmethod
    def read_stacks(self) -> bytes:
        """What it has told so far and was not read yet; never waits."""

    def is_stopped(self) -> bool:
        """Whether a signal or a debugger keeps it from running."""
        return False

    def end(self) -> int:
        """Tidies up after the worker, which has come to its end, when its last messages have been
        received; its exit code, negative for a signal."""
        self._channel.read_rest()
        code = self._join()
        self._channel.close()
        return code

    @abstractmethod
    def _join(self) -> int: ...

    def close_line(self) -> None:
        """In a forked sibling: a copy of this end would hide the master's death."""
        self._line.close()


class ProcessHandle(WorkerHandle):
    """A worker process, already started."""

    def __init__(
        self,
        worker_id: int,
        process: SpawnProcess | ForkProcess,
        line: socket.socket,
        receive: Receive,
        pipe: StackPipe,
    ) -> None:
        super().__init__(worker_id, line, receive)
        self.process = process
        self._stacks = pipe
        self._pidfd = _open_pidfd(self.pid)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def sentinel(self) -> int:
        return self.process.sentinel if self._pidfd is None else self._pidfd

    def signal(self, number: signal.Signals) -> None:
        # Not reaped before `end`, so the pid cannot be somebody else's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ask_for_stacks(self) -> None:
        self._stacks.drain()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, stacks.SIGNAL)

    def read_stacks(self) -> bytes:
        return self._stacks.read()

    def is_stopped(self) -> bool:
        try:
            return psutil.Process(self.pid).status() in _STOPPED
        except psutil.Error:
            return False

    def _join(self) -> int:
        self._stacks.close()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        assert code is not None
        return code

    def close_line(self) -> None:
        super().close_line()
        self._stacks.close()
        if self._pidfd is not None:
            os.close(self._pidfd)


class ThreadHandle(WorkerHandle):
    """A worker thread, already started."""

    def __init__(
        self, worker_id: int, thread: WorkerThread, line: socket.socket, receive: Receive
    ) -> None:
        super().__init__(worker_id, line, receive)
        self._thread = thread
        self._has_asked = False

    @property
    def pid(self) -> int:
        return self._thread.native_id

    @property
    def sentinel(self) -> int:
        return self._thread.sentinel

    def signal(self, number: signal.Signals) -> None:
        # Asked for, as nothing ends a thread from outside: one that is stuck does not hear it.
        if number == signal.SIGTERM:
            self.tell("drain", gentle=False, seconds=0.0)
        else:
            self.tell("kill")

    def ask_for_stacks(self) -> None:
        self._has_asked = True

    def read_stacks(self) -> bytes:
        has_asked, self._has_asked = self._has_asked, False
        return stacks_of_threads(self._thread.ident) if has_asked else b""

    def _join(self) -> int:
        self._thread.join()
        code = self._thread.exit_code
        assert code is not None
        return code


def _open_pidfd(pid: int) -> int | None:
    """Where the system has it: multiprocessing's own sentinel is a pipe, which a process that the
    application has forked off holds open beyond the end of its worker."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def start_process(
    spec: WorkerSpec, close_inherited: Callable[[], None]
) -> SpawnProcess | ForkProcess:
    """Starts a worker: spawned where it imports its application, forked where it is given one.

    Raises:
        OSError: There is no process to be had.
    """
    if spec.app is None:
        process: SpawnProcess | ForkProcess = multiprocessing.get_context("spawn").Process(
            target=worker_main, args=(spec,), name=f"worker-{spec.worker_id}"
        )
    else:
        process = multiprocessing.get_context("fork").Process(
            target=worker_main, args=(spec, close_inherited), name=f"worker-{spec.worker_id}"
        )
    if spec.app is None:
        # Before, because it lifts a mask of its own when it starts.
        resource_tracker.ensure_running()
    # A terminal sends its signals to every process, also to one that has not got to ignoring them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_MASTER)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process
