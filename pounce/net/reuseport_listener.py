"""A TCP address at which every slot has a socket of its own, by SO_REUSEPORT (Linux).

Each socket has its own queue, and a place in the kernel's array (see `steering`). A socket that
closes resets what is in its queue, so it is steered away from first: new connections go to the
others, those on their way still arrive, and it closes when there are none left.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final, Self

from pounce.addresses import InheritedAddress
from pounce.net import steering
from pounce.net.activation import adopt_descriptor
from pounce.net.listen_queue import handshakes, queue_length
from pounce.net.listener import Departure, Listener, SlotQueue
from pounce.net.sockets import bind_beside, bound_addr, close_sockets, listen

logger = logging.getLogger("pounce.error")

SETTLE: Final = 0.05
"""Seconds for a packet that another CPU had begun to handle when the choice changed."""
PATIENCE: Final = 5.0
"""Seconds that a handshake may take. The kernel repeats its part of it after one and three."""


class _Farewell:
    """Tells when a socket that new connections do not go to has got its last one.

    A handshake ends at the socket that it began with, wherever new ones go. The kernel does not
    tell whose a handshake is, so all of the port that had begun are waited for.
    """

    def __init__(self, sock: socket.socket, clock: Callable[[], float]) -> None:
        self._sock = sock
        self._clock = clock
        self._since = clock()
        self._pending: frozenset[bytes] | None = None

    def is_over(self) -> bool:
        waited = self._clock() - self._since
        if waited < SETTLE:
            return False
        if waited < PATIENCE:
            under_way = handshakes(self._sock)
            if under_way is None:
                return False
            self._pending = under_way if self._pending is None else under_way & self._pending
            if self._pending:
                return False
        # Asked last: a handshake that ended just now is in the queue.
        queue = queue_length(self._sock)
        return queue is None or queue.length == 0


class _Seat:
    """One socket of the group."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_chosen = False
        """Whether new connections are to go to it."""
        self.farewell: _Farewell | None = None
        """Not None while new connections really go elsewhere."""

    def is_quiet(self) -> bool:
        return self.farewell is not None and self.farewell.is_over()


