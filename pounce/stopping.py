"""The end of the program: asked for at any time, and kept from being waited for without end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

logger = logging.getLogger("pounce")


class StopRequest:
    """A stop that any thread may ask for, before, while and after there is something to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wake: Callable[[], object] | None = None
        self.is_made = False
        """Whether the stop was asked for, by `make` or, where that is set here, otherwise."""

    @property
    def is_heard(self) -> bool:
        """Whether there is something to stop."""
        return self._wake is not None

    def make(self) -> None:
        """Asks for the stop; a second time is nothing new."""
        with self._lock:
            self.is_made = True
            wake = self._wake
        if wake is not None:
            # The loop may be closed already, which is what was wanted.
            with contextlib.suppress(RuntimeError):
                wake()

    @contextlib.contextmanager
    def heard_by(self, wake: Callable[[], object]) -> Iterator[bool]:
        """Has `make` call `wake`, from its own thread. The value: whether it came before that."""
        with self._lock:
            self._wake = wake
            is_made = self.is_made
        try:
            yield is_made
        finally:
            self._wake = None


async def unless(stop: asyncio.Event, coroutine: Coroutine[Any, Any, object]) -> bool:
    """Awaits a coroutine; False when `stop` was set before it came to its end."""
    work = asyncio.ensure_future(coroutine)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
            return True
        return False
    finally:
        stopping.cancel()
        work.cancel()


def end_process_if_overdue(seconds: float, exit_code: int) -> None:
    """Ends the process after `seconds` if threads of the application go on.

    Python would wait for them for ever. The program goes on to end as usual, which lets idle
    threads of executors go, under a watch.
    """

    def watch() -> None:
        time.sleep(seconds)
        going_on = sum(not thread.daemon for thread in threading.enumerate()) - 1
        logger.warning("%d threads of the application go on: ending without them", going_on)
        logging.shutdown()
        sys.stdout.flush()
        os._exit(exit_code)

    threading.Thread(target=watch, name="pounce-end", daemon=True).start()
