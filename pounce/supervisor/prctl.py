"""The system call prctl(2), which Python does not have."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("pounce.error")


def prctl(option: int, value: int | bytes) -> bool:
    """Whether there is such a call, and it has succeeded.

    Args:
        option: A number of `<linux/prctl.h>`.
        value: A number, or bytes for an option that takes a pointer.
    """
    function = load()
    if function is None:
        return False
    if function(option, value, 0, 0, 0) != 0:
        logger.debug("The kernel refuses prctl(%d, %r)", option, value)
        return False
    return True


@functools.cache
def load() -> Callable[..., Any] | None:
    """The system call; None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes

        library = ctypes.CDLL(None).prctl
        word = ctypes.c_ulong
    except (ImportError, OSError, AttributeError):  # a Python without libffi, a static libc
        return None

    def call(option: int, value: int | bytes, *rest: int) -> int:
        first = ctypes.c_char_p(value) if isinstance(value, bytes) else word(value)
        result: int = library(ctypes.c_int(option), first, *map(word, rest))
        return result

    return call
