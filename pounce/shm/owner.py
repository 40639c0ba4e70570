"""Who owns a segment: a process, told from a later one that has got the same number."""

from __future__ import annotations

import os
import sys
from typing import Final

import psutil

_START_MASK: Final = 0xFFFF_FFFF
_PID_SHIFT: Final = 32


def owner_word(pid: int) -> int:
    """The process as one number, so that it changes hands in a single store: the pid above the
    low 32 bits of its start time."""
    return pid << _PID_SHIFT | (_start_of(pid) or 0) & _START_MASK


def pid_of(word: int) -> int:
    """The pid in an owner's word."""
    return word >> _PID_SHIFT


def is_alive(word: int) -> bool:
    """Whether the very process that the word was made of runs. A zombie does not."""
    pid = pid_of(word)
    if pid <= 0:
        return False
    start = _start_of(pid)
    return start is not None and start & _START_MASK == word & _START_MASK


def _start_of(pid: int) -> int | None:
    """When the process started, in 1/100 s of some clock; None when it has ended."""
    if sys.platform == "linux":
        return _start_in_proc(pid)
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return int(process.create_time() * 100)
    except (psutil.Error, OverflowError):
        return None


def _start_in_proc(pid: int) -> int | None:
    """psutil adds the boot time, which moves when the clock is set; the ticks stay (proc(5))."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.read(fd, 4096)
    except OSError:
        return None  # ended meanwhile
    finally:
        os.close(fd)
    # The name in the second field may contain anything.
    state, *fields = status[status.rindex(b")") + 2 :].split()
    return None if state in (b"Z", b"X") else int(fields[18])
