"""Sockets on their way from the master into a worker, be it a process or a thread."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SharedSockets:
    """An argument for `multiprocessing.Process`, with any start method; see `share`."""

    sockets: tuple[socket.socket, ...]
    """Each descriptor once."""
    order: tuple[int, ...]
    """The list that was shared, as places in `sockets`."""


def share(sockets: Sequence[socket.socket]) -> SharedSockets:
    """Pack sockets for a worker.

    multiprocessing can pickle a socket for a process that it spawns, but fails when two objects
    have one descriptor.
    """
    unique = {sock.fileno(): sock for sock in sockets}
    places = {fd: place for place, fd in enumerate(unique)}
    return SharedSockets(tuple(unique.values()), tuple(places[sock.fileno()] for sock in sockets))


def adopt(shared: SharedSockets) -> list[socket.socket]:
    """Unpack the sockets in the worker: the same list, where a descriptor that came up several
    times is now the same object. They are non-blocking, and private to the worker."""
    for sock in shared.sockets:
        # multiprocessing makes them inheritable and their objects believe that they block.
        sock.set_inheritable(False)
        sock.setblocking(False)
    return [shared.sockets[place] for place in shared.order]


def duplicate(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """The same list for a worker in this process: sockets of its own, which it may close whatever
    the master does with its. A descriptor that comes up several times is one object.

    Raises:
        OSError: There is no descriptor to be had.
    """
    copies: dict[int, socket.socket] = {}
    try:
        for sock in sockets:
            if sock.fileno() not in copies:
                copies[sock.fileno()] = sock.dup()
    except OSError:
        for copy in copies.values():
            copy.close()
        raise
    return [copies[sock.fileno()] for sock in sockets]
