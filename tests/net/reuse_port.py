"""Finding out what the kernel does with the sockets of a reuse-port group, by connecting."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence

from pounce.net.steering import attach
from tests.waiting import wait_until


def place_program(place: int) -> bytes:
    """The program that always names one place: `ret #place`."""
    return struct.pack("=HBBI", 0x06, 0, 0, place)


def new_socket(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A bound member of the group at `address`, which does not listen."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    sock.bind(address)
    return sock


def arrival(sockets: Sequence[socket.socket]) -> socket.socket:
    """Connects to the address of `sockets`, and tells which of them gets the connection."""
    with socket.create_connection(sockets[0].getsockname()[:2], timeout=5):
        [found] = wait_until(lambda: _accept_one(sockets), "the connection arrived")
    return found


def _accept_one(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    for sock in sockets:
        # Nothing waits there, or it does not listen.
        with contextlib.suppress(OSError):
            sock.accept()[0].close()
            return [sock]
    return []


def arrivals(sockets: Sequence[socket.socket], count: int) -> set[socket.socket]:
    """Which of `sockets` get some of `count` connections."""
    return {arrival(sockets) for _ in range(count)}


def kernel_order(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """The listening sockets of a group by their place in the kernel's array.

    Leaves a program attached that names the last place.
    """
    order = []
    for place in range(len(sockets)):
        attach(sockets[0], place_program(place))
        order.append(arrival(sockets))
    return order
