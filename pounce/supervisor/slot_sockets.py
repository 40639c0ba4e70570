"""The sockets of the pool's slots: opened, listening, steered around, given up.

What the kernel is told is in `net.listeners`. Here is when it is told: an upgrade keeps sockets as
they are, and a slot that is given up has its workers accept until nothing arrives there any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pounce.errors import BindError
from pounce.net.listeners import ListenerGroup
from pounce.supervisor.actions import TellDrain
from pounce.supervisor.departures import QUIET_CHECK, Departures
from pounce.supervisor.pool_status import WorkerStatus

logger = logging.getLogger("pounce.error")

_ACCEPTING: Final = ("opening", "ready")
"""States of workers that take new connections, or will in a moment."""


class SlotSockets:
    """The listeners of a master, by slot.

    Args:
        listeners: Bound; the caller closes them.
        tell_drain: Tells a worker to drain gently, within so many seconds.
        is_handing_over: Whether another process counts on the sockets as they are.
        are_given_away: Whether they are another process's.
    """

    def __init__(
        self,
        listeners: ListenerGroup,
        *,
        tell_drain: Callable[[int, float], None],
        is_handing_over: Callable[[], bool],
        are_given_away: Callable[[], bool],
    ) -> None:
        self._listeners = listeners
        self._is_handing_over = is_handing_over
        self._are_given_away = are_given_away
        self._departures = Departures(tell_drain)
        self._checking: asyncio.TimerHandle | None = None
        self._listening: set[int] = set()

    def open(self, slot: int) -> None:
        """Has sockets for a slot, if they can be had. If not, `for_worker` says why."""
        with contextlib.suppress(BindError, ValueError):
            self._listeners.open_slot(slot)

    def for_worker(self, slot: int) -> list[socket.socket]:
        """What a worker that is about to start will accept from.

        Raises:
            BindError: There are no sockets, or they must not begin to listen now.
        """
        if self._is_handing_over() and slot not in self._listening:
            raise BindError("it would begin to listen during an upgrade")
        if slot not in self._listeners.slots:
            self._listeners.open_slot(slot)
        return self._listeners.sockets_for(slot)

    def listen(self, slot: int) -> None:
        """Lets connections in, before the worker is told to accept: they wait for it."""
        if self._are_given_away():
            return
        try:
            self._listeners.listen_slot(slot)
            self._listening.add(slot)
        except (BindError, KeyError) as exc:
            logger.error("%s", exc)

    def steer_away(self, slot: int) -> None:
        """Has new connections go to other slots until this one listens again."""
        if not self._are_given_away():
            with contextlib.suppress(KeyError):
                self._listeners.steer_away(slot)

    def steer_away_from(self, worker_id: int, workers: Iterable[WorkerStatus]) -> None:
        """The same for the slot of a worker that has ended, unless another one accepts there.

        Args:
            worker_id: The one that has ended.
            workers: All, also that one as it was.
        """
        present = {worker.worker_id: worker for worker in workers}
        gone = present.pop(worker_id, None)
        if gone is None or gone.state not in _ACCEPTING:
            return
        if not any(w.slot == gone.slot and w.state in _ACCEPTING for w in present.values()):
            self.steer_away(gone.slot)

    def is_calm(self, workers: Sequence[WorkerStatus]) -> bool:
        """Whether no slot comes or goes, so that the sockets can be handed over."""
        # The slots of those that have been started for the first time are about to listen.
        is_starting = any(
            worker.slot not in self._listening and worker.state != "draining" for worker in workers
        )
        return not (is_starting or self._listeners.has_departures)

    # Slots that are given up

    def give_up(self, slot: int, workers: Iterable[WorkerStatus]) -> None:
        """Closes a slot when its workers are gone, and nothing arrives there any more."""
        self._listening.discard(slot)
        with contextlib.suppress(KeyError):
            departure = self._listeners.retire_slot(slot)
            # Those of an earlier slot of that number count too, and are gone soon.
            self._departures.add(departure, [w.worker_id for w in workers if w.slot == slot])

    def puts_off(self, order: TellDrain) -> bool:
        """Whether a worker is to be told to drain later, by `tell_drain`, because connections may
        still arrive in its slot."""
        if not order.gentle:
            self._departures.release(order.worker_id)
            return False
        if not self._departures.hold(order.worker_id, order.seconds):
            return False
        if self._checking is None:
            self._check_later()
        return True

    def _check_later(self) -> None:
        self._checking = asyncio.get_running_loop().call_later(QUIET_CHECK, self._check)

    def _check(self) -> None:
        self._checking = None
        self._departures.check()
        if self._departures.holds:
            self._check_later()

    def worker_ended(self, worker_id: int) -> None:
        """A worker is gone, or written off."""
        self._departures.ended(worker_id)

    def close(self) -> None:
        """The end of the program."""
        if self._checking is not None:
            self._checking.cancel()
        self._departures.close()
