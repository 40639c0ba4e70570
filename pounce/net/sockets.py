"""Listening sockets: made, named and closed in one place.

A socket made here is bound, non-blocking and not inheritable, and does not listen yet: whoever
serves on it calls `listen`, so that no client is let in before the application is ready.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pounce.errors import BindError

if TYPE_CHECKING:
    from pounce.config import ServerConfig

logger = logging.getLogger("pounce.error")

# With port 0 the kernel chooses for the first address; another program may hold that port on the
# next one. Each attempt draws a new port, so a handful is plenty.
PORT_ATTEMPTS = 16

# What bind() says when the machine has no IPv6, or has it switched off, although a name such as
# "localhost" still resolves to ::1.
NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})

_Address: TypeAlias = tuple[socket.AddressFamily, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class _SocketFile:
    """The file that a bound Unix socket has in the file system, and the process that made it."""

    path: str
    identity: tuple[int, int]
    pid: int


# By the name the kernel gives the socket. Only `bind` adds, only `close_sockets` takes away.
_socket_files: dict[str, _SocketFile] = {}


def bind(config: ServerConfig) -> list[socket.socket]:
    """Bind every address that `config` names: `fd`, else `uds`, else `host` and `port`.

    A host name may have several addresses; all are bound, with one port number. An IPv6 socket
    takes IPv6 only, so that it stands beside an IPv4 one on the same port.

    Raises `BindError` with a message of one line, and leaves nothing bound.
    """
    if config.fd is not None:
        return [_adopt(config.fd)]
    if config.uds is not None:
        return [_bind_unix(config.uds, config.uds_permissions)]
    return _bind_tcp(config.host, config.port)


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
        _remove_socket_file(sock)
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


def _resolve(host: str, port: int) -> list[_Address]:
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


def _bind_all(addresses: list[_Address], port: int) -> list[socket.socket]:
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


def _bind_one(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere the option lets two servers share one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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


# Unix


def _bind_unix(path: str, permissions: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale_socket(path)
        sock.bind(path)
        status = os.lstat(path)
        _socket_files[path] = _SocketFile(
            os.path.abspath(path), (status.st_dev, status.st_ino), os.getpid()
        )
        # Nobody can have connected yet: that takes listen(), which comes later.
        os.chmod(path, permissions)
    except OSError as error:
        close_sockets([sock])
        raise BindError(_unix_reason(error, path)) from error
    except BaseException:
        close_sockets([sock])
        raise
    return sock


def _remove_stale_socket(path: str) -> None:
    """Remove the socket file of a server that is gone. Raises `BindError` for anything else."""
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(before.st_mode):
        raise BindError(f"{path} exists and is not a socket")
    if _is_answered(path):
        raise BindError(f"a server answers on {path}")
    with contextlib.suppress(FileNotFoundError):
        now = os.lstat(path)
        # A server may have started since, and its file have the old one's number.
        if (now.st_ino, now.st_ctime_ns) == (before.st_ino, before.st_ctime_ns):
            os.unlink(path)


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # it listens; its queue is full
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise BindError(f"a socket of another type is at {path}") from error
            raise
    return True


def _unix_reason(error: OSError, path: str) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"the directory of {path} does not exist"
        case errno.EACCES | errno.EPERM:
            return f"no permission for {path}"
        case errno.EADDRINUSE:
            return f"{path} was taken by another server"
        case errno.EROFS:
            return f"{path} is on a read-only file system"
        case None:  # raised by Python itself, which knows the size of the kernel's field
            return f"{path} is too long for a Unix socket ({len(os.fsencode(path))} bytes)"
    return f"{path} cannot be bound: {error.strerror or error}"


def _remove_socket_file(sock: socket.socket) -> None:
    if getattr(socket, "AF_UNIX", None) != sock.family:
        return
    with contextlib.suppress(OSError):
        name = sock.getsockname()
        file = _socket_files.get(name)
        if file is None or file.pid != os.getpid():
            return
        del _socket_files[name]
        status = os.lstat(file.path)
        if (status.st_dev, status.st_ino) == file.identity:
            os.unlink(file.path)


# Inherited descriptors


def _adopt(fd: int) -> socket.socket:
    """The socket behind an inherited descriptor, with the family it really has."""
    try:
        os.fstat(fd)
    except OSError as error:
        raise BindError(f"file descriptor {fd} is not open") from error
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise BindError(f"file descriptor {fd} is not a socket") from error
    fault = _fault_of(sock)
    if fault is not None:
        sock.detach()  # it is not ours to close
        raise BindError(f"file descriptor {fd} {fault}")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def _fault_of(sock: socket.socket) -> str | None:
    """Why `sock` cannot be listened on; None when it can."""
    families = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}
    if sock.family not in families:
        return "is a socket of neither the Internet nor the Unix family"
    if sock.type != socket.SOCK_STREAM:
        return "is not a stream socket"
    with contextlib.suppress(OSError):
        sock.getpeername()
        return "is a connection, not a listening socket"
    name = sock.getsockname()
    if (name[1] == 0) if isinstance(name, tuple) else not name:
        return "is a socket without an address"
    return None
