"""What waits at a listening socket: connections to be accepted, and handshakes under way."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

# include/uapi/linux/tcp.h: struct tcp_info begins with eight bytes, the state first, and 32-bit
# fields. In a listening socket two of them count something else: see tcp_get_info().
_TCP_LISTEN: Final = 10
_UNACKED: Final = 24
_SACKED: Final = 28

# include/uapi/linux/sock_diag.h, inet_diag.h and netlink.h
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_TCP_SYN_RECV: Final = 3
_HEADER: Final = struct.Struct("=IHHII")
# Of struct inet_diag_msg
_PORT: Final = struct.Struct("!4xH")
_HOST: Final = {socket.AF_INET: slice(8, 12), socket.AF_INET6: slice(8, 24)}
_COOKIE: Final = slice(44, 52)  # the kernel's number for the socket
_QUEUE: Final = struct.Struct("=56xII4xI")  # length and limit, where it listens; inode


class QueueLength(NamedTuple):
    """How many connections wait to be accepted, and how many may."""

    length: int
    limit: int


def queue_length(sock: socket.socket) -> QueueLength | None:
    """The accept queue of a listening socket; None where the system does not tell (Unix sockets,
    macOS) or the socket does not listen."""
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SACKED + 4)
    if len(info) < _SACKED + 4 or info[0] != _TCP_LISTEN:
        return None
    return QueueLength(*struct.unpack_from("=II", info, _UNACKED))


class ListeningSocket(NamedTuple):
    """A TCP socket of this machine that listens, whichever process has it."""

    inode: int
    """What `os.fstat()` says of its descriptors."""
    host: str
    port: int
    queue: QueueLength


def listening_sockets(family: int, port: int) -> list[ListeningSocket] | None:
    """All TCP sockets of an address family that listen on a port, those of other processes
    included; None where the system does not tell."""
    if sys.platform != "linux" or family not in _HOST:
        return None
    try:
        return [_listening_socket(each) for each in _dump(family, port, _TCP_LISTEN)]
    except OSError:
        return None


def _listening_socket(message: bytes) -> ListeningSocket:
    family = message[0]
    host = socket.inet_ntop(family, message[_HOST[socket.AddressFamily(family)]])
    length, limit, inode = _QUEUE.unpack_from(message)
    (port,) = _PORT.unpack_from(message)
    return ListeningSocket(inode, host, port, QueueLength(length, limit))


def handshakes(sock: socket.socket) -> frozenset[bytes] | None:
    """The handshakes under way on the port of a TCP socket; None where the system does not tell.

    A SYN was received and answered; the client's acknowledgement is to come, and goes to the
    socket that the SYN was given to (which the kernel does not tell). Each has a name of its own.
    """
    if sys.platform != "linux":
        return None
    try:
        port = sock.getsockname()[1]
        return frozenset(each[_COOKIE] for each in _dump(sock.family, port, _TCP_SYN_RECV))
    except OSError:  # no such protocol, or forbidden to containers
        return None


def _dump(family: int, port: int, state: int) -> Iterator[bytes]:
    """The sockets on a port that are in a state, each a struct inet_diag_msg. Asks over
    sock_diag(7), which is open to everyone."""
    query = struct.pack(
        "=BBBxIHH44x", family, socket.IPPROTO_TCP, 0, 1 << state, socket.htons(port), 0
    )
    header = _HEADER.pack(_HEADER.size + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.sendto(header + query, (0, 0))
        while True:
            # The kernel has put the next part there before recv() is called: nothing blocks.
            part = netlink.recv(65536, socket.MSG_DONTWAIT)
            for kind, payload in _messages(part):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", payload)[0], "sock_diag")
                yield payload


def _messages(part: bytes) -> Iterator[tuple[int, bytes]]:
    """The netlink messages of a datagram: type and payload."""
    while len(part) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(part)
        if length < _HEADER.size:
            return
        yield kind, part[_HEADER.size : length]
        part = part[(length + 3) & ~3 :]
