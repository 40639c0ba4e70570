"""An order of stores and loads that other processors see."""

from __future__ import annotations

import threading

_lock = threading.Lock()


def fence() -> None:
    """Keep what was stored or loaded before apart from what comes after.

    x86-64 keeps that order by itself. ARM does not, and Python has no fences; but giving a lock
    back is a release and taking it again an acquire, and nothing moves past both. What can be
    checked is checked all the same: sums and ring records carry checksums.
    """
    with _lock:
        pass
    with _lock:
        pass
