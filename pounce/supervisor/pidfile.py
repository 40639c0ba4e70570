"""The pidfile: one line with the pid of the master, for scripts and for service managers.

The file appears whole or not at all, is taken over from a server that is gone, and is removed by
nobody but the process that wrote it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from pounce.errors import SupervisorError

logger = logging.getLogger("pounce.error")

SUCCESSOR_SUFFIX: Final = ".2"
"""The file of the next master, while an upgrade is under way (the suffix is gunicorn's)."""

_LOCK_TIMEOUT: Final = 2.0
_LONGEST: Final = 64
# The start of a process is known to a clock tick, and counts from a boot time in whole seconds.
_CLOCK_SLACK: Final = 2.0
_PROGRAM: Final = "pounce"


class Pidfile:
    """The pidfile at `path`, held by this process from `create()` to `remove()`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # The working directory may change.
        self._target = Path(os.path.abspath(path))
        self._path = self._target
        self._held: tuple[int, int] | None = None
        """Device and inode of the file that this process wrote."""
        self._owner = 0

    def __repr__(self) -> str:
        return f"<Pidfile {self._path} {'held' if self._held else 'not held'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    @property
    def path(self) -> Path:
        """Where the file is now: with `SUCCESSOR_SUFFIX` between `create(successor=True)` and
        `promote()`."""
        return self._path

    def create(self, *, successor: bool = False) -> None:
        """Write the pid of this process.

        Args:
            successor: This is the next master of an upgrade, whose predecessor still holds the
                file: write beside it, until `promote()`.

        Raises:
            SupervisorError: A live server holds the file, or it cannot be written.
        """
        path = self._target
        if successor:
            path = path.with_name(path.name + SUCCESSOR_SUFFIX)
        try:
            self._held = _write(path)
        except OSError as error:
            raise SupervisorError(
                f"pidfile {path} cannot be written: {error.strerror or error}"
            ) from error
        self._path, self._owner = path, os.getpid()

    def promote(self) -> None:
        """Take the place of the predecessor's file. At no moment is there no file, and the
        predecessor leaves alone what is no longer its own.

        Raises:
            SupervisorError: The file cannot be renamed.
        """
        if self._held is None or self._path == self._target:
            return
        try:
            os.rename(self._path, self._target)
        except OSError as error:
            raise SupervisorError(
                f"pidfile {self._path} cannot be renamed to {self._target}: "
                f"{error.strerror or error}"
            ) from error
        self._path = self._target

    def remove(self) -> None:
        """Remove the file, if this process wrote it and nobody has replaced it since."""
        if self._held is None or self._owner != os.getpid():
            return
        held, self._held = self._held, None
        try:
            if _identity(os.lstat(self._path)) == held and _names_this_process(self._path):
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            # The next start finds out that it is stale.
            logger.warning("Pidfile %s cannot be removed: %s", self._path, error.strerror)


def _write(path: Path) -> tuple[int, int]:
    """Device and inode of the new file at `path`."""
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.write(fd, b"%d\n" % os.getpid())
            identity = _identity(os.fstat(fd))
        finally:
            os.close(fd)
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while not _put_in_place(written, path):
            if time.monotonic() > deadline:
                raise SupervisorError(f"pidfile {path} is locked by another program")
            time.sleep(0.02)
        return identity
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(written)


def _put_in_place(written: Path, path: Path) -> bool:
    """Gives the file `written` the name `path`, unless a live server has it.

    False when another server is taking the place of a dead one at the same moment.
    """
    with contextlib.suppress(FileExistsError):
        os.link(written, path)  # unlike a rename, it never replaces anything
        return True
    with _locked(path) as fd:
        if fd is None:
            return False
        owner = _owner_of(fd)
        if owner is not None:
            raise SupervisorError(
                f"pidfile {path} belongs to a running server (pid {owner}); "
                "if it is none, remove the file"
            )
        os.rename(written, path)
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int | None]:
    """A descriptor of the file at `path`, locked: whoever replaces the file holds the lock of the
    one that he replaces. None when that is somebody else, or there is no such file any more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = _identity(os.fstat(fd)) == _identity(os.lstat(path))
        except (BlockingIOError, FileNotFoundError):
            is_current = False
        yield fd if is_current else None
    finally:
        os.close(fd)


def _owner_of(fd: int) -> int | None:
    """The live server that wrote the file, other than this process."""
    try:
        pid = int(os.pread(fd, _LONGEST, 0))
    except ValueError:
        return None  # empty or garbage: no server wrote that
    # A container often gives the server the number that it had before.
    if pid <= 0 or pid == os.getpid():
        return None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if process.create_time() <= os.fstat(fd).st_mtime + _CLOCK_SLACK:
            return pid
        # It was started after the file was written, so that it is another program which has got
        # the number; unless the clock was set, as happens on machines that boot without one.
        is_server = any(_PROGRAM in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return None
    except (psutil.Error, OverflowError):
        return pid
    return pid if is_server else None


def _names_this_process(path: Path) -> bool:
    """The number of an inode that was freed is soon given to another file."""
    return path.read_bytes() == b"%d\n" % os.getpid()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
