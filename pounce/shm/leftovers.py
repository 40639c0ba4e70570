"""Finding and removing the segments of servers that ended without doing so."""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

from pounce.shm import name_lock, names, owner
from pounce.shm.segment import (
    CREATOR,
    HEADER_SIZE,
    HEIR,
    MAGIC,
    OWNER,
    open_fd,
    unlink,
    unlink_further,
)


class _Facts(NamedTuple):
    """What a segment says of itself."""

    creator: int
    """User id."""
    owner: int | None
    """The owner's word; None: the header is not complete."""
    heir: int = 0
    """The word of the process that may become the owner; 0: none."""


def remove_leftovers(but: str | None = None) -> list[str]:
    """Remove the segments whose owner is dead; their names. Called by a server that starts.

    A segment stays when its owner or heir lives, another user created it, or neither can be known.
    A further segment goes with the arena that it belongs to, and not before.

    Args:
        but: An arena to leave alone, as the caller is about to become its heir.
    """
    # Backwards, a further segment would come before the one that it belongs to.
    return [name for name in names.existing_names() if name != but and _remove_if_left(name)]


def _remove_if_left(name: str) -> bool:
    base = names.base_of(name)
    if base is not None and _exists(base):
        return False
    try:
        fd = open_fd(name)
    except FileNotFoundError:
        names.forget(name)
        return False
    except OSError:
        return False
    try:
        # Held until the name is gone: a creator under way waits, and sees what has happened.
        if not name_lock.is_free(fd) or not _is_left(_facts(fd)):
            return False
        unlink(name)
        if base is None:
            unlink_further(name)
    except (OSError, ValueError):
        return False
    finally:
        os.close(fd)
    return True


def _is_left(facts: _Facts) -> bool:
    if facts.creator != os.geteuid():
        return False
    if facts.owner is None:
        return name_lock.CAN_LOCK  # its creator would hold the lock
    return not owner.is_alive(facts.owner) and not owner.is_alive(facts.heir)


def _facts(fd: int) -> _Facts:
    status = os.fstat(fd)
    if status.st_size < HEADER_SIZE:
        return _Facts(status.st_uid, None)
    with mmap.mmap(fd, HEADER_SIZE, access=mmap.ACCESS_READ) as memory:
        header = memory[:HEADER_SIZE]
    if not header.startswith(MAGIC):
        return _Facts(status.st_uid, None)
    cells = memoryview(header).cast("q")
    return _Facts(cells[CREATOR], cells[OWNER], cells[HEIR])


def _exists(name: str) -> bool:
    try:
        os.close(open_fd(name))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True