class ReusePortListener(Listener):
    """One socket for each slot.

    Args:
        claimed: A bound socket that does not listen, for the slot that is opened first. It was
            bound without SO_REUSEPORT, which made sure that no other program has the address.
        clock: Monotonic, in seconds.
    """

    kind = "reuseport"

    def __init__(
        self, claimed: socket.socket | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._seats: dict[int, _Seat] = {}
        self._leaving: list[_Seat] = []
        """Of slots that were retired."""
        self._spare: list[_Seat] = []
        """For nobody. Those that listen get no connections and wait for a chance to close."""
        self._order: list[_Seat] = []
        """Those that listen, by their place in the kernel's array."""
        if claimed is not None:
            claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._spare.append(_Seat(claimed))
            self._know_address(claimed)

    def __repr__(self) -> str:
        chosen = [slot for slot, seat in self._seats.items() if seat.is_chosen]
        return f"<ReusePortListener {self.address} slots {[*self._seats]} chosen {chosen}>"

    def _know_address(self, sock: socket.socket) -> None:
        self.address = bound_addr(sock)
        self._family, self._sockname = sock.family, sock.getsockname()

    def open(self, slot: int) -> None:
        if self._spare:
            self._seats[slot] = self._spare.pop()
        else:
            self._seats[slot] = _Seat(bind_beside(self._family, self._sockname))

    def socket(self, slot: int) -> socket.socket:
        return self._seats[slot].sock

    def listen(self, slot: int, backlog: int) -> None:
        seat = self._seats[slot]
        if seat not in self._order:
            listen([seat.sock], backlog)
            self._order.append(seat)
        seat.is_chosen = True
        self._update()

    def steer_away(self, slot: int) -> bool:
        seat = self._seats[slot]
        seat.is_chosen = False
        self._update()
        return seat.farewell is not None or seat not in self._order

    def retire(self, slot: int) -> Departure:
        seat = self._seats.pop(slot)
        seat.is_chosen = False
        self._leaving.append(seat)
        self._update()
        if seat in self._order:
            return Departure(seat.is_quiet, partial(self._release, seat))
        return Departure(lambda: True, partial(self._release, seat))

    def _release(self, seat: _Seat) -> None:
        if seat in self._leaving:
            self._leaving.remove(seat)
            self._spare.append(seat)
            self._update()

    @property
    def has_departures(self) -> bool:
        return bool(self._leaving)

    def queues(self) -> Iterator[SlotQueue]:
        for slot, seat in self._seats.items():
            queue = queue_length(seat.sock)
            yield SlotQueue(self.address, slot, *(queue or (None, None)))

    # Who is chosen

    def _update(self) -> None:
        """Bring the kernel's choice, and who is still in the group, in line with `is_chosen`."""
        places = self._chosen_places()
        steers = self._choose(places) and 0 < len(places) < len(self._order)
        for seat in self._order:
            if seat.is_chosen or not steers:
                seat.farewell = None
            elif seat.farewell is None:
                seat.farewell = _Farewell(seat.sock, self._clock)
        for seat in self._spare:
            if seat in self._order and self._can_close(seat):
                self._close(seat)
                return self._update()
        return None

    def _chosen_places(self) -> set[int]:
        return {place for place, seat in enumerate(self._order) if seat.is_chosen}

    def _choose(self, places: Collection[int]) -> bool:
        """Have new connections go to these places of the array; to all when there are none."""
        if not self._order:
            return True
        member, size = self._order[0].sock, len(self._order)
        try:
            if 0 < len(places) < size:
                steering.attach(member, steering.program(size, set(range(size)) - set(places)))
            else:
                steering.detach(member)
        except OSError as error:
            logger.warning("connections to %s port %d cannot be steered: %s", *self.address, error)
            return False
        return True

    # Closing

    def _can_close(self, seat: _Seat) -> bool:
        """Whether a socket can close without a connection going astray meanwhile.

        The last socket takes the place of the one that closes, and the program follows a moment
        later. In that moment, only a socket that keeps its place is sure to be meant by it. With
        none such, the hash may decide, which is right only if all that stay are chosen.
        """
        staying = [other for other in self._order if other is not seat]
        if all(other.is_chosen for other in staying):
            return True
        if not any(other.is_chosen for other in staying):
            return True  # connections go to all, as there is nobody to prefer
        moving = self._order[-1]
        firm = {place for place in self._chosen_places() if self._order[place] is not moving}
        return bool(firm) and self._choose(firm)

    def _close(self, seat: _Seat) -> None:
        with contextlib.suppress(OSError):
            # A copy left in another process would otherwise keep the socket in the group, where
            # nobody accepts.
            seat.sock.shutdown(socket.SHUT_RDWR)
        close_sockets([seat.sock])
        self._spare.remove(seat)
        place, last = self._order.index(seat), self._order.pop()
        if last is not seat:
            self._order[place] = last

    def close_others(self, slot: int) -> None:
        self._close_copies(kept=self._seats[slot])

    def close_all(self) -> None:
        self._close_copies(kept=None)

    def _close_copies(self, kept: _Seat | None) -> None:
        everything = [*self._seats.values(), *self._leaving, *self._spare]
        close_sockets(seat.sock for seat in everything if seat is not kept)
        self._seats = {slot: seat for slot, seat in self._seats.items() if seat is kept}
        self._leaving, self._spare, self._order = [], [], []

    # From one process to the next

    def hand_over(self) -> dict[str, Any]:
        return {
            "slots": {str(slot): seat.sock.fileno() for slot, seat in self._seats.items()},
            "spare": [seat.sock.fileno() for seat in self._spare if seat not in self._order],
            "order": [seat.sock.fileno() for seat in self._order],
            "chosen": [seat.sock.fileno() for seat in self._order if seat.is_chosen],
        }

    @classmethod
    def take_over(cls, state: Mapping[str, Any]) -> Self:
        fds = {*state["slots"].values(), *state["spare"], *state["order"]}
        seats = {fd: _Seat(adopt_descriptor(InheritedAddress(fd))) for fd in sorted(fds)}
        listener = cls(None)
        listener._know_address(next(iter(seats.values())).sock)
        listener._seats = {int(slot): seats[fd] for slot, fd in state["slots"].items()}
        listener._order = [seats[fd] for fd in state["order"]]
        taken = set(listener._seats.values())
        listener._spare = [seat for seat in seats.values() if seat not in taken]
        for fd in state["chosen"]:
            seats[fd].is_chosen = True
        listener._update()
        return listener

    def claim_files(self) -> None:
        pass

    def disclaim_files(self) -> None:
        pass
