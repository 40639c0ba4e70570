"""Every address that a pool of workers listens on.

The master binds before any worker starts, and has every socket open for as long as its slot. The
order of events in the life of a slot:

1. `open_slot`: the slot has bound sockets. They do not listen, so no connection is given to them.
2. `sockets_for`: a worker gets them, loads the application and reports that it is prepared.
3. `listen_slot`: the master lets connections in, and tells the worker to accept. It is the master
   who listens, because the kernel counts the sockets of a group in that order, and steering needs
   to know it. (That the worker calls `listen` again changes nothing.)
4. The worker ends, for whatever reason. What waits to be accepted stays in the queue for its
   successor, which gets the same sockets. When that takes long: `steer_away`, then `listen_slot`.
5. `retire_slot`: the pool shrinks. New connections go elsewhere; the worker goes on accepting until
   the departure `is_quiet`, is told to drain, and when it has ended the departure is closed.
"""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from pounce.addresses import Address, TCPAddress
from pounce.errors import BindError
from pounce.net import handover, steering
from pounce.net.listener import Departure, Listener, SlotQueue
from pounce.net.reuseport_listener import ReusePortListener
from pounce.net.shared_listener import SharedListener
from pounce.net.sockets import bind_address, bound_addr, close_sockets
from pounce.net.unix_sockets import DEFAULT_ACCESS, FileAccess

Strategy: TypeAlias = Literal["auto", "reuseport", "shared"]


