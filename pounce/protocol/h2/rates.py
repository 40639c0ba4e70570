"""How often a peer has done what costs the server more than the peer."""

from __future__ import annotations

from typing import Final

UPDATES_PER_FRAME: Final = 10
"""WINDOW_UPDATE frames that a peer may send for each DATA frame to it. Clients send one for
the stream and one for the connection, at most."""


class EventRate:
    """Counts events, anew after each window of time.

    Args:
        limit: So many may come in a window.
        window: Seconds.
    """

    __slots__ = ("_begun", "_count", "_limit", "_window")

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._begun = 0.0
        self._count = 0

    def exceeded(self, now: float) -> bool:
        """Counts one more, and says whether that is too many."""
        if now - self._begun >= self._window:
            self._begun = now
            self._count = 0
        self._count += 1
        return self._count > self._limit


class UpdateBudget:
    """Counts WINDOW_UPDATE frames against what there was to give back.

    Args:
        free: So many may come besides.
    """

    __slots__ = ("_free", "_received", "data_frames")

    def __init__(self, free: int) -> None:
        self._free = free
        self._received = 0
        self.data_frames = 0
        """DATA frames sent, without those of responses that fit into one."""

    def exceeded(self, streams: int) -> bool:
        """Counts one more, and says whether that is too many.

        Args:
            streams: That the peer has opened; each counts as a DATA frame.
        """
        self._received += 1
        frames = self.data_frames + streams
        return self._received > self._free + UPDATES_PER_FRAME * frames
