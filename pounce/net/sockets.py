"""Listening sockets: bound, named and closed in one place.

A socket made here is bound, non-blocking and not inheritable, and does not listen yet: whoever
serves on it calls `listen`, so that no client is let in before the application is ready.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from pounce.addresses import (
    Address,
    InheritedAddress,
    TCPAddress,
    UnixAddress,
    parse_address,
)
from pounce.errors import BindError
from pounce.net.activation import adopt_descriptor
from pounce.net.unix_sockets import DEFAULT_ACCESS, FileAccess, bind_unix, remove_file

if TYPE_CHECKING:
    from pounce.config import ServerConfig

logger = logging.getLogger("pounce.error")

# With port 0 the kernel chooses for the first address; another program may hold that port on the
# next one. Each attempt draws a new port, so a handful is plenty.
PORT_ATTEMPTS = 16

# What bind() says when the machine has no IPv6, or has it switched off, although a name such as
# "localhost" still resolves to ::1.
NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})

_SocketAddress: TypeAlias = tuple[socket.AddressFamily, tuple[object, ...]]


def bind(config: ServerConfig) -> list[socket.socket]:
    """Bind what `config` names, see `configured_addresses`.

    Raises `BindError` with a message of one line, and leaves nothing bound.
    """
    bound: list[socket.socket] = []
    try:
        for address in configured_addresses(config):
            bound += bind_address(address, configured_access(config))
    except BaseException:
        close_sockets(bound)
        raise
    return bound


def configured_addresses(config: ServerConfig) -> list[Address]:
    """The addresses that `config` names, each once: `bind`, else `fd`, else `uds`, else `host` and
    `port`."""
    if config.bind:
        return list(dict.fromkeys(parse_address(text) for text in config.bind))
    if config.fd is not None:
        return [InheritedAddress(config.fd)]
    if config.uds is not None:
        return [UnixAddress(config.uds)]
    return [TCPAddress(config.host, config.port)]


def configured_access(config: ServerConfig) -> FileAccess:
    """Who may use the files of Unix sockets."""
    return FileAccess(config.uds_permissions, config.uds_owner)


def bind_address(address: Address, access: FileAccess = DEFAULT_ACCESS) -> list[socket.socket]:
    """Bind one address as people write it, which may be several to the kernel.

    A host name may have several addresses; all are bound, with one port number. An IPv6 socket
    takes IPv6 only, so that it stands beside an IPv4 one on the same port. The port must be
    nobody's, even where its holder would share it (SO_REUSEPORT). `access` is for Unix sockets.

    Raises `BindError` with a message of one line, and leaves nothing bound.
    """
    match address:
        case InheritedAddress():
            return [adopt_descriptor(address)]
        case UnixAddress():
            return [bind_unix(address, access)]
        case TCPAddress(host, port):
            return _bind_tcp(host, port)


def bind_beside(family: int, address: tuple[Any, ...]) -> socket.socket:
    """Another TCP socket at an address that one of this user is bound to, as `getsockname` names
    it. All have SO_REUSEPORT.

    Raises `BindError`.
    """
    try:
        return _bind_one(family, address, reuse_port=True)
    except OSError as error:
        raise BindError(_tcp_reason(error, address[0], address[1])) from error


def listen(sockets: Iterable[socket.socket], backlog: int) -> None:
    """Let clients in; up to `backlog` connections wait to be accepted.

    Only now does the kernel find out that two programs bound one port before either of them
    listened. Raises `BindError`.
    """
    for sock in sockets:
        try:
            sock.listen(backlog)
        except OSError as error:
            host, port = bound_addr(sock)
            raise BindError(_tcp_reason(error, host, port)) from error


def bound_addr(sock: socket.socket) -> tuple[str, int]:
    """The host and port really bound. For a Unix socket: its path and 0."""
    name = sock.getsockname()
    if isinstance(name, bytes):  # a name in Linux's abstract namespace
        return "@" + os.fsdecode(name[1:]), 0
    if isinstance(name, str):
        return name, 0
    return name[0], name[1]


def close_sockets(sockets: Iterable[socket.socket]) -> None:
    """Close `sockets` and remove the files of Unix sockets that this process bound.

    The list may hold one descriptor several times, and sockets that are closed already. A file is
    left alone when another program has put its own in its place.
    """
    closed: set[int] = set()
    for sock in sockets:
        fd = sock.fileno()
        if fd == -1:
            continue
        if fd in closed:
            # Another object over a descriptor just closed: its number may soon be someone else's.
            sock.detach()
            continue
        closed.add(fd)
        remove_file(sock)
        with contextlib.suppress(OSError):
            sock.close()


# TCP


def _bind_tcp(host: str, port: int) -> list[socket.socket]:
    addresses = _resolve(host, port)
    for attempt in range(PORT_ATTEMPTS):
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            taken_by_chance = (
                error.errno == errno.EADDRINUSE and port == 0 and attempt + 1 < PORT_ATTEMPTS
            )
            if not taken_by_chance:
                raise BindError(_tcp_reason(error, host, port)) from error
    raise AssertionError("unreachable")


def _resolve(host: str, port: int) -> list[_SocketAddress]:
    """The addresses of `host`, each once. The empty host is every address of the machine."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise BindError(f"host {host!r} is unknown: {error.strerror}") from error
    except UnicodeError as error:
        raise BindError(f"host {host!r} is not a valid host name") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bind_all(addresses: list[_SocketAddress], port: int) -> list[socket.socket]:
    """Bind each address; the port that the first one got is the port of all."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                sock = _bind_one(family, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in NO_SUCH_FAMILY or len(addresses) == 1:
                    raise
                missing = error
                logger.debug("Not listening on %s: %s", address[0], error.strerror)
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        close_sockets(sockets)
        raise
    return sockets


def _bind_one(
    family: int, address: tuple[object, ...], *, reuse_port: bool = False
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option lets two servers share one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _tcp_reason(error: OSError, host: str, port: int) -> str:
    where = host or "every address"
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {where} is in use"
        case errno.EACCES | errno.EPERM if 0 < port < 1024:
            return f"port {port} on {where} needs a privilege: ports below 1024 are reserved"
        case errno.EADDRNOTAVAIL:
            return f"{where} is not an address of this machine"
        case errno.EAFNOSUPPORT:
            return f"this machine has no address family for {where}"
    return f"port {port} on {where} cannot be bound: {error.strerror or error}"
