"""Accepting connections: several in a turn of the loop, and also when the table of file descriptors
is full.

uvloop accepts one connection of a listening socket in a turn, and so a turn would have one request
where every connection has only one. Several descriptors of the same socket make it more.

With a full table neither event loop does what it should. uvloop takes a connection by means of a
spare descriptor, only to close it, and without a spare one it tries again and again. So it is kept
from accepting shortly before the table is full. asyncio waits for a second by itself, but says so
once for each place in the queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

from pounce.runtime import fd_limit
from pounce.worker.appetite import Appetite

logger = logging.getLogger("pounce.error")

ProtocolFactory: TypeAlias = Callable[[], asyncio.Protocol]

ACCEPT_TIME: Final = 1.0
"""Seconds in which a worker that stops takes the connections that wait in the kernel. More come
while it does, so there has to be an end."""

ACCEPT_TURNS: Final = 3
"""Turns of the loop from accepting a connection to its protocol: asyncio's needs so many, uvloop's
fewer."""

RESERVE: Final = 16
"""Descriptors that connections leave to the application, and to the first of each socket that are
accepted in the same turn of the loop."""

AT_ONCE: Final = 16
"""Connections of one socket that are accepted in a turn of the loop, where it is worth it."""

_DESCRIPTORS_EACH: Final = 64
"""Descriptors that the table must have for each of them."""

COUNT_EVERY: Final = 10
"""Looks from one count of all descriptors to the next, or more where there are thousands: each has
its price. Between counts only connections are counted."""

SCARCE: Final = 64
"""Descriptors left, from which on all are counted at each look."""

REMINDER: Final = 60.0
"""Seconds between two warnings while the table stays full."""

_ASYNCIO_MESSAGE: Final = "socket.accept() out of system resource"
_ASYNCIO_RETRY: Final = "Exception in callback BaseSelectorEventLoop._start_serving("


_running: set[Acceptor] = set()
"""All of this process, where workers are threads: they share the table of descriptors."""


class Place(NamedTuple):
    """Where connections come in."""

    sock: socket.socket
    """Listens; it stays the caller's to close."""
    factory: ProtocolFactory
    """Makes the protocol of each connection."""
    at_once: int = 1
    """How many to accept in a turn of the loop, at most."""


