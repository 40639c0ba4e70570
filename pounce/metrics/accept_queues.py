"""What waits to be accepted at the sockets of the pool, as any process of it can tell.

The kernel tells everybody of all sockets on a port, but not whose they are. So the arena says
which sockets the workers have, by their inodes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from pounce.metrics.catalogue import LISTENERS
from pounce.net.listen_queue import listening_sockets, queue_length
from pounce.net.listener import SlotQueue
from pounce.shm.arena import Arena
from pounce.shm.layout import Layout
from pounce.shm.slot import Slot

_INODE_MASK: Final = 0xFFFFFFFF
"""The kernel's answer has 32 bits for it."""


def note_listeners(
    slot: Slot, layout: Layout, place: int, sockets: Sequence[socket.socket]
) -> None:
    """Say in the arena which sockets a worker listens on. Called by whoever gives it its slot.

    Args:
        slot: That of the worker in the arena.
        place: The number of its slot in the pool.
        sockets: Only the first few are told of.
    """
    slot.cells[layout["place"].index()] = place
    start = layout["listeners"].start
    for index, sock in enumerate(sockets[:LISTENERS]):
        slot.cells[start + index] = _inode(sock)


class AcceptQueues:
    """The queues of all workers, read by one of them.

    Args:
        sockets: Those that it listens on itself; they may be closed later.
    """

    def __init__(self, arena: Arena, sockets: Iterable[socket.socket]) -> None:
        self._arena = arena
        self._sockets = list(sockets)
        self._ports = {
            (sock.family, sock.getsockname()[1])
            for sock in self._sockets
            if sock.family in (socket.AF_INET, socket.AF_INET6)
        }

    def __call__(self) -> list[SlotQueue]:
        places = self._places()
        queues = []
        for family, port in sorted(self._ports):
            found = listening_sockets(family, port)
            if found is None:
                return self._own(places)
            queues += [
                SlotQueue((each.host, each.port), places[each.inode], *each.queue)
                for each in found
                if each.inode in places
            ]
        return queues

    def _places(self) -> dict[int, int | None]:
        """The slot in the pool of each socket, by its inode; None: several have it."""
        layout = self._arena.layout
        place, listeners = layout["place"].index(), layout["listeners"]
        inodes = slice(listeners.start, listeners.start + listeners.size)
        places: dict[int, int | None] = {}
        for slot in self._arena.slots_in_use():
            own = slot.cells[place]
            for inode in filter(None, slot.cells[inodes].tolist()):
                places[inode] = own if places.get(inode, own) == own else None
        return places

    def _own(self, places: dict[int, int | None]) -> list[SlotQueue]:
        queues = []
        for sock in self._sockets:
            # A worker that drains has closed them.
            with contextlib.suppress(OSError):
                queue = queue_length(sock)
                if queue is not None:
                    address = sock.getsockname()[:2]
                    queues.append(SlotQueue(address, places.get(_inode(sock)), *queue))
        return queues


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino & _INODE_MASK
