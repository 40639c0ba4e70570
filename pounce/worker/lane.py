"""Lanes: where requests come one after another, so that what is kept of the last one helps with the
next.

What a lane keeps is the business of `Meter` alone. A connection that has one request at a time is
its own lane. One that has many at once takes a lane for each, and has them back for the next ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pounce.worker.tally import NOTHING

if TYPE_CHECKING:
    from pounce.protocol.h1_head import RequestLine
    from pounce.worker.tally import Turn


class Lane:
    """What is kept from one request to the next."""

    __slots__ = ("likely_head", "noted_line", "stamp", "tally", "turn")

    def __init__(self) -> None:
        self.stamp = 0
        """The stamp cell of the record in the black box that is kept; 0: there is none."""
        self.noted_line: RequestLine | None = None
        """The request that the record says."""
        self.tally = NOTHING
        """How the last response to that was counted."""
        self.likely_head: object = None
        """The head of the last response, where the next one with the same is sure to be counted in
        the same way, if the request has as much content and the connection persists."""
        self.turn: Turn | None = None
        """The turn of the event loop in which that was answered; it may not be counted yet."""

    def expect(self, head: object) -> None:
        """The response that has just been counted had this head, which tells all that matters."""
        if self.stamp and self.tally is not NOTHING and self.tally.meter.only_counts:
            self.likely_head = head


class Lanes:
    """The lanes of a connection with many requests at once: as many as there ever were, and some
    more where requests are over in the turn of the event loop that they begin in."""

    __slots__ = ("_all", "_free", "give_back")

    def __init__(self) -> None:
        self._all: list[Lane] = []
        self._free: deque[Lane] = deque()
        self.give_back = self._free.append
        """The response is complete, or the request was aborted; its observer has been told."""

    def __iter__(self) -> Iterator[Lane]:
        """All of them, taken or not."""
        return iter(self._all)

    def take(self) -> Lane:
        """A lane for a request that begins."""
        free = self._free
        if free:
            # The one that has been free for longest: what it kept has most likely been counted, and
            # a request on it does not have to see to that first.
            turn = free[0].turn
            if turn is None or turn.is_counted or len(self._all) >= _ENOUGH:
                return free.popleft()
        lane = Lane()
        self._all.append(lane)
        return lane


_ENOUGH: Final = 128
"""Lanes that are made only to spare a request the wait for a count."""
