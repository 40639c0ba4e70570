"""Which HTTP a client without TLS speaks, by how it begins (RFC 9113 section 3.3)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from pounce.worker.request_cycle import format_client

if TYPE_CHECKING:
    from pounce.worker.worker import Worker

logger = logging.getLogger("pounce.error")

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class FirstBytes(asyncio.Protocol):
    """Waits for what tells HTTP/2 from HTTP/1.1, and leaves the connection to its protocol.

    Args:
        worker: Keeps the deadline, as of a handshake.
        make_protocol: Called with whether it is HTTP/2.
    """

    deadline_name = "first_byte"

    __slots__ = ("_data", "_decided", "_make_protocol", "_transport", "_worker", "deadline")

    def __init__(self, worker: Worker, make_protocol: Callable[[bool], asyncio.Protocol]) -> None:
        self._worker = worker
        self._make_protocol = make_protocol
        self._data = b""
        self._decided = False
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._worker.handshake_begun(self)
        self.deadline = self._worker.clock + self._worker.timeout_first_byte

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data
        is_h2 = data.startswith(PREFACE)
        if is_h2 or not PREFACE.startswith(data):
            self._hand_over(data, is_h2)

    def _hand_over(self, data: bytes, is_h2: bool) -> None:
        self._decided = True
        self._worker.handshake_ended(self)
        protocol = self._make_protocol(is_h2)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._decided:
            self._worker.handshake_ended(self)

    def expire(self) -> None:
        """The client has not said enough in time."""
        peer = self._transport.get_extra_info("peername")
        client = peer[:2] if isinstance(peer, tuple) else None
        logger.debug("%s timed out: first byte", format_client(client))
        self.abort()

    def abort(self) -> None:
        """Closes without a word."""
        self._transport.abort()
