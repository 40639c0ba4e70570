"""TLS between a client in memory and the transport of a connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from pounce.net.tls_transport import FLUSH_SIZE, TLSTransport

CA = trustme.CA()


class Raw(asyncio.Transport):
    """The transport below; what is written to it, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.fate = "open"

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert self.fate == "open"
        self.written.append(bytes(data))

    def close(self) -> None:
        self.fate = "closed"

    def abort(self) -> None:
        self.fate = "aborted"

    def write_eof(self) -> None:
        self.fate = "ended"

    def is_closing(self) -> bool:
        return self.fate in ("closed", "aborted")

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Behind(asyncio.Protocol):
    """The connection behind it."""

    def __init__(self) -> None:
        self.read = b""
        self.over = False

    def data_received(self, data: bytes) -> None:
        self.read += data

    def eof_received(self) -> None:
        self.over = True


class Session:
    """Both ends, after the handshake. Is the owner of the channel, too."""

    def __init__(self) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        CA.issue_cert("localhost").configure_cert(server)
        client = ssl.create_default_context()
        CA.configure_trust(client)
        self.due: list[TLSTransport] = []
        self.behind = Behind()
        self.raw = Raw()
        self.channel = TLSTransport(server, lambda _: self.behind, self)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self._in, self._out, server_hostname="localhost")
        self.channel.connection_made(self.raw)
        while not self._shaken_hands():
            self.channel.data_received(self._out.read())
        self.channel.data_received(self._out.read())
        assert self.heard() == b""  # session tickets

    def handshake_begun(self, channel: TLSTransport) -> None:
        pass

    def handshake_ended(self, channel: TLSTransport) -> None:
        pass

    @property
    def send_later(self) -> Callable[[TLSTransport], None]:
        return self.due.append

    def _shaken_hands(self) -> bool:
        self._take()
        try:
            self.client.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def _take(self) -> None:
        self._in.write(b"".join(self.raw.written))
        self.raw.written.clear()

    def say(self, data: bytes) -> None:
        self.client.write(data)
        self.channel.data_received(self._out.read())

    def end_of_turn(self) -> None:
        while self.due:
            self.due.pop(0).flush()

    def heard(self) -> bytes:
        """What the client reads."""
        self._take()
        data = b""
        try:
            while part := self.client.read(1 << 20):
                data += part
        except ssl.SSLWantReadError:
            pass
        return data


def test_what_is_written_in_a_turn_leaves_in_one_piece() -> None:
    session = Session()
    session.say(b"question")
    assert session.behind.read == b"question"
    channel = session.channel
    channel.write(b"a")
    channel.writelines([b"b", b"", bytearray(b"c"), memoryview(b"d")])
    assert session.raw.written == []
    assert session.due == [channel]
    assert channel.get_write_buffer_size() == 4
    session.end_of_turn()
    assert len(session.raw.written) == 1
    assert channel.get_write_buffer_size() == 0
    assert session.heard() == b"abcd"
    channel.write(b"e")
    session.end_of_turn()
    assert session.heard() == b"e"


def test_a_buffer_may_be_used_again() -> None:
    session = Session()
    buffer = bytearray(b"good")
    session.channel.write(buffer)
    buffer[:] = b"evil"
    session.end_of_turn()
    assert session.heard() == b"good"


def test_much_is_not_kept_until_the_end_of_the_turn() -> None:
    session = Session()
    session.channel.write(b"a")
    session.channel.write(b"b" * FLUSH_SIZE)
    assert session.channel.get_write_buffer_size() == 0
    session.channel.write(b"c")
    session.end_of_turn()
    assert session.heard() == b"a" + b"b" * FLUSH_SIZE + b"c"


@pytest.mark.parametrize("how", ["close", "write_eof"])
def test_what_was_written_precedes_the_end(how: str) -> None:
    session = Session()
    session.channel.write(b"last")
    getattr(session.channel, how)()
    assert session.raw.fate == {"close": "closed", "write_eof": "ended"}[how]
    session.channel.write(b"too late")
    session.end_of_turn()
    assert session.heard() == b"last"
    assert session.client.read(1) == b"", "close_notify has come"


def test_an_abort_drops_what_was_written() -> None:
    session = Session()
    session.channel.write(b"never")
    session.channel.abort()
    session.end_of_turn()
    assert session.raw.fate == "aborted"
    assert session.raw.written == []
    assert session.channel.get_write_buffer_size() == 0


def test_a_lost_connection_is_not_written_to() -> None:
    session = Session()
    session.channel.write(b"never")
    session.raw.fate = "closed"
    session.channel.connection_lost(None)
    session.end_of_turn()
    assert session.raw.written == []


def test_new_limits_count_what_waits() -> None:
    """Who sets them to 0 waits until everything is with the kernel."""
    session = Session()
    session.channel.write(b"a")
    session.channel.set_write_buffer_limits(high=0)
    assert len(session.raw.written) == 1
    assert session.raw.limits == (0, None)


def test_a_broken_record_ends_the_connection() -> None:
    session = Session()
    session.channel.write(b"answer")
    session.channel.data_received(b"\x17\x03\x03\x00\x05abcde")
    assert session.raw.fate == "aborted"
    session.end_of_turn()
    assert session.raw.written == []
