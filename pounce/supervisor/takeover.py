"""A process that takes over from another one: its side of an upgrade; the other is `successor`.

The state and the sockets are there when it starts. It says "prepared" when it could serve, and goes
on when it is told to, or when the other process is gone. Then it serves, answers for files, pidfile
and control socket, and says "done", and the other one drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, Final, Self

from pounce.config.sources import TAKEOVER_ENV
from pounce.errors import PounceError, SupervisorError
from pounce.net.listeners import ListenerGroup
from pounce.supervisor.channel import Channel, fitting
from pounce.supervisor.departures import LONGEST_HOLD, QUIET_CHECK
from pounce.supervisor.keeping import tell_keeper
from pounce.supervisor.origin import ORIGIN
from pounce.supervisor.pidfile import Pidfile

logger = logging.getLogger("pounce.error")

VERSION: Final = 1

_STATE_PATIENCE: Final = 10.0
_STATE_LIMIT: Final = 16 * 1024 * 1024
_LOOK: Final = 0.5
"""Seconds between two looks at whether the other process is still the parent of this one."""


class Takeover:
    """What is given to this process, and the line to the one that it takes over from.

    Args:
        line: The line.
        state: What came over it first.
    """

    def __init__(self, line: socket.socket, state: Mapping[str, Any]) -> None:
        self._line = line
        self._state = state
        self._parent = os.getppid()
        self._channel: Channel | None = None
        self._may_go = asyncio.Event()
        keeper = state["keeper"]
        self.keeper: Final[int | None] = keeper
        """The line to the keeper, where there is one."""
        if keeper is not None:
            os.set_inheritable(keeper, False)

    @classmethod
    def of_this_process(cls) -> Self | None:
        """None for a process that was started in the ordinary way, and the second time.

        Raises:
            SupervisorError: The other process is gone, or of a version that is too different.
        """
        line = _take_line()
        if line is None:
            return None
        _lines.append(line)
        state = _receive_state(line)
        if state.get("version") != VERSION:
            raise SupervisorError("it takes over from a version that is too different")
        return cls(line, state)

    @property
    def listeners(self) -> Mapping[str, Any]:
        """For `ListenerGroup`."""
        state: Mapping[str, Any] = self._state["listeners"]
        return state

    @property
    def admin(self) -> Mapping[str, Any] | None:
        """For the `ListenerGroup` of the master's own server; None where there was none."""
        state: Mapping[str, Any] | None = self._state.get("admin")
        return state

    @property
    def arena(self) -> Mapping[str, Any] | None:
        """For `SharedArena`; None where nothing was counted."""
        state: Mapping[str, Any] | None = self._state.get("arena")
        return state

    @property
    def is_granted(self) -> bool:
        """Whether this process speaks for the program already."""
        return self._may_go.is_set()

    async def wait_for_go(self) -> None:
        """Says that this process is prepared, and returns when it is to serve."""
        self._channel = Channel(self._line, self._receive, self._may_go.set)
        self._channel.send("prepared")
        while not self._may_go.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._may_go.wait(), _LOOK)
            # Something that it has forked off may keep its end of the line open.
            if os.getppid() != self._parent:
                self._may_go.set()

    def _receive(self, message: dict[str, Any]) -> None:
        if message["kind"] == "take over":
            self._may_go.set()

    async def complete(self, listeners: ListenerGroup, slots: int, pidfile: Pidfile | None) -> None:
        """Answers for everything, now that this process serves in its first `slots` slots."""
        tell_keeper(self.keeper, "main", os.getpid())
        await _give_up_surplus(listeners, slots)
        listeners.claim_files()
        try:
            if pidfile is not None:
                pidfile.promote()
        except PounceError as error:
            logger.error("%s", error)

    def done(self) -> None:
        """Lets the other process leave."""
        if self._channel is not None:
            self._channel.send("done")
            self._channel.close()

    def failed(self, reason: str) -> None:
        """Tells the other process, which goes on, why this one cannot take over."""
        _say_failed(self._line, reason)

    def close_copies(self) -> None:
        """In a forked worker: a copy of this end would hide the death of the master."""
        self._line.close()


async def _give_up_surplus(listeners: ListenerGroup, slots: int) -> None:
    """Closes the sockets of slots that the other process had and this one has not. Its workers
    accept there until nothing arrives any more."""
    departures = [listeners.retire_slot(slot) for slot in listeners.slots if slot >= slots]
    deadline = asyncio.get_running_loop().time() + LONGEST_HOLD
    while not all(departure.is_quiet() for departure in departures):
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(QUIET_CHECK)
    for departure in departures:
        departure.close()


# Before there is an event loop

_offers: Final = [] if ORIGIN.takeover is None else [ORIGIN.takeover]
"""The descriptor of the line, until somebody takes it."""
_lines: Final[list[socket.socket]] = []
"""The line, from then on."""


def report_failure(reason: str) -> None:
    """Tells the process that this one should take over from, if there is one, why it cannot. For
    what fails before there is a `Takeover`, or outside of its reach."""
    line = _take_line()
    if line is not None:
        _lines.append(line)
    for each in _lines:
        _say_failed(each, reason)


def _take_line() -> socket.socket | None:
    if not _offers:
        return None
    try:
        line = socket.socket(fileno=int(_offers.pop()))
    except (ValueError, OSError) as error:
        # It came from the environment of somebody else's parent.
        logger.warning("%s names no process to take over from: %s", TAKEOVER_ENV, error)
        return None
    line.set_inheritable(False)
    return line


def _receive_state(line: socket.socket) -> dict[str, Any]:
    received = bytearray()
    line.settimeout(_STATE_PATIENCE)
    try:
        while not received.endswith(b"\n"):
            part = line.recv(65536)
            received += part
            if not part or len(received) > _STATE_LIMIT:
                raise SupervisorError("the process to take over from is gone")
        state: dict[str, Any] = json.loads(received)
    except (OSError, ValueError) as error:
        raise SupervisorError(f"what there is to take over is not told: {error}") from error
    return state


def _say_failed(line: socket.socket, reason: str) -> None:
    message = {"kind": "failed", "message": fitting(reason)}
    with contextlib.suppress(OSError):
        line.send(json.dumps(message).encode() + b"\n")
