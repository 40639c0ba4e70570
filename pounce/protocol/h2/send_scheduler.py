"""Whose turn it is to send (RFC 9218): the most urgent first, among equals as they asked for.

What waits has content and a window of its stream that is open. What has content, but no window, is
blocked until the peer opens it.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from operator import attrgetter
from typing import Final

from pounce.protocol.h2.streams import Outgoing

URGENCIES: Final = 8

_by_id: Final = attrgetter("stream_id")


class _Level:
    """Those of one urgency."""

    __slots__ = ("serial", "serial_next", "shared")

    def __init__(self) -> None:
        self.serial: list[Outgoing] = []
        """Sent one after the other, in the order of their requests."""
        self.shared: deque[Outgoing] = deque()
        """Sent in turns, frame by frame."""
        self.serial_next = True
        """The serial ones have one turn among the others."""


class SendScheduler:
    """The responses of a connection that have content to send."""

    __slots__ = ("_levels", "blocked", "waiting")

    def __init__(self) -> None:
        self._levels = tuple(_Level() for _ in range(URGENCIES))
        self.waiting = 0
        """How many could send, as far as their own windows go."""
        self.blocked: dict[int, Outgoing] = {}
        """Those whose windows are shut, by stream."""

    def add(self, outgoing: Outgoing) -> None:
        """It has content, and its window is open."""
        if outgoing.is_waiting:
            return
        self.blocked.pop(outgoing.stream_id, None)
        outgoing.is_waiting = True
        self.waiting += 1
        level = self._levels[outgoing.urgency]
        if outgoing.is_serial:
            insort(level.serial, outgoing, key=_by_id)
        else:
            level.shared.append(outgoing)

    def block(self, outgoing: Outgoing) -> None:
        """It has content, and its window is shut."""
        self.remove(outgoing)
        self.blocked[outgoing.stream_id] = outgoing

    def remove(self, outgoing: Outgoing) -> None:
        """It has nothing more to send, or its stream is gone."""
        if outgoing.is_waiting:
            outgoing.is_waiting = False
            self.waiting -= 1
            level = self._levels[outgoing.urgency]
            if outgoing.is_serial:
                level.serial.remove(outgoing)
            else:
                level.shared.remove(outgoing)
        else:
            self.blocked.pop(outgoing.stream_id, None)

    def reprioritise(self, outgoing: Outgoing, urgency: int, *, is_serial: bool) -> None:
        """The peer has changed its mind (RFC 9218 section 7)."""
        was_waiting = outgoing.is_waiting
        if was_waiting:
            self.remove(outgoing)
        outgoing.urgency, outgoing.is_serial = urgency, is_serial
        if was_waiting:
            self.add(outgoing)

    def next(self) -> Outgoing:
        """Who sends the next frame. Some are `waiting`."""
        for level in self._levels:
            serial, shared = level.serial, level.shared
            if serial and (level.serial_next or not shared):
                level.serial_next = False
                return serial[0]
            if shared:
                level.serial_next = True
                outgoing = shared[0]
                shared.rotate(-1)
                return outgoing
        raise AssertionError("nothing waits")
