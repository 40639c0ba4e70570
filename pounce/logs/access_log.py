"""The access log: one line per answered request, formatted and written off the hot path."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING

from pounce.logs.access_format import DEFAULT_FORMAT, Entry, compile_format
from pounce.logs.access_writer import BlockWriter, FileTarget, LoggerTarget, Target

if TYPE_CHECKING:
    from pounce.config import ServerConfig

_error_logger = logging.getLogger("pounce.error")


class AccessLog:
    """Takes what requests leave behind, and writes one line for each.

    The hot path appends plain tuples to `entries`; it may keep `log.entries.append`, the list is
    always the same one. `flush` formats what is there and hands it to a writer thread; the
    owner calls it when `entries` has `BATCH` of them, and about once a second.

    Where lines go:

    - `access_log_file`, or standard error;
    - when `log_config` gives the logger `pounce.access` handlers, to that logger instead: one
      INFO record per line, the message already formatted, `created` the end of the request.

    On standard error, with `log_format` `json` and `access_log_format` left at its default, the
    lines are JSON too, so that everything on the stream is.

    A target that fails is reported once to `pounce.error`; lines are dropped and counted in
    `dropped` until it works again. It never stops the server.

    After `os.fork` the child has a log of its own with the same target: entries that wait at that
    moment belong to the parent. At a normal exit of the interpreter open logs are closed; a
    process that ends by `os._exit` (as multiprocessing's children do) has to call `close`.

    Raises:
        ConfigError: the format is wrong, or the file cannot be opened.
    """

    BATCH = 256
    """How many entries to collect before `flush`."""

    def __init__(self, config: ServerConfig) -> None:
        fmt = config.access_log_format
        target: Target
        logger = logging.getLogger("pounce.access")
        if config.log_config is not None and logger.handlers:
            target = LoggerTarget(logger)
        else:
            target = FileTarget(config.access_log_file)
            on_stderr = config.access_log_file == "-"
            if on_stderr and config.log_format == "json" and fmt == DEFAULT_FORMAT:
                fmt = "json"
        self.entries: list[Entry] = []
        self.append = self.entries.append
        """Hot path: take note of one request."""
        self._format_lines = compile_format(fmt)
        self._writer = BlockWriter(target)
        self._unformatted = 0
        self._lock = threading.Lock()
        _open_logs.add(self)

    @property
    def dropped(self) -> int:
        """How many lines were lost because the target failed."""
        return self._writer.dropped + self._unformatted

    def flush(self) -> None:
        """Format the entries so far and hand them to the writer thread, in order.

        Does not wait for the disk, except when `BlockWriter.MAX_PENDING` bytes wait already.
        """
        if not self.entries:
            return
        with self._lock:
            # Another thread may append meanwhile: take away only what was copied.
            batch = self.entries[:]
            del self.entries[: len(batch)]
            try:
                lines = self._format_lines(batch)
            except Exception:
                batch, lines = self._format_one_by_one(batch)
            if lines:
                self._writer.put(batch, lines)

    def _format_one_by_one(self, batch: list[Entry]) -> tuple[list[Entry], list[str]]:
        """One entry that cannot be formatted must not cost the others their lines."""
        formatted: list[Entry] = []
        lines: list[str] = []
        for entry in batch:
            try:
                lines += self._format_lines([entry])
            except Exception:
                if not self._unformatted:
                    _error_logger.exception("An access log entry cannot be formatted: %r", entry)
                self._unformatted += 1
            else:
                formatted.append(entry)
        return formatted, lines

    def reopen(self) -> None:
        """Open the file anew after it was moved away; what was appended so far goes to the old."""
        self.flush()
        with self._lock:
            self._writer.reopen()

    def close(self) -> None:
        """Write all that is left and end the writer thread. Idempotent."""
        self.flush()
        self._writer.close()
        _open_logs.discard(self)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        self.entries.clear()
        self._writer.after_fork_in_child()

    def __repr__(self) -> str:
        return f"<AccessLog {len(self.entries)} pending, {self.dropped} dropped>"


_open_logs: set[AccessLog] = set()


def _close_open_logs() -> None:
    for log in list(_open_logs):
        log.close()


def _reset_in_child() -> None:
    for log in _open_logs:
        log._after_fork_in_child()


atexit.register(_close_open_logs)
os.register_at_fork(after_in_child=_reset_in_child)
