"""What carries the access log's lines away: a target, and a thread that writes to it.

A disk that is slow or a pipe that is not read must not hold up the event loop. So blocks of
lines wait in a bounded queue for a writer thread; `os.write` gives up the GIL.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pounce.errors import ConfigError
from pounce.logs import reopen_file_handlers
from pounce.logs.access_format import Entry

_error_logger = logging.getLogger("pounce.error")

Write: TypeAlias = Callable[[], "WriteFailure | None"]
"""Writes one block; never called twice."""


@dataclass(frozen=True, slots=True)
class WriteFailure:
    """A target took only a part of a block, or nothing of it."""

    lost: int
    """How many lines did not get there whole."""
    error: Exception


class Target(Protocol):
    """Where the lines go. All methods but `prepare` are called by the writer thread."""

    name: str
    taken: int
    """Goes up whenever a part of a block has gone out: what is slow is told from what is stuck."""

    def prepare(self, entries: Sequence[Entry], lines: list[str]) -> tuple[int, Write]:
        """The size of a block in memory, and the function that writes it."""

    def reopen(self) -> None:
        """Begin anew after the file was moved away. A failure is logged; the old file stays."""

    def close(self) -> None:
        """Let go of the file. Nothing is written after this."""


class FileTarget:
    """A file to append to, or standard error.

    Several processes may write to the same target. A regular file is opened for appending, so
    a block stays in one piece; what is written to a pipe or socket is cut at line ends into
    pieces of at most PIPE_BUF bytes, which the kernel does not mix (pipe(7)).

    Args:
        path: `-` is standard error; a file is created if need be.

    Raises:
        ConfigError: the file cannot be opened for writing.
    """

    def __init__(self, path: str) -> None:
        self.taken = 0
        self._path = path
        self._line_is_open = False
        if path == "-":
            self.name = "standard error"
            # None when the program was started without one: fd 2 is then somebody else's file.
            self._fd = -1 if sys.__stderr__ is None else 2
        else:
            self.name = path
            try:
                self._fd = _open_for_append(path)
            except OSError as exc:
                raise ConfigError(
                    f"access_log_file: cannot write to {path}: {exc.strerror}"
                ) from exc
        self._piece_size = _piece_size(self._fd)

    def prepare(self, entries: Sequence[Entry], lines: list[str]) -> tuple[int, Write]:
        block = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        return len(block), lambda: self._write(block)

    def _write(self, block: bytes) -> WriteFailure | None:
        if self._fd < 0:
            return None
        if self._line_is_open:
            # An earlier write stopped inside a line: do not continue that line with this one.
            block = b"\n" + block
        view = memoryview(block)
        done = 0
        try:
            while done < len(block):
                end = _piece_end(block, done, self._piece_size)
                try:
                    done += os.write(self._fd, view[done:end])
                except BlockingIOError:
                    _wait_writable(self._fd)
                else:
                    self.taken += 1
        except OSError as exc:
            self._line_is_open = done > 0 and block[done - 1] != 0x0A
            return WriteFailure(block.count(b"\n", done), exc)
        self._line_is_open = False
        return None

    def reopen(self) -> None:
        if self._path == "-":
            return
        try:
            fd = _open_for_append(self._path)
        except OSError as exc:
            _error_logger.error("Cannot reopen the access log: %s; it goes on in the old file", exc)
            return
        os.close(self._fd)
        self._fd = fd
        self._piece_size = _piece_size(fd)
        self._line_is_open = False

    def close(self) -> None:
        if self._path != "-":
            os.close(self._fd)
        self._fd = -1


class LoggerTarget:
    """A logger that the operator has configured: one INFO record per line, message ready."""

    def __init__(self, logger: logging.Logger) -> None:
        self.name = f"logger {logger.name}"
        self.taken = 0
        self._logger = logger

    def prepare(self, entries: Sequence[Entry], lines: list[str]) -> tuple[int, Write]:
        return sum(map(len, lines)), lambda: self._log(entries, lines)

    def _log(self, entries: Sequence[Entry], lines: list[str]) -> WriteFailure | None:
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return None
        failure = None
        for entry, line in zip(entries, lines, strict=True):
            record = logger.makeRecord(logger.name, logging.INFO, "", 0, line, (), None)
            record.created = entry[0]
            record.msecs = int(entry[0] % 1 * 1000) + 0.0
            try:
                logger.handle(record)
            except Exception as exc:
                failure = WriteFailure(1 if failure is None else failure.lost + 1, exc)
            self.taken += 1
        return failure

    def reopen(self) -> None:
        reopen_file_handlers(self._logger.handlers)

    def close(self) -> None:
        return


def _open_for_append(path: str) -> int:
    # Without O_NONBLOCK, a FIFO that nobody reads would hold up the start for ever.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, 0o666)
    os.set_blocking(fd, True)
    return fd


def _piece_size(fd: int) -> int | None:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return None
    return select.PIPE_BUF if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None


def _piece_end(block: bytes, start: int, size: int | None) -> int:
    """Where to end a write that begins at `start`: the last line end within `size` bytes."""
    if size is None or len(block) - start <= size:
        return len(block)
    end = block.rfind(b"\n", start, start + size) + 1
    # A line longer than that cannot be whole in any case.
    return end or block.find(b"\n", start) + 1


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


class BlockWriter:
    """Writes blocks in order in a daemon thread that starts with the first block.

    A full queue makes `put` wait. Only when the target has taken nothing for `STALL_TIMEOUT`
    seconds is it treated as broken, like one that reports an error: from then on blocks that
    find the queue full are dropped and counted, until the target takes something again. Every
    run of failures is reported once, and once more when it is over.
    """

    MAX_PENDING = 4 * 1024 * 1024
    """Bytes that may wait; a single block may be larger."""
    STALL_TIMEOUT = 5.0
    """Seconds without progress after which the target counts as broken."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._closed = False
        self._reset()

    def _reset(self) -> None:
        self.dropped = 0
        """Lines that were lost because the target failed."""
        self._reported = 0
        self._failing = False
        self._changed = threading.Condition()
        self._queue: deque[tuple[int, int, Write]] = deque()
        self._lines_in_hand: int | None = None
        """Of the block that is being written; None while none is."""
        self._pending = 0
        self._progress = 0
        self._stalled = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def after_fork_in_child(self) -> None:
        """What waits in the queue is the parent's to write, and its thread is not here."""
        self._reset()

    def put(self, entries: Sequence[Entry], lines: list[str]) -> None:
        """Queue a block: one line for each entry, without line ends. One thread at a time."""
        size, write = self._target.prepare(entries, lines)
        self._put(len(lines), size, write)

    def reopen(self) -> None:
        """Reopen the target after the blocks queued so far, before the next."""
        self._put(0, 0, self._target.reopen)

    def _put(self, lines: int, size: int, write: Write) -> None:
        with self._changed:
            if self._closed or (size and not self._wait_for_room(size)):
                self.dropped += lines
                return
            self._queue.append((lines, size, write))
            self._pending += size
            if self._thread is not None:
                self._changed.notify_all()
                return
            self._thread = self._start_thread()
        if self._thread is None:
            self._write_here()

    def _start_thread(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name="pounce-access-log", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is shutting down, or the system has no thread left for now.
            return None
        return thread

    def _wait_for_room(self, size: int) -> bool:
        while self._pending and self._pending + size > self.MAX_PENDING:
            if self._stalled:
                return False
            if not self._wait_for_progress():
                self._stalled = True
        return True

    def _wait_for_progress(self) -> bool:
        """Whether another block was written; False when the target took nothing for too long."""
        seen = self._progress
        while True:
            taken = self._target.taken
            if self._changed.wait_for(lambda: self._progress != seen, self.STALL_TIMEOUT):
                return True
            if self._target.taken == taken:
                return False

    def _run(self) -> None:
        changed = self._changed
        while True:
            with changed:
                while not self._queue:
                    if self._stopping:
                        return
                    changed.wait()
                lines, size, write = self._queue.popleft()
                self._lines_in_hand = lines
            self._write(lines, write)
            with changed:
                self._lines_in_hand = None
                self._pending -= size
                self._progress += 1
                self._stalled = False
                changed.notify_all()

    def _write_here(self) -> None:
        while self._queue:
            lines, size, write = self._queue.popleft()
            self._pending -= size
            self._write(lines, write)

    def _write(self, lines: int, write: Write) -> None:
        try:
            failure = write()
        except Exception as exc:
            failure = WriteFailure(lines, exc)
        if failure is not None:
            with self._changed:
                self.dropped += failure.lost
            if not self._failing:
                self._failing = True
                _error_logger.error(
                    "Cannot write the access log to %s: %s; lines are dropped until it works again",
                    self._target.name,
                    failure.error,
                )
        elif lines and (self._failing or self.dropped > self._reported):
            self._failing = False
            _error_logger.warning(
                "The access log is written to %s again; %d lines were lost",
                self._target.name,
                self.dropped - self._reported,
            )
            self._reported = self.dropped

    def close(self) -> None:
        """Write what is queued, end the thread and close the target. Idempotent.

        Waits as long as the target takes blocks, and gives up when it has taken nothing for
        `STALL_TIMEOUT` seconds; what remains is counted in `dropped`.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
            while thread is not None and (self._queue or self._lines_in_hand is not None):
                if not self._wait_for_progress():
                    self.dropped += (self._lines_in_hand or 0) + sum(n for n, _, _ in self._queue)
                    self._queue.clear()
                    return
        if thread is not None:
            thread.join()
        self._write_here()
        self._target.close()
