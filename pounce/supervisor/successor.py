"""The process that is to take over from this one, as this one sees it.

It is started like this one was, inherits the listening sockets, and is told the rest over a pair of
sockets: first the state, then, when it has said that it is "prepared", "take over"; its "done" says
that it serves. Its own side is in `takeover`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from pounce.config.sources import TAKEOVER_ENV
from pounce.errors import SupervisorError
from pounce.supervisor.channel import Channel
from pounce.supervisor.origin import ORIGIN
from pounce.supervisor.worker_record import describe_exit

logger = logging.getLogger("pounce.error")

TERM_PATIENCE: Final = 5.0
"""Seconds from SIGTERM to SIGKILL for a successor that has failed. It serves nobody."""
_END_PATIENCE: Final = 2.0


class SuccessorFailed(SupervisorError):
    """There will be no change of processes, with the reason."""


class Successor:
    """One process, from its start until it serves, or has failed.

    Args:
        process: Just started.
        line: This side of the pair of sockets.
    """

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self.pid: Final = process.pid
        self._process = process
        self._line = line
        self._line.setblocking(False)
        self._channel: Channel | None = None
        self._said: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = self._watch()

    @classmethod
    def start(cls, fds: Sequence[int], variables: Mapping[str, str]) -> Self:
        """Starts the program once more.

        Args:
            fds: What it inherits, under the same numbers.
            variables: For its environment.

        Raises:
            SuccessorFailed: The system does not let it start.
        """
        ours, theirs = socket.socketpair()
        own = {TAKEOVER_ENV: str(theirs.fileno())}
        try:
            process = subprocess.Popen(
                ORIGIN.command,
                cwd=ORIGIN.directory,
                env={**ORIGIN.environment, **variables, **own},
                pass_fds=[*fds, theirs.fileno()],
            )
        except OSError as error:
            ours.close()
            raise SuccessorFailed(f"it cannot be started: {error}") from error
        finally:
            theirs.close()
        return cls(process, ours)

    def _watch(self) -> int | None:
        """Sees the end of the process, and leaves it to others to be waited for."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except (AttributeError, OSError):

            def wait() -> None:
                self._process.wait()
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_exit)

            threading.Thread(target=wait, name="successor-watch", daemon=True).start()
            return None
        self._loop.add_reader(pidfd, self._on_exit)
        return pidfd

    def _on_exit(self) -> None:
        self._unwatch()
        if self._channel is not None:
            self._channel.read_rest()
        self._exited.set()

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    # What is said

    async def give(self, state: Mapping[str, Any]) -> None:
        """Sends the state, which may be larger than what a socket holds."""
        # One that does not read any more may have said why: `expect` tells.
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._line, json.dumps(state).encode() + b"\n")
        self._channel = Channel(
            self._line, self._said.put_nowait, lambda: self._said.put_nowait(None)
        )
        if self._exited.is_set():
            self._channel.read_rest()

    def tell(self, kind: str) -> None:
        assert self._channel is not None
        self._channel.send(kind)

    async def expect(self, kind: str) -> None:
        """Waits for its next message.

        Raises:
            SuccessorFailed: It says why it has failed, or has ended.
        """
        message = await self._said.get()
        if message is None:
            raise SuccessorFailed(await self._describe_end())
        if message["kind"] == "failed":
            raise SuccessorFailed(str(message["message"]))
        if message["kind"] != kind:
            raise SuccessorFailed(f"it said {message['kind']!r} in place of {kind!r}")

    async def _describe_end(self) -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), _END_PATIENCE)
        code = self._process.poll()
        if code is None:
            return "it says nothing any more"
        return f"the new process (pid {self.pid}) {describe_exit(code)}"

    # The end

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def end(self) -> None:
        """Ends the process, and its workers with it: they leave when their master is gone."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._exited.is_set():
                self.signal(number)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._exited.wait(), TERM_PATIENCE)
        self._process.poll()
        self.let_go()

    def let_go(self) -> None:
        """Nothing more is said or heard. The process goes on, and who waits for it is not here."""
        self._unwatch()
        self.close_line()
        if self._process.returncode is None:
            self._process.returncode = 0  # else its destructor warns that it runs

    def close_line(self) -> None:
        """Also in a forked worker, where a copy would hide the death of this process."""
        if self._channel is not None:
            self._channel.close()
        self._line.close()

    def close_copies(self) -> None:
        """In a forked worker: a copy of this end would hide the death of the master."""
        self._line.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