class Acceptor:
    """Gives new connections on listening sockets to protocols.

    Args:
        backlog: How many connections may wait in the kernel.
        accepted: How many were accepted so far.
    """

    def __init__(self, backlog: int, accepted: Callable[[], int]) -> None:
        self._backlog = backlog
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._is_asyncio = isinstance(self._loop, asyncio.SelectorEventLoop)
        self._places: list[Place] = []
        self._reserve = 0
        """Descriptors that it may take in a turn of the loop beyond one for each place."""
        self._appetite = Appetite(1)
        self._servers: list[tuple[Place, asyncio.Server]] = []
        self._changing: asyncio.Task[None] | None = None
        self._warned_at = -inf
        self._others = 0
        """Descriptors that were no connections when all were counted."""
        self._next_count = 0

    async def start(self, places: Sequence[Place]) -> None:
        """Accepts on sockets that listen."""
        if self._is_asyncio:
            self._listen_to_asyncio()
        # asyncio takes all that wait. And a small table is soon full.
        most = 1 if self._is_asyncio else max(1, fd_limit() // _DESCRIPTORS_EACH)
        self._places = [place._replace(at_once=min(place.at_once, most)) for place in places]
        self._reserve = sum(place.at_once - 1 for place in self._places)
        self._appetite = Appetite(max((place.at_once for place in self._places), default=1))
        _running.add(self)
        await self._serve()

    async def _serve(self) -> None:
        """Has each place listened to as often as is worth it."""
        for place in self._places:
            wanted = min(place.at_once, self._appetite.at_once)
            present = [each for each in self._servers if each[0] is place]
            for each in present[wanted:]:
                self._servers.remove(each)
                each[1].close()
            for _ in range(wanted - len(present)):
                server = await self._loop.create_server(
                    # A duplicate, as the loop closes what it is given.
                    place.factory,
                    sock=place.sock.dup(),
                    backlog=self._backlog,
                )
                self._servers.append((place, server))

    def look_at_a_turn(self) -> None:
        """Sees how many connections come in the next turn of the loop, and adapts. To be called for
        one connection of many."""
        if self._reserve:
            self._loop.call_soon(self._turn_begins)

    def _turn_begins(self) -> None:
        self._loop.call_soon(self._turn_ends, self._accepted())

    def _turn_ends(self, accepted_before: int) -> None:
        number = self._accepted() - accepted_before
        # While it cannot follow, nothing is learnt.
        if (
            self._servers
            and self._changing is None
            and self._appetite.came(number, self._loop.time())
        ):
            self._changing = self._loop.create_task(self._change())

    async def stop(self) -> None:
        """Takes what waits to be accepted, and no more."""
        self._leave()
        if self._changing is not None:
            await asyncio.wait([self._changing])
        poll = select.poll()
        for _, server in self._servers:
            for sock in server.sockets:
                poll.register(sock.fileno(), select.POLLIN)
        give_up = self._loop.time() + ACCEPT_TIME
        await asyncio.sleep(0)
        while poll.poll(0) and self._loop.time() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0)
        if self._is_asyncio:
            # asyncio resets what it has accepted but not yet given to a transport when its server
            # closes, so it stops to accept first.
            for _, server in self._servers:
                for sock in server.sockets:
                    self._loop.remove_reader(sock.fileno())
            await self._let_accepted_arrive()
        self._close_servers()
        await self._let_accepted_arrive()

    def abandon(self) -> None:
        """Accepts no more, at any moment."""
        self._leave()
        if self._changing is not None:
            self._changing.cancel()
        self._close_servers()

    def _leave(self) -> None:
        self._places = []
        self._reserve = 0
        _running.discard(self)

    def _close_servers(self) -> None:
        servers, self._servers = self._servers, []
        for _, server in servers:
            server.close()

    @staticmethod
    async def _let_accepted_arrive() -> None:
        """Until each connection that has been accepted has its protocol."""
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)

    # A full table of descriptors

    def look_for_room(self, present: int) -> float:
        """Stops or goes on to accept, as descriptors are left or not. To be called once a second,
        and when as many connections have come since as were returned.

        Args:
            present: Connections that there are.
        """
        if self._is_asyncio or not self._places:
            return inf
        room = self._room(present)
        if room <= 0:
            self._warn()
            self._close_servers()
        elif not self._servers and self._changing is None:
            self._changing = self._loop.create_task(self._change())
        return room / max(1, len(_running))

    def _room(self, present: int) -> int:
        """Descriptors for further connections; 0 or less: none."""
        limit = fd_limit()
        limit -= min(RESERVE + sum(each._reserve for each in _running), limit // 8)
        self._next_count -= 1
        if self._next_count < 0 or limit - self._others - present < SCARCE:
            try:
                used = _descriptors_in_use()
            except OSError:
                return 0  # not even one to count the others
            self._others = used - present
            self._next_count = max(COUNT_EVERY, present // 100)
        return limit - self._others - present

    async def _change(self) -> None:
        try:
            await self._serve()
        except OSError:
            self._close_servers()  # the last descriptor is gone again
        finally:
            self._changing = None

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned_at >= REMINDER:
            self._warned_at = now
            logger.error(
                "out of file descriptors (the limit is %d): new connections wait until some are "
                "closed",
                fd_limit(),
            )

    def _listen_to_asyncio(self) -> None:
        before = self._loop.get_exception_handler()

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            message = context.get("message", "")
            if message == _ASYNCIO_MESSAGE:
                self._warn()
            elif not self._servers and _ASYNCIO_RETRY in message:
                pass  # an attempt that was put off comes when the socket is closed
            elif before is not None:
                before(loop, context)
            else:
                loop.default_exception_handler(context)

        self._loop.set_exception_handler(handle)


def _descriptors_in_use() -> int:
    """Raises `OSError` when there is none left to count the others."""
    if sys.platform == "linux" and (size := os.stat("/proc/self/fd").st_size):
        return size  # Linux 6.2 and newer
    return len(os.listdir("/dev/fd")) - 1  # but for that of the list
