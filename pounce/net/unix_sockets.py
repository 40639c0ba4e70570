"""Unix sockets and their files: made, given to their owner, and removed by whoever made them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from dataclasses import dataclass
from typing import Final

from pounce.addresses import UnixAddress
from pounce.errors import BindError


@dataclass(frozen=True, slots=True)
class FileAccess:
    """Who may connect to the file of a Unix socket."""

    mode: int = 0o666
    owner: str | None = None
    """`USER`, `USER:GROUP` or `:GROUP`, by name or number; None leaves it to the process."""


DEFAULT_ACCESS: Final = FileAccess()


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file that a bound Unix socket has in the file system."""

    path: str
    """Absolute."""
    device: int
    inode: int

    def exists(self) -> bool:
        """Whether it is still there, and no other in its place."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == (self.device, self.inode)


# The files that a process answers for, by the name the kernel gives the socket. A child made by
# fork has a copy of the table, but answers for none of them.
_files: dict[str, tuple[SocketFile, int]] = {}


def file_of(sock: socket.socket) -> SocketFile | None:
    """The file that this process will remove when it closes `sock`."""
    file, pid = _files.get(_name_of(sock), (None, 0))
    return file if pid == os.getpid() else None


def claim_file(sock: socket.socket, file: SocketFile) -> None:
    """Answer for a file from now on: `remove_file` removes it."""
    _files[_name_of(sock)] = file, os.getpid()


def disclaim_file(sock: socket.socket) -> None:
    """Leave the file to another process."""
    _files.pop(_name_of(sock), None)


def remove_file(sock: socket.socket) -> None:
    """Remove the file of an open socket, where this process answers for it and it is still
    there."""
    file = file_of(sock)
    if file is not None:
        disclaim_file(sock)
        if file.exists():
            with contextlib.suppress(OSError):
                os.unlink(file.path)


def _name_of(sock: socket.socket) -> str:
    """The bound path; empty for whatever has none."""
    with contextlib.suppress(OSError):
        if getattr(socket, "AF_UNIX", None) == sock.family:
            name = sock.getsockname()
            return name if isinstance(name, str) else ""
    return ""


def bind_unix(address: UnixAddress, access: FileAccess) -> socket.socket:
    """A bound socket that does not listen yet. The file of a server that is gone is replaced.

    Raises `BindError`, and leaves nothing bound.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise BindError("this system has no Unix sockets")
    if address.is_abstract:
        return _bind_abstract(address)
    path = address.path
    owner = _ids_of(access.owner)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale_file(path)
        sock.bind(path)
        status = os.lstat(path)
        claim_file(sock, SocketFile(os.path.abspath(path), status.st_dev, status.st_ino))
        # Nobody can have connected yet: that takes listen(), which comes later.
        _give(path, owner, access.owner)
        os.chmod(path, access.mode)
    except BaseException as error:
        remove_file(sock)
        sock.close()
        if isinstance(error, OSError):
            raise BindError(_reason(error, path)) from error
        raise
    return sock


def _bind_abstract(address: UnixAddress) -> socket.socket:
    if sys.platform != "linux":
        raise BindError(f"{address} is an abstract socket, which only Linux has")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind("\0" + address.path[1:])
    except OSError as error:
        sock.close()
        in_use = error.errno == errno.EADDRINUSE
        raise BindError(
            f"{address} is in use" if in_use else _reason(error, str(address))
        ) from error
    return sock


# The owner


def _ids_of(owner: str | None) -> tuple[int, int] | None:
    """User and group number of `USER:GROUP`; -1 for the one that is not named."""
    if owner is None:
        return None
    import grp
    import pwd

    user, _, group = owner.partition(":")
    uid = gid = -1
    try:
        if user:
            uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise BindError(f"user {user!r} is unknown") from None
    try:
        if group:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise BindError(f"group {group!r} is unknown") from None
    return uid, gid


def _give(path: str, ids: tuple[int, int] | None, owner: str | None) -> None:
    if ids is None:
        return
    try:
        os.chown(path, *ids, follow_symlinks=False)
    except PermissionError as error:
        raise BindError(f"no permission to give {path} to {owner}") from error


# The file of a server that is gone


def _remove_stale_file(path: str) -> None:
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


def _reason(error: OSError, path: str) -> str:
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
