"""How many connections of a listening socket are accepted in a turn of the event loop.

More make a busy worker cheaper: what a turn costs is shared, and each piece of code runs for many
connections in a row. But where one connection comes at a time, each further attempt to accept is
vain, and costs some microseconds.
"""

from __future__ import annotations

from typing import Final

STEP: Final = 4
"""What the number is multiplied with, or divided by."""

IN_A_ROW: Final = 3
"""Turns that have to agree before the number changes."""

SHORTEST_REST: Final = 0.25
LONGEST_REST: Final = 16.0
"""Seconds until more are tried again after that was in vain; each time twice as long."""

WORTH_IT: Final = 0.5
"""Seconds of more after which it was not in vain."""


class Appetite:
    """The number, by what came in turns that were looked at.

    Args:
        most: What it may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.at_once = 1
        self._full = self._empty = 0
        self._rest = SHORTEST_REST
        self._rests_until = 0.0
        self._grew_at = 0.0

    def came(self, number: int, now: float) -> bool:
        """So many connections were accepted in one turn; whether the number has changed.

        Args:
            now: Seconds of any clock.
        """
        self._full = self._full + 1 if number >= self.at_once else 0
        self._empty = self._empty + 1 if number <= self.at_once // STEP else 0
        if self._empty >= IN_A_ROW and self.at_once > 1:
            self.at_once = max(1, self.at_once // STEP)
            if now - self._grew_at >= WORTH_IT:
                self._rest = SHORTEST_REST
            self._rests_until = now + self._rest
            self._rest = min(self._rest * 2, LONGEST_REST)
        elif self._full >= IN_A_ROW and self.at_once < self._most and now >= self._rests_until:
            self.at_once = min(self._most, self.at_once * STEP)
            self._grew_at = now
        else:
            return False
        self._full = self._empty = 0
        return True
