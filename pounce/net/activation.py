"""Sockets that somebody else has bound: inherited descriptors, and systemd's socket activation."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from pounce.addresses import InheritedAddress
from pounce.errors import BindError

FIRST_FD: Final = 3
"""The first descriptor that systemd passes (SD_LISTEN_FDS_START)."""


def activated_addresses(
    environ: MutableMapping[str, str] | None = None,
) -> list[InheritedAddress]:
    """The sockets that systemd has opened for this process, in the order of its unit files.

    The protocol is that of sd_listen_fds(3): `LISTEN_FDS` descriptors from 3 on, with the names
    `LISTEN_FDNAMES`, meant for the process `LISTEN_PID`. The variables are removed from `environ`,
    so that children do not take them for theirs; in a process that they are not meant for they
    say nothing.

    Raises `BindError` when the variables are malformed.
    """
    environ = os.environ if environ is None else environ
    pid, count, names = (
        environ.pop(variable, "") for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    environ.pop("LISTEN_PIDFDID", None)
    if not pid or not count or _number(pid, "LISTEN_PID") != os.getpid():
        return []
    fds = range(FIRST_FD, FIRST_FD + _number(count, "LISTEN_FDS"))
    given = names.split(":") if names else []
    # "unknown" is what systemd itself calls a socket without a name.
    return [
        InheritedAddress(fd, (given[index] if index < len(given) else "") or "unknown")
        for index, fd in enumerate(fds)
    ]


def _number(text: str, variable: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return int(text)
    raise BindError(f"{variable} is {text!r}, which is not a number")


def adopt_descriptor(address: InheritedAddress) -> socket.socket:
    """The socket behind an inherited descriptor, with the family it really has.

    Raises `BindError`; the descriptor stays open then.
    """
    label = f"file descriptor {address.fd}"
    if address.name:
        label += f" ({address.name}, from systemd)"
    try:
        os.fstat(address.fd)
    except OSError as error:
        raise BindError(f"{label} is not open") from error
    try:
        sock = socket.socket(fileno=address.fd)
    except OSError as error:
        raise BindError(f"{label} is not a socket") from error
    fault = _fault_of(sock)
    if fault is not None:
        sock.detach()  # it is not ours to close
        raise BindError(f"{label} {fault}")
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
