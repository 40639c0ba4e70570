"""An order of stores and loads that other processors see.

Whoever writes here only stores, and whoever reads only loads. x86-64 keeps the order of stores, and
that of loads, by itself. ARM does not, and Python has no fences; but giving a lock back is a
release and taking it again an acquire, and nothing moves past both. What can be checked is checked
all the same: sums and ring records carry checksums.
"""

from __future__ import annotations

import os
import platform
import threading

_lock = threading.Lock()


def by_locks() -> None:
    """A fence for any processor."""
    with _lock:
        pass
    with _lock:
        pass


def _renew() -> None:
    """A process that was forked off has no thread that would give the lock back."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def by_itself() -> None:
    """There is nothing to do."""


fence = by_itself if platform.machine() in ("x86_64", "AMD64") else by_locks
"""Keeps what was stored before from what is stored after it, and so with what is loaded."""
