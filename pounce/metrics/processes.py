"""What the system knows of a process, for every process to see."""

from __future__ import annotations

import os
import sys
from typing import Final, NamedTuple

import psutil

_STAT_SIZE: Final = 4096

# Of /proc/PID/stat, counted from the state, the first field behind the name (proc_pid_stat(5)).
_UTIME, _STIME, _RSS = 11, 12, 21


class ProcessFigures(NamedTuple):
    """Memory, time and descriptors of a process."""

    rss: int
    """Bytes of resident memory."""
    cpu: float
    """Seconds in user and kernel mode."""
    open_fds: int | None
    """None: this process may not see them."""


def process_figures(pid: int) -> ProcessFigures | None:
    """The figures of a process; None when it is gone."""
    if sys.platform != "linux":
        return _figures_elsewhere(pid)
    # psutil would take twice the time, and would list every descriptor to count them.
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.read(file, _STAT_SIZE)
        finally:
            os.close(file)
    except OSError:
        return None
    fields = stat.rpartition(b") ")[2].split()
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    rss = int(fields[_RSS]) * os.sysconf("SC_PAGE_SIZE")
    return ProcessFigures(rss, ticks / os.sysconf("SC_CLK_TCK"), _count_fds(pid))


def _count_fds(pid: int) -> int | None:
    folder = f"/proc/{pid}/fd"
    try:
        # Since Linux 6.2 the size is the number, and everybody may ask for it.
        return os.stat(folder).st_size or len(os.listdir(folder))
    except OSError:
        return None


def _figures_elsewhere(pid: int) -> ProcessFigures | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            rss = process.memory_info().rss
            try:
                open_fds = process.num_fds()
            except psutil.AccessDenied:
                open_fds = None
    except psutil.Error:
        return None
    return ProcessFigures(rss, times.user + times.system, open_fds)
