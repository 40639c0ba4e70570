"""The lock that says that a segment's owner lives: the kernel drops it when the process ends.

Unlike a pid it also tells where processes have other numbers, as when containers share /dev/shm.
tmpfs knows locks. Shared memory of macOS is not made of files and has none; there the owner's pid
and start time in the segment have to do.
"""

from __future__ import annotations

import os
import sys
from typing import Final

if sys.platform != "win32":
    import fcntl

CAN_LOCK: Final = sys.platform == "linux"

_held: set[int] = set()


def hold(fd: int) -> int | None:
    """Lock what `fd` is open on for as long as this process lives; the lock, for `drop()`.

    `fd` is taken over, and must not be that of a mapping, which would go on in forked children.

    Raises:
        FileNotFoundError: The name was removed meanwhile.
    """
    if not CAN_LOCK:
        os.close(fd)
        return None
    _held.add(fd)
    fcntl.flock(fd, fcntl.LOCK_SH)  # waits at most for a leftover's removal
    if not os.fstat(fd).st_nlink:
        drop(fd)
        raise FileNotFoundError("the name was removed")
    return fd


def is_held(lock: int | None) -> bool:
    """Whether a lock is this process's; a forked child has none."""
    return lock in _held


def drop(lock: int | None) -> None:
    """Give a lock of this process back. In a forked child, which has none, nothing happens."""
    if lock in _held:
        _held.discard(lock)
        os.close(lock)


def is_free(fd: int) -> bool:
    """Whether no owner holds a lock. Until `fd` is closed, none can take it, either."""
    if not CAN_LOCK:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _drop_inherited() -> None:
    for lock in list(_held):
        drop(lock)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)
