"""What a connection is whatever protocol it speaks: a transport, deadlines, flow control.

Deadlines are numbers that the worker's sweep compares with its clock: no timers. The write deadline
runs while the peer takes nothing of what was written; a connection that has been closed stays under
it until the last byte has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from pounce.lifecycle import ConnectionCloseReason
from pounce.worker.lane import Lane
from pounce.worker.request_cycle import ClientDisconnected, Fields, format_client
from pounce.worker.send_queue import bytes_unsent

if TYPE_CHECKING:
    from pounce.worker.worker import Worker

logger = logging.getLogger("pounce.error")

LINGER_TIME: Final = 2.0
"""Seconds that a client gets to read what was written last, before the socket is reset."""

FIRST_REQUEST_GRACE: Final = 0.5
"""Seconds that a connection without a request yet gets to send one when the worker drains."""

BODY_RATE_GRACE: Final = 10.0
"""Seconds before the average rate of a body counts; a network may stall for a moment."""

_LINGER_NOT: Final = struct.pack("ii", 1, 0)
"""A `struct linger`: closing the socket resets the connection."""


class Connection(Lane, asyncio.Protocol):
    """One accepted connection. The protocols derive from it."""

    __slots__ = (
        "_drain_waiters",
        "_send_watch",
        "_unsent",
        "base_scope",
        "client",
        "close_reason",
        "closing",
        "deadline",
        "id",
        "is_tls",
        "lost",
        "opened_ns",
        "prepare_head",
        "reading_paused",
        "requests",
        "sent_bytes",
        "server",
        "transport",
        "worker",
        "write",
        "write_deadline",
        "write_paused",
        "write_uncounted",
    )

    protocol: ClassVar[str]
    """What is spoken, one of `catalogue.PROTOCOLS`."""

    # Set when the connection is made.
    transport: asyncio.Transport
    write: Callable[[bytes], None]
    write_uncounted: Callable[[bytes], None]
    """The same, for who has the bytes counted in another way."""
    deadline: float
    id: int
    client: tuple[str, int] | None
    base_scope: dict[str, Any]

    def __init__(
        self,
        worker: Worker,
        prepare_head: Callable[[int, Fields], object],
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        Lane.__init__(self)
        self.worker = worker
        self.prepare_head = prepare_head
        """Checks and encodes the head of a response, which its cycle keeps until it is written.

        Raises:
            TypeError, ValueError: It is malformed.
        """
        self.server = server
        """The address the client connected to, or where the socket listens on several: None until
        the connection is made."""
        self.is_tls = is_tls
        self.closing = False
        """No further request is read; what still arrives is dropped."""
        self.lost = False
        self.requests = 0
        self.opened_ns = 0
        self.sent_bytes = 0
        self.close_reason: ConnectionCloseReason | None = None
        """Why this side closed; None when the client did."""
        self.write_paused = False
        self.write_deadline = inf
        self._unsent = 0
        self.reading_paused = False
        self._drain_waiters: list[asyncio.Future[None]] | None = None
        self._send_watch: asyncio.Future[None] | None = None

    @property
    def lanes(self) -> Iterable[Lane]:
        """All lanes that its requests may have: itself, where they come one after another."""
        return (self,)

    @abstractmethod
    def shut_down(self, *, gentle: bool = False) -> None:
        """The worker drains: the connection comes to its end as soon as its requests have.

        Args:
            gentle: An idle one may send one more request first.
        """

    @abstractmethod
    def expire(self, now: float) -> None:
        """A deadline has passed: called by the sweep."""

    def put_off(self, seconds: float) -> None:
        """Moves all deadlines: for so long nobody could have been heard."""
        self.deadline += seconds
        self.write_deadline += seconds

    # From the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        worker = self.worker
        self.transport = cast(asyncio.Transport, transport)
        self.write = self.write_uncounted = self.transport.write
        if worker.meter is not None:
            self.write = worker.meter.counted(self.write)
        self.deadline = worker.clock + worker.timeout_first_byte
        worker.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.closing = True
        self.write_paused = False
        self._wake_writers()
        self.worker.dismiss(self, exc)

    def pause_writing(self) -> None:
        self.write_paused = True
        self.made_progress()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.write_deadline = inf
        self._wake_writers()

    def take_over(self, before: Connection) -> None:
        """Becomes the protocol of the transport of `before`, with all that is known of it."""
        self.transport = before.transport
        self.write, self.write_uncounted = before.write, before.write_uncounted
        self.id = before.id
        self.client = before.client
        self.base_scope = before.base_scope
        self.opened_ns = before.opened_ns
        self.requests = before.requests
        self.sent_bytes = before.sent_bytes
        self.write_paused, self.write_deadline = before.write_paused, before.write_deadline
        self._unsent = before._unsent
        self.reading_paused = before.reading_paused
        self.deadline = inf
        worker = self.worker
        worker.connections.discard(before)
        worker.connections.add(self)
        self.transport.set_protocol(self)
        if self.reading_paused:
            self.resume_reading()

    # Closing

    def close(self) -> None:
        """Closes when what was written has been sent."""
        self.closing = True
        self.deadline = inf
        # What is unsent is counted when the deadline comes; mostly the connection is gone by then.
        self._unsent = sys.maxsize
        self.write_deadline = self.worker.clock + self.worker.timeout_write
        self.transport.close()

    def abort(self) -> None:
        """Closes without sending what is written."""
        self.closing = True
        self.transport.abort()

    def reset(self) -> None:
        """Aborts so that the client cannot take what it got for all there is, and the kernel keeps
        nothing that the client has not taken."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.abort()

    # Writing

    def made_progress(self) -> None:
        """The peer has taken something: the deadline for the next begins anew."""
        self._unsent = self._bytes_unsent()
        self.write_deadline = self.worker.clock + self.worker.timeout_write

    def watch_write(self, waiter: asyncio.Future[None] | None) -> None:
        """Puts a wait outside the transport under the write deadline."""
        self._send_watch = waiter
        if waiter is not None:
            self.made_progress()
        else:
            self.write_deadline = inf

    async def drain(self) -> None:
        """Returns when the transport takes more.

        Raises:
            ClientDisconnected: The connection was lost.
        """
        while self.write_paused:
            waiter = self.worker.loop.create_future()
            if self._drain_waiters is None:
                self._drain_waiters = []
            self._drain_waiters.append(waiter)
            await waiter
        if self.lost:
            raise ClientDisconnected("the client is gone")

    async def flush(self) -> None:
        """Returns when the transport has handed everything to the kernel."""
        low, high = self.transport.get_write_buffer_limits()
        self.transport.set_write_buffer_limits(high=0)
        try:
            while self.transport.get_write_buffer_size() and not self.lost:
                if not self.write_paused:
                    self.pause_writing()
                await self.drain()
        finally:
            self.transport.set_write_buffer_limits(high=high, low=low)

    def _wake_writers(self) -> None:
        if self._drain_waiters is not None:
            waiters, self._drain_waiters = self._drain_waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if self.lost and self._send_watch is not None and not self._send_watch.done():
            self._send_watch.set_result(None)

    def check_write(self, now: float) -> None:
        """Cuts a client that has taken nothing of what was written for too long."""
        if self._bytes_unsent() < self._unsent:
            self.made_progress()
        elif self.transport.get_write_buffer_size() or self._send_watch is not None:
            logger.info("%s timed out: write", format_client(self.client))
            self.worker.timed_out("write")
            self.close_reason = "write_timeout"
            self.reset()
        else:
            self.write_deadline = inf

    def _bytes_unsent(self) -> int:
        """What the peer has not taken yet, in the transport and in the kernel."""
        sock = self.transport.get_extra_info("socket")
        in_kernel = 0 if sock is None else bytes_unsent(sock.fileno())
        return self.transport.get_write_buffer_size() + in_kernel

    # Reading

    def pause_reading(self) -> None:
        """Lets the peer's data wait in the kernel, until it sends no more."""
        if not self.reading_paused and not self.lost:
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Takes the peer's data again."""
        self.reading_paused = False
        if not self.lost and not self.transport.is_closing():
            self.transport.resume_reading()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return int(self.transport.get_extra_info("socket").fileno())
