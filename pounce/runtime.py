"""What the interpreter, the machine and the container offer: workers' mode, CPUs, descriptors."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from pounce.errors import ConfigError

if sys.platform != "win32":
    import resource

logger = logging.getLogger("pounce.error")

_PROC: Final = Path("/proc")
_CGROUP: Final = Path("/sys/fs/cgroup")
# Octal escapes of blanks, tabs, line ends and backslashes in mountinfo (proc(5)).
_MOUNT_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
# The kernel's fs.nr_open. Container runtimes set hard limits of 2**30, and programs that the
# application starts may walk over every possible descriptor.
_MOST_DESCRIPTORS: Final = 1024 * 1024
# What macOS accepts at least where it calls the hard limit infinite (OPEN_MAX).
_OPEN_MAX: Final = 10_240
# The first version that says it can do without the GIL.
_UVLOOP_WITHOUT_GIL: Final = (0, 22)


class WorkerMode(StrEnum):
    """What a worker is made of."""

    THREAD = "thread"
    PROCESS = "process"


def gil_enabled() -> bool:
    """Whether the GIL is on in this process: always, except on free-threaded CPython."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return True if is_enabled is None else bool(is_enabled())


def worker_mode(asked: str = "auto") -> WorkerMode:
    """What workers are when `asked` is set as `worker_mode`.

    "auto": processes where the GIL lets only one thread run at a time, else threads.
    """
    if asked == "auto":
        return WorkerMode.PROCESS if gil_enabled() else WorkerMode.THREAD
    return WorkerMode(asked)


def available_cpus(*, proc_root: Path = _PROC, cgroup_root: Path = _CGROUP) -> int:
    """The CPUs that this process can keep busy: affinity and cgroup quota, at least 1.

    The smallest quota on the way from the process's own cgroup up to the root counts, rounded up
    to whole CPUs; both cgroup versions are read. What cannot be read sets no limit.

    Args:
        proc_root: Where procfs is mounted.
        cgroup_root: What stands for `/sys/fs/cgroup`.
    """
    cpus = _schedulable_cpus()
    for quota in _cgroup_quotas(proc_root, cgroup_root):
        cpus = min(cpus, quota)
    return max(cpus, 1)


def raise_fd_limit() -> int:
    """Raise the soft limit of open file descriptors to the hard one; returns what is in force.

    At most 1,048,576. Where the system refuses, the limit stays as it is.
    """
    if sys.platform == "win32":
        return 512  # of the C runtime's descriptors; sockets are not among them
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_DESCRIPTORS
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    for wanted in (most, min(most, _OPEN_MAX)):
        if wanted <= soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            continue
        return wanted
    return soft


def fd_limit() -> int:
    """How many file descriptors the process may have open now."""
    if sys.platform == "win32":
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _schedulable_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return os.cpu_count() or 1


class _Mount(NamedTuple):
    directory: Path
    root: str
    """The cgroup that is seen at `directory`."""


def _cgroup_quotas(proc_root: Path, cgroup_root: Path) -> Iterator[int]:
    """The quotas, in CPUs, of every cgroup that this process is in, up to the visible root."""
    for line in _lines(proc_root / "self/cgroup"):
        # hierarchy-ID:controller-list:path (cgroups(7)); version 2 is hierarchy 0.
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        read_quota: Callable[[Path], int | None]
        if hierarchy == "0" and not controllers:
            version, conventional, read_quota = 2, ("", "unified"), _quota_v2
        elif "cpu" in controllers.split(","):
            version, conventional, read_quota = 1, ("cpu", "cpu,cpuacct"), _quota_v1
        else:
            continue
        mounts = list(_cgroup_mounts(proc_root, cgroup_root, version)) or [
            _Mount(cgroup_root / name, "/") for name in conventional
        ]
        for mount in mounts:
            for directory in _own_and_ancestors(mount, path):
                quota = read_quota(directory)
                if quota is not None:
                    yield quota


def _cgroup_mounts(proc_root: Path, cgroup_root: Path, version: int) -> Iterator[_Mount]:
    """Where the cgroup file system of a version is mounted; of version 1, that of CPU time."""
    for line in _lines(proc_root / "self/mountinfo"):
        # ID parent device root directory options [tags] - type source super-options (proc(5))
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not separator or len(fields) < 6 or len(kind) < 3:
            continue
        if version == 2:
            fits = kind[0] == "cgroup2"
        else:
            fits = kind[0] == "cgroup" and "cpu" in kind[2].split(",")
        if fits:
            directory = Path(_unescape(fields[4]))
            if directory.is_relative_to(_CGROUP):
                directory = cgroup_root / directory.relative_to(_CGROUP)
            yield _Mount(directory, _unescape(fields[3]))


def _own_and_ancestors(mount: _Mount, path: str) -> Iterator[Path]:
    """The directory of the cgroup `path` and all above it, down to the one of the mount."""
    cgroup = PurePosixPath(path)
    if cgroup.is_relative_to(mount.root):
        cgroup = cgroup.relative_to(mount.root)
    elif cgroup.is_absolute():
        # A mount that shows another part of the tree: its own root is all that is known.
        cgroup = PurePosixPath()
    if ".." in cgroup.parts:  # outside of the cgroup namespace (cgroup_namespaces(7))
        cgroup = PurePosixPath()
    for ancestor in (cgroup, *cgroup.parents):
        yield mount.directory / ancestor


def _quota_v2(directory: Path) -> int | None:
    """`cpu.max` holds "quota period" in microseconds, or "max period" without a quota."""
    words = " ".join(_lines(directory / "cpu.max")).split()
    return _whole_cpus(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(directory: Path) -> int | None:
    """The quota is -1 where there is none."""
    quota = "".join(_lines(directory / "cpu.cfs_quota_us"))
    return _whole_cpus(quota, "".join(_lines(directory / "cpu.cfs_period_us")))


def _whole_cpus(quota: str, period: str) -> int | None:
    """A quota in CPUs, rounded up: half a CPU still needs one worker. None where none is set."""
    try:
        microseconds, period_microseconds = int(quota), int(period)
    except ValueError:
        return None
    if microseconds <= 0 or period_microseconds <= 0:
        return None
    return -(-microseconds // period_microseconds)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescape(text: str) -> str:
    return _MOUNT_ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def event_loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop; "auto" is uvloop where it is installed and does no harm.

    Raises:
        ConfigError: "uvloop" is asked for and not installed.
    """
    if name == "uvloop" or (name == "auto" and not _uvloop_needs_the_gil()):
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigError("loop: uvloop is not installed") from None
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def _uvloop_needs_the_gil() -> bool:
    """Whether to import uvloop would turn the GIL on, which is off."""
    if gil_enabled():
        return False
    try:
        version = importlib.metadata.version("uvloop")
    except importlib.metadata.PackageNotFoundError:
        return False
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= _UVLOOP_WITHOUT_GIL:
        return False
    logger.debug("uvloop %s would turn the GIL on: the event loop is that of asyncio", version)
    return True
