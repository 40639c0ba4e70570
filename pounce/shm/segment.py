"""A piece of POSIX shared memory with a name.

`multiprocessing.shared_memory` is not used: before Python 3.13 its resource tracker removes
segments when a process ends that had only attached to them. The two calls below it, `shm_open`
and `mmap`, know no tracker on any version.

Every segment begins with 128 bytes of its own:

| offset | size | content | written by |
| --- | --- | --- | --- |
| 0 | 8 | `pouncshm` | the creator, last |
| 8 | 8 | owner: pid and start time | the creator, later whoever adopts the segment |
| 16 | 8 | bytes of content | the creator |
| 24 | 8 | user id of the creator | the creator |
| 32 | 8 | heir: pid and start time, or 0 | whoever may become the owner |

All numbers are 64-bit cells, aligned, in native byte order.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
from types import TracebackType
from typing import Final, Self

from pounce.errors import SharedMemoryError
from pounce.shm import name_lock, names, owner

if sys.platform != "win32":
    import _posixshmem  # type: ignore[import-not-found]  # what multiprocessing uses

HEADER_SIZE: Final = 128
"""A multiple of every cache line."""
MAGIC: Final = b"pouncshm"
OWNER, SIZE, CREATOR, HEIR = 1, 2, 3, 4
"""Cells of the header."""

_MODE: Final = 0o600
_ATTEMPTS: Final = 100


class SegmentNotFoundError(SharedMemoryError):
    """There is no segment of that name, or its creator is not done with it."""


class Segment:
    """Shared memory, all zero when it is new.

    `create()`, `attach()` and `anonymous()` make one. Who owns it is in the segment itself, so
    that `close()` knows whether to remove the name, after a fork and after an adoption as well.
    """

    def __init__(self, name: str | None, memory: mmap.mmap) -> None:
        self.name = name
        """Without its slash; None: anonymous, shared with children by fork only."""
        self._memory = memory
        self._view = memoryview(memory)
        self._header = self._view[:HEADER_SIZE].cast("q")
        self._lock: int | None = None
        self._is_owners = self._is_heir = False
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.size} bytes"
        return f"<Segment {self.name or 'anonymous'}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def create(
        cls, size: int, name: str | None = None, *, share_with: tuple[int, int] | None = None
    ) -> Self:
        """A new segment that this process owns, with pages reserved: no store into it can fail.

        Args:
            size: Bytes of content.
            name: By default a new one.
            share_with: User and group id of another user whose processes may attach, such as the
                one that workers go on as. Only root can give this.

        Raises:
            SharedMemoryError: There is no shared memory here, or not enough, or the name is taken.
        """
        for _ in range(_ATTEMPTS):
            # Another server that looks for leftovers may remove a segment before it is locked.
            with contextlib.suppress(FileNotFoundError):
                return cls._create(name or names.new_name(), size, share_with)
        raise SharedMemoryError("shared memory is removed as soon as it is created")

    @classmethod
    def _create(cls, name: str, size: int, share_with: tuple[int, int] | None) -> Self:
        assert len(name) < names.LONGEST, name
        fd = _create_fd(name)
        lock = None
        try:
            lock = name_lock.hold(open_fd(name))
            _reserve(fd, HEADER_SIZE + size)
            if share_with is not None:
                os.fchown(fd, *share_with)
            segment = cls(name, mmap.mmap(fd, HEADER_SIZE + size))
        except BaseException as error:
            unlink(name)
            name_lock.drop(lock)
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise SharedMemoryError(f"shared memory {name}: {error.strerror}") from error
            raise
        finally:
            os.close(fd)
        segment._lock = lock
        segment._write_header(size)
        return segment

    @classmethod
    def anonymous(cls, size: int) -> Self:
        """A new segment without a name, which leaves nothing behind. Forked children share it."""
        segment = cls(None, mmap.mmap(-1, HEADER_SIZE + size))
        segment._write_header(size)
        return segment

    @classmethod
    def attach(cls, name: str) -> Self:
        """The segment that another process has created.

        Raises:
            SegmentNotFoundError: There is none of that name, or it is not complete.
            SharedMemoryError: It belongs to another user.
        """
        try:
            fd = open_fd(name)
        except FileNotFoundError as error:
            raise SegmentNotFoundError(f"shared memory {name} does not exist") from error
        except OSError as error:
            raise SharedMemoryError(f"shared memory {name}: {error.strerror}") from error
        try:
            if os.fstat(fd).st_size < HEADER_SIZE:
                raise SegmentNotFoundError(f"shared memory {name} is not complete")
            segment = cls(name, mmap.mmap(fd, 0))
        finally:
            os.close(fd)
        is_complete = bytes(segment._view[:8]) == MAGIC
        if not is_complete or HEADER_SIZE + segment.size > len(segment._memory):
            segment._unmap()
            raise SegmentNotFoundError(f"shared memory {name} is not complete")
        return segment

    @property
    def size(self) -> int:
        """Bytes of content. The mapping may be longer: macOS rounds it up to pages."""
        return self._header[SIZE]

    @property
    def content(self) -> memoryview:
        """The content, writable."""
        return self._view[HEADER_SIZE : HEADER_SIZE + self.size]

    @property
    def owner_pid(self) -> int:
        """The process that removes the name in the end."""
        return owner.pid_of(self._header[OWNER])

    @property
    def is_owned(self) -> bool:
        """Whether this process owns the segment by this object; a child by fork does not."""
        is_owners = self._is_owners and not self._closed
        return is_owners and self._header[OWNER] == owner.owner_word(os.getpid())

    def adopt(self) -> None:
        """Become the owner. The predecessor needs no word of it, and just closes.

        Raises:
            SharedMemoryError: The name is gone.
        """
        if self.is_owned:
            return
        self._hold()
        self._become_owner()

    def become_heir(self) -> None:
        """Say that this process may `adopt()` the segment: while it lives, the segment is no
        leftover, whatever becomes of the owner. The heir is the last process that says so.

        Raises:
            SharedMemoryError: The name is gone.
        """
        self._is_heir = True
        self._header[HEIR] = owner.owner_word(os.getpid())
        self._hold()

    def _hold(self) -> None:
        if self.name is None or name_lock.is_held(self._lock):
            return
        try:
            self._lock = name_lock.hold(open_fd(self.name))
        except FileNotFoundError as error:
            raise SegmentNotFoundError(f"shared memory {self.name} is gone") from error

    def close(self, *, keep_name: bool = False) -> None:
        """Stop using the segment; the owner removes its name, unless it is to keep it for others.
        May be called again.

        Where views of the content are still held, the mapping goes with the last of them.
        """
        if self._closed:
            return
        if self.name is not None and self.is_owned and not keep_name:
            unlink(self.name)
        if self._is_heir and self._header[HEIR] == owner.owner_word(os.getpid()):
            self._header[HEIR] = 0
        name_lock.drop(self._lock)
        self._unmap()

    def _unmap(self) -> None:
        self._closed = True
        self._header.release()
        with contextlib.suppress(BufferError):
            self._view.release()
            self._memory.close()

    def _become_owner(self) -> None:
        self._is_owners = True
        self._header[OWNER] = owner.owner_word(os.getpid())

    def _write_header(self, size: int) -> None:
        self._become_owner()
        self._header[SIZE] = size
        self._header[CREATOR] = 0 if sys.platform == "win32" else os.geteuid()
        self._view[:8] = MAGIC


def unlink(name: str) -> bool:
    """Remove the name; False: there was none. Whoever is attached stays attached."""
    names.forget(name)
    try:
        _posixshmem.shm_unlink(f"/{name}")
    except FileNotFoundError:
        return False
    return True


def unlink_further(name: str) -> None:
    """Remove the further segments that belong to `name`, where that is permitted."""
    for further in names.existing_names():
        if names.base_of(further) == name:
            with contextlib.suppress(OSError):
                unlink(further)


def open_fd(name: str) -> int:
    """A descriptor of the segment, closed on exec.

    Raises:
        OSError: There is none, or it belongs to another user.
    """
    fd: int = _posixshmem.shm_open(f"/{name}", os.O_RDWR, mode=_MODE)
    return fd


def _create_fd(name: str) -> int:
    names.remember(name)
    try:
        fd: int = _posixshmem.shm_open(f"/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=_MODE)
    except FileExistsError as error:
        raise SharedMemoryError(f"shared memory {name} exists already") from error
    except OSError as error:
        names.forget(name)
        if error.errno in (errno.ENOENT, errno.ENOSYS):
            message = f"there is no shared memory: mount a tmpfs on {names.FOLDER}"
        else:
            message = f"shared memory cannot be created in {names.FOLDER}: {error.strerror}"
        raise SharedMemoryError(message) from error
    return fd


def _reserve(fd: int, size: int) -> None:
    """Without pages of its own, a store could meet a full /dev/shm, and end in SIGBUS."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
    except OSError as error:
        folder = f" ({names.FOLDER} is too small)" if error.errno == errno.ENOSPC else ""
        raise SharedMemoryError(
            f"{size} bytes of shared memory cannot be reserved: {error.strerror}{folder}"
        ) from error
