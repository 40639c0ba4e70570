"""A worker seen from the master: its process and the line to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.context import ForkProcess, SpawnProcess
from typing import Any

from pounce.supervisor.channel import Channel
from pounce.supervisor.worker_process import LEFT_TO_THE_MASTER, WorkerSpec, worker_main


class WorkerHandle:
    """One worker process.

    Args:
        worker_id: Its number.
        process: Already started.
        line: The master's end of its channel.
        receive: Gets its messages.
    """

    def __init__(
        self,
        worker_id: int,
        process: SpawnProcess | ForkProcess,
        line: socket.socket,
        receive: Callable[[int, dict[str, Any]], None],
    ) -> None:
        self.worker_id = worker_id
        self.process = process
        self.last_words = ""
        """Why it could not start, if it said so."""
        self._line = line
        self._pidfd = _open_pidfd(self.pid)
        self._channel = Channel(line, lambda message: receive(worker_id, message), lambda: None)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable when the process has exited."""
        return self.process.sentinel if self._pidfd is None else self._pidfd

    def tell(self, kind: str, **fields: Any) -> None:
        """Sends a message; one to a worker that is gone is lost."""
        self._channel.send(kind, **fields)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal. The only place where a worker is killed."""
        # Not reaped before `end`, so the pid cannot be somebody else's.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> int:
        """Reaps the process, which has exited, when its last messages have been received; its exit
        code, negative for a signal."""
        self._channel.read_rest()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        self._channel.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        assert code is not None
        return code

    def close_line(self) -> None:
        """In a forked sibling: a copy of this end would hide the master's death."""
        self._line.close()
        if self._pidfd is not None:
            os.close(self._pidfd)


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