class ListenerGroup:
    """Every address that a pool of workers listens on.

    Args:
        addresses: What to listen on. Port 0 is drawn once, for all families and slots.
        backlog: Connections that may wait to be accepted, for each socket.
        strategy: `reuseport` gives every slot a TCP socket of its own (Linux), `shared` has all
            slots accept from one; `auto` is `reuseport` where connections can be steered. Unix
            sockets and inherited ones are always shared.
        access: Of the files of Unix sockets.
        inherited: What `hand_over` returned in the process that this one takes over from. Its
            sockets are used for the addresses that are still asked for, and the others closed.

    Raises:
        BindError: An address cannot be had; nothing is left bound.
    """

    def __init__(
        self,
        addresses: Iterable[Address],
        *,
        backlog: int,
        strategy: Strategy = "auto",
        access: FileAccess = DEFAULT_ACCESS,
        inherited: Mapping[str, Any] | None = None,
    ) -> None:
        if strategy == "reuseport" and sys.platform != "linux":
            raise BindError("the socket strategy reuseport needs Linux")
        self._backlog = backlog
        self._strategy = strategy
        self._access = access
        self._slots: set[int] = set()
        self._listeners: dict[Address, list[Listener]] = {}
        self._unwanted: list[Listener] = []
        """Inherited for addresses that are not asked for any more."""
        try:
            self._acquire(dict.fromkeys(addresses), inherited)
        except BaseException:
            self.close_all()
            raise

    def _acquire(self, addresses: Iterable[Address], inherited: Mapping[str, Any] | None) -> None:
        left: dict[Address, list[Listener]] = {}
        if inherited is not None:
            slots, left = handover.restore(inherited)
            self._slots.update(slots)
        self._unwanted = [*itertools.chain.from_iterable(left.values())]
        for address in addresses:
            if address in left:
                self._listeners[address] = left[address]
                self._unwanted = [each for each in self._unwanted if each not in left[address]]
                continue
            self._listeners[address] = self._bind(address)
            for listener, slot in itertools.product(self._listeners[address], self.slots):
                listener.open(slot)

    def __repr__(self) -> str:
        return f"<ListenerGroup slots {self.slots} {[*self._each()]}>"

    def _bind(self, address: Address) -> list[Listener]:
        bound: list[Listener] = []
        for sock in bind_address(address, self._access):
            # Two names may mean one address, which the kernel does not mind before they listen.
            if bound_addr(sock) in self.addresses():
                close_sockets([sock])
            elif isinstance(address, TCPAddress) and self._has_socket_per_slot():
                bound.append(ReusePortListener(sock))
            else:
                bound.append(SharedListener(sock))
        return bound

    def _has_socket_per_slot(self) -> bool:
        if self._strategy == "auto":
            return steering.is_supported()
        return self._strategy == "reuseport"

    def _each(self) -> Iterator[Listener]:
        return itertools.chain.from_iterable(self._listeners.values())

    def addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports really bound; paths and 0 for Unix sockets."""
        return [listener.address for listener in self._each()]

    @property
    def slots(self) -> list[int]:
        """The open slots."""
        return sorted(self._slots)

    @property
    def has_departures(self) -> bool:
        """Whether the sockets of a retired slot are still open."""
        return any(listener.has_departures for listener in self._each())

    def queue_lengths(self) -> list[SlotQueue]:
        """What waits to be accepted, for each socket."""
        return [queue for listener in self._each() for queue in listener.queues()]

    # The life of a slot

    def open_slot(self, slot: int) -> None:
        """Have bound sockets for a slot. Those of the first one were bound with the group.

        Later ones must be bound by the same user: the kernel lets nobody else beside them.

        Raises:
            BindError: An address cannot be bound once more; the slot is not open then.
            ValueError: The slot is open.
        """
        if slot in self._slots:
            raise ValueError(f"slot {slot} is open")
        opened: list[Listener] = []
        try:
            for listener in self._each():
                listener.open(slot)
                opened.append(listener)
        except BaseException:
            for listener in opened:
                listener.retire(slot).close()
            raise
        self._slots.add(slot)

    def sockets_for(self, slot: int) -> list[socket.socket]:
        """The sockets that the worker in a slot accepts from, one for each address.

        Raises:
            KeyError: The slot is not open.
        """
        self._check(slot)
        return [listener.socket(slot) for listener in self._each()]

    def listen_slot(self, slot: int) -> None:
        """Let new connections go to a slot, for the first time or again.

        Raises:
            BindError: Another program listens at an address.
            KeyError: The slot is not open.
        """
        self._check(slot)
        for listener in self._each():
            listener.listen(slot, self._backlog)

    def steer_away(self, slot: int) -> bool:
        """Let new connections go to other slots until `listen_slot`. What waits in the slot stays.

        Returns:
            Whether that is so. False where there is no other slot that listens, or the kernel
            cannot; connections go to the slot as before then.

        Raises:
            KeyError: The slot is not open.
        """
        self._check(slot)
        # Every one, also after one that cannot.
        steered = [listener.steer_away(slot) for listener in self._each()]
        return all(steered)

    def retire_slot(self, slot: int) -> Departure:
        """Give a slot up: steer new connections away from it, and forget it. A slot of that number
        that is opened anew has other sockets.

        Raises:
            KeyError: The slot is not open.
        """
        self._check(slot)
        self._slots.remove(slot)
        parts = [listener.retire(slot) for listener in self._each()]

        def close() -> None:
            for part in parts:
                part.close()

        return Departure(lambda: all(part.is_quiet() for part in parts), close)

    def _check(self, slot: int) -> None:
        if slot not in self._slots:
            raise KeyError(slot)

    # The end

    def close_others(self, slot: int) -> None:
        """In a worker made by fork: close this process's copies of the sockets of other slots,
        which would be held open for nobody."""
        self._check(slot)
        for listener in self._each():
            listener.close_others(slot)

    def close_all(self) -> None:
        """Close this process's copies of all sockets, and remove the files it answers for.

        Sockets that another process has a copy of go on listening there.
        """
        for listener in itertools.chain(self._each(), self._unwanted):
            listener.close_all()
        self._slots.clear()
        self._unwanted.clear()

    # From one process to the next

    def hand_over(self) -> dict[str, Any]:
        """What another process needs to go on with the same sockets, ready for JSON.

        It needs the descriptors as well, under the same numbers (`handover.descriptors`). Nothing
        changes here: when the other process fails, this one goes on. When it succeeds, it calls
        `claim_files`, and this one `disclaim_files` before it closes. Meanwhile no slot is opened
        or retired here, because each of the two would lose count of the kernel's order.

        Raises:
            RuntimeError: The group `has_departures`, whose connections the other process would
                not know of.
        """
        if self.has_departures:
            raise RuntimeError("a retired slot is not closed yet")
        return handover.describe(self.slots, self._listeners)

    def claim_files(self) -> None:
        """From now on this process, not the one it took over from, removes the files of Unix
        sockets. What it does not listen on any more goes at once."""
        for listener in itertools.chain(self._each(), self._unwanted):
            listener.claim_files()
        for listener in self._unwanted:
            listener.close_all()
        self._unwanted.clear()

    def disclaim_files(self) -> None:
        """Leave the files of Unix sockets to the process that has taken over."""
        for listener in self._each():
            listener.disclaim_files()
