"""Which files changed: for `--reload`.

With the package watchfiles the operating system reports changes; without it, or where it cannot
(a network file system, too many directories), the files are looked at again and again.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

logger = logging.getLogger("pounce.error")

DEFAULT_INCLUDES: Final = ("*.py",)
DEFAULT_EXCLUDES: Final = (
    ".*",
    "*.py[cod]",
    "*~",
    "~*",
    "__pycache__",
    "node_modules",
    "site-packages",
    "venv",
)

# Looking at the files takes at most one part in SCAN_SHARE of the time, and is done at least once
# in SCAN_INTERVAL_MAX seconds.
SCAN_SHARE: Final = 20
SCAN_INTERVAL_MAX: Final = 1.0
# A burst of changes (a checkout, a formatter) is reported once it is over, or after this long.
BURST_MAX: Final = 2.0

# Path to what tells that a file was written or replaced.
Snapshot: TypeAlias = dict[str, tuple[int, int, int]]
OnChange: TypeAlias = Callable[[list[str]], None]


class FileFilter:
    """Decides by name whether a file below a watched directory matters.

    A pattern without a slash is for one name: of the file for includes, of the file or any
    directory above it for excludes. One with a slash is for the path from the watched directory,
    or for the absolute path; `**` stands for any number of directories. Excludes win. The given
    patterns add to the defaults, and a default that is given on the other side is taken back.
    """

    def __init__(self, includes: Iterable[str] = (), excludes: Iterable[str] = ()) -> None:
        includes = tuple(pattern.rstrip("/") for pattern in includes)
        excludes = tuple(pattern.rstrip("/") for pattern in excludes)
        self._includes = _Patterns((*(set(DEFAULT_INCLUDES) - set(excludes)), *includes))
        self._excludes = _Patterns((*(set(DEFAULT_EXCLUDES) - set(includes)), *excludes))

    def includes(self, root: str, path: str) -> bool:
        """Whether the file `path`, relative to `root`, is one to watch for its own name."""
        return self._includes.match(root, path)

    def excludes(self, root: str, path: str) -> bool:
        """Whether `path` itself is left out; if it is a directory, with all that is in it."""
        return self._excludes.match(root, path)

    def wants(self, root: str, path: str) -> bool:
        """`includes`, and neither the file nor a directory on the way to it is left out."""
        return self.includes(root, path) and not any(
            self.excludes(root, prefix) for prefix in _prefixes(path)
        )


class _Patterns:
    def __init__(self, patterns: Iterable[str]) -> None:
        names, paths = [], []
        for pattern in patterns:
            if "/" in pattern:
                paths.append(_translate_path(pattern.removeprefix("./")))
            else:
                names.append(fnmatch.translate(pattern))
        self._name = re.compile("|".join(names)) if names else None
        self._path = re.compile("|".join(paths)) if paths else None

    def match(self, root: str, path: str) -> bool:
        if self._name is not None and self._name.match(path.rpartition("/")[2]):
            return True
        return self._path is not None and bool(
            self._path.fullmatch(path) or self._path.fullmatch(f"{root}/{path}")
        )


def _translate_path(pattern: str) -> str:
    """`pattern` as a regular expression in which `*` does not go past a slash."""
    parts = re.split(r"(\*\*/|/\*\*$|\*|\?|\[!?[^/\]]+\])", pattern)
    special = {"**/": "(?:[^/]+/)*", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        special.get(part) or (f"[^{part[2:]}" if part.startswith("[!") else part)
        if position % 2
        else re.escape(part)
        for position, part in enumerate(parts)
    )


def _prefixes(path: str) -> Iterator[str]:
    """`a/b/c`: `a`, `a/b` and `a/b/c`."""
    for position, char in enumerate(path):
        if char == "/":
            yield path[:position]
    yield path


def snapshot(roots: Iterable[str], file_filter: FileFilter) -> Snapshot:
    """The state of all files to watch. Links to directories are not followed."""
    found: Snapshot = {}
    for root in roots:
        pending = [""]
        while pending:
            _scan(root, pending.pop(), file_filter, found, pending)
    return found


def _scan(
    root: str, prefix: str, file_filter: FileFilter, found: Snapshot, pending: list[str]
) -> None:
    try:
        entries = os.scandir(os.path.join(root, prefix))
    except OSError:  # gone, or not ours to read
        return
    with entries:
        for entry in entries:
            path = prefix + entry.name
            if file_filter.excludes(root, path):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path + "/")
                elif file_filter.includes(root, path):
                    status = entry.stat()
                    found[entry.path] = (status.st_mtime_ns, status.st_size, status.st_ino)
            except OSError:
                continue


def changed_files(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    """What was written, made or removed between two snapshots."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def outermost(directories: Iterable[str], file_filter: FileFilter) -> list[str]:
    """Absolute directories, without those that are watched as a part of another."""
    kept: list[str] = []
    for path in sorted({os.path.realpath(directory) for directory in directories}):
        inside = (
            os.path.relpath(path, root) for root in kept if os.path.commonpath((root, path)) == root
        )
        if all(any(file_filter.excludes("", p) for p in _prefixes(way)) for way in inside):
            kept.append(path)
    return kept


