"""The heartbeat of a worker: stored by the event loop itself, so that a loop which hangs is seen to
hang, and how late the loop is."""

from __future__ import annotations

import asyncio
from typing import Final

from pounce.shm.slot import Slot
from pounce.worker.meter import Meter

PERIOD: Final = 0.2
"""Seconds between two beats."""


class Pulse:
    """Beats until it is stopped.

    Args:
        slot: Where the heartbeat goes.
        meter: Is told how late each beat was.
    """

    def __init__(self, slot: Slot, meter: Meter) -> None:
        self._slot = slot
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._beat()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _beat(self) -> None:
        self._slot.beat()
        now = self._loop.time()
        # A loop's clock may be a little behind what its timers go by.
        self._meter.loop_delayed(max(0, round((now - self._due) * 1e9)))
        self._due = now + PERIOD
        self._handle = self._loop.call_later(PERIOD, self._beat)
