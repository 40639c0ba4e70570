"""Who is at the other end of a Unix socket, as the kernel knows it."""

from __future__ import annotations

import functools
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

_UCRED: Final = struct.Struct("=iII")  # pid, uid, gid: <sys/socket.h> of Linux


def peer_uid(sock: socket.socket) -> int | None:
    """The effective user of the peer when it connected or began to listen; None where the system
    does not tell.

    Raises:
        OSError: The connection is gone.
    """
    if sys.platform == "linux":
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        uid: int = _UCRED.unpack(data)[1]
        return uid
    getpeereid = _getpeereid()
    return None if getpeereid is None else _ask(getpeereid, sock)


def _ask(getpeereid: Callable[..., Any], sock: socket.socket) -> int:
    import ctypes

    uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
    if getpeereid(sock.fileno(), ctypes.byref(uid), ctypes.byref(gid)) != 0:
        raise OSError(ctypes.get_errno(), "getpeereid failed")
    return uid.value


@functools.cache
def _getpeereid() -> Callable[..., Any] | None:
    """getpeereid(3) of macOS and the BSDs."""
    try:
        import ctypes

        function: Callable[..., Any] = ctypes.CDLL(None, use_errno=True).getpeereid
    except (ImportError, OSError, AttributeError):
        return None
    return function