class FileWatcher:
    """Calls `on_change` from a thread of its own with the sorted paths that changed.

    Args:
        roots: Directories to watch, as `outermost` gives them.
        file_filter: Which of their files count.
        delay: Seconds between two looks at the files, and without a change before a burst of
            changes counts as over.
        on_change: Called for each burst.
        use_events: Whether to ask the operating system; None: when watchfiles is installed.
    """

    def __init__(
        self,
        roots: Sequence[str],
        file_filter: FileFilter,
        *,
        delay: float,
        on_change: OnChange,
        use_events: bool | None = None,
    ) -> None:
        self._roots = roots
        self._filter = file_filter
        self._delay = delay
        self._on_change = on_change
        if use_events is None:
            use_events = importlib.util.find_spec("watchfiles") is not None
        self.uses_events = use_events
        self._before: Snapshot = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pounce-watch", daemon=True)

    def __enter__(self) -> FileWatcher:
        """Begin: every change after this is reported."""
        self._before = snapshot(self._roots, self._filter)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        if self.uses_events:
            try:
                self._follow_events()
            except Exception as error:  # the errors of watchfiles are many and platform-specific
                logger.warning("no file events (%s), looking at the files instead", error)
            if self._stopped.is_set():
                return
        self._poll()

    def _poll(self) -> None:
        changed: set[str] = set()
        first_change = 0.0
        interval = self._delay
        while not self._stopped.wait(interval):
            start = time.monotonic()
            news = self._look()
            now = time.monotonic()
            interval = max(self._delay, min((now - start) * SCAN_SHARE, SCAN_INTERVAL_MAX))
            if news and not changed:
                first_change = now
            changed |= news
            if changed and (not news or now - first_change >= BURST_MAX):
                self._on_change(sorted(changed))
                changed = set()

    def _look(self) -> set[str]:
        """What changed since the last look."""
        after = snapshot(self._roots, self._filter)
        changed = changed_files(self._before, after)
        self._before = after
        return changed

    def _follow_events(self) -> None:
        watch: Any = importlib.import_module("watchfiles").watch
        milliseconds = max(1, round(self._delay * 1000))
        begun = False
        for events in watch(
            *self._roots,
            watch_filter=lambda _, path: self._matters(path),
            debounce=round(BURST_MAX * 1000),
            step=min(milliseconds, 100),
            rust_timeout=milliseconds,
            stop_event=self._stopped,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            if begun and not events:
                continue
            begun = True
            # A look finds what changed before the operating system began to report, and the files
            # in a directory that came or went as a whole, which it does not report one by one.
            changed = {path for _, path in events if self._wants(path)} | self._look()
            if changed and not self._stopped.is_set():
                self._on_change(sorted(changed))

    def _matters(self, path: str) -> bool:
        """Whether an event at `path` can concern a wanted file."""
        return self._wants(path) or not os.path.isfile(path)

    def _wants(self, path: str) -> bool:
        return any(
            self._filter.wants(root, path[len(root) :].lstrip("/"))
            for root in self._roots
            if path.startswith(root.rstrip("/") + "/")
        )
