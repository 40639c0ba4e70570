"""TLS over a transport of the event loop: `ssl.SSLObject` between two memory buffers.

The event loops have this too. Theirs ends every read with an exception and hands each record on by
itself; ours asks whether there is more, which makes a small request over TLS cost a third less.
The connection behind it sees an ordinary transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

logger = logging.getLogger("pounce.error")

RECORD_SIZE: Final = 16384
"""The most content that one TLS record has (RFC 8446 section 5.1)."""

FLUSH_SIZE: Final = 65536
"""Bytes that wait for the end of a turn; more are encrypted at once."""


class HandshakeOwner(Protocol):
    """Who keeps the deadlines of handshakes."""

    def handshake_begun(self, channel: TLSTransport) -> None:
        """The channel has until its deadline, which the owner sets, to finish."""

    def handshake_ended(self, channel: TLSTransport) -> None:
        """It has finished, failed, or gone away."""

    @property
    def send_later(self) -> Callable[[TLSTransport], None]:
        """Has the channel flushed before the event loop waits."""


class TLSTransport(asyncio.Protocol, asyncio.Transport):
    """The server side of one TLS connection.

    Towards the network it is a protocol; towards the connection, which `make_protocol` makes when
    the handshake is complete, it is a transport.
    """

    deadline_name = "tls_handshake"
    """What is missed when the handshake takes too long."""

    __slots__ = (
        "_closing",
        "_incoming",
        "_make_protocol",
        "_outgoing",
        "_owner",
        "_protocol",
        "_raw",
        "_send_later",
        "_tls",
        "_unsent",
        "_unsent_size",
        "deadline",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        make_protocol: Callable[[str | None], asyncio.Protocol],
        owner: HandshakeOwner,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._make_protocol = make_protocol
        self._owner = owner
        self._protocol: asyncio.Protocol | None = None
        self._closing = False
        self._send_later = owner.send_later
        self._unsent: list[bytes] = []
        """What was written since the last flush."""
        self._unsent_size = 0
        self.deadline = 0.0

    def __repr__(self) -> str:
        state = "handshake" if self._protocol is None else "closing" if self._closing else "open"
        return f"<TLSTransport {state} {self._tls.version()}>"

    # A protocol, towards the network

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._owner.handshake_begun(self)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._incoming.write(data)
        protocol = self._protocol
        if protocol is None:
            protocol = self._handshake()
            if protocol is None:
                return
        self._read(protocol)
        if self._outgoing.pending:  # an answer of TLS itself, as to a key update
            self._flush()

    def eof_received(self) -> bool:
        # Without close_notify this is a truncation (RFC 8446 section 6.1). The protocols above
        # have framing of their own and take an incomplete message for what it is.
        if self._protocol is not None and not self._closing:
            self._protocol.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._unsent.clear()
        self._unsent_size = 0
        if self._protocol is None:
            self._owner.handshake_ended(self)
        else:
            self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def _handshake(self) -> asyncio.Protocol | None:
        """Goes on with the handshake; the protocol when it is complete."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return None
        except (ssl.SSLError, ssl.CertificateError) as exc:
            logger.info("TLS handshake with %s failed: %s", self._peer(), exc)
            self._flush()  # the alert
            self._closing = True
            self._raw.close()
            return None
        self._flush()
        self._owner.handshake_ended(self)
        protocol = self._protocol = self._make_protocol(self._tls.selected_alpn_protocol())
        protocol.connection_made(self)
        return protocol

    def _read(self, protocol: asyncio.Protocol) -> None:
        """Decrypts what there is and hands it on in one piece."""
        tls, incoming = self._tls, self._incoming
        try:
            data = tls.read(RECORD_SIZE)
            if data and (incoming.pending or tls.pending()):
                parts = [data]
                with contextlib.suppress(ssl.SSLWantReadError):
                    while data and (incoming.pending or tls.pending()):
                        data = tls.read(RECORD_SIZE)
                        parts.append(data)
                protocol.data_received(b"".join(parts))
            elif data:
                protocol.data_received(data)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as exc:
            logger.info("TLS connection with %s failed: %s", self._peer(), exc)
            self.abort()
            return
        if not data:  # close_notify: the peer sends no more
            (self._protocol or protocol).eof_received()  # it may be another one since the read
            self.close()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def _peer(self) -> Any:
        return self._raw.get_extra_info("peername")

    def expire(self) -> None:
        """The handshake took too long."""
        logger.info("TLS handshake with %s timed out", self._peer())
        self.abort()

    # A transport, towards the connection

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._closing:
            unsent = self._unsent
            if not unsent:
                self._send_later(self)
            unsent.append(data if type(data) is bytes else bytes(data))
            self._unsent_size += len(data)
            if self._unsent_size >= FLUSH_SIZE:
                self.flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def flush(self) -> None:
        """Encrypts what was written and hands it to the event loop."""
        unsent = self._unsent
        if not unsent:
            return
        data = unsent[0] if len(unsent) == 1 else b"".join(unsent)
        unsent.clear()
        self._unsent_size = 0
        try:
            self._tls.write(data)
        except ssl.SSLError as exc:
            logger.info("TLS connection with %s failed: %s", self._peer(), exc)
            self.abort()
        else:
            self._raw.write(self._outgoing.read())

    def close(self) -> None:
        """Sends close_notify behind what was written and closes, without waiting for the peer's
        (RFC 8446 section 6.1 permits that)."""
        self._end()
        self._raw.close()

    def _end(self) -> None:
        if not self._closing:
            self.flush()
            self._closing = True
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()

    def abort(self) -> None:
        self._closing = True
        self._unsent.clear()
        self._unsent_size = 0
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def can_write_eof(self) -> bool:
        return self._raw.can_write_eof()

    def write_eof(self) -> None:
        """Ends this direction, as `close`, and drops what still arrives until the peer ends its
        own: what it has not read yet is not lost to a reset."""
        self._end()
        self._raw.write_eof()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() + self._unsent_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.flush()
        self._raw.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        return self._raw.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)
