"""`--reload`: the server in a child process that is replaced when a source file changes.

This process holds the listening sockets and never imports the application. A client that connects
while no child runs waits in the queue of the socket; nobody is refused. A child that fails, because
of a syntax error say, is not started again before a file changes.

A child is told to stop by the end of a pipe, not by a signal: Ctrl-C in a terminal goes to both
processes, and a second signal would end the child at once. The pipe ends as well when this process
is killed, so that no child outlives it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final, TypeAlias

from pounce.errors import ConfigError, PounceError
from pounce.logs import configure_logging
from pounce.net.sockets import listen
from pounce.reload.watch import FileFilter, FileWatcher, outermost

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from pounce.config import ServerConfig

logger = logging.getLogger("pounce.error")

# The old child may be busy with a long response. After this many seconds the new one starts beside
# it; the old one accepts nothing any more.
OVERLAP_AFTER: Final = 2.0
# What a child may take beyond `timeout_graceful_shutdown`, for the application's own shutdown.
STOP_MARGIN: Final = 5.0


class Reloader:
    """Runs and replaces the child process.

    Args:
        config: The configuration; the child gets it without `reload`.
        app_path: The import string of the application.
        sockets: Bound sockets. They stay the caller's to close.
        target: What the child runs; a function of a module, called with the configuration, the
            import string, the sockets and a `StopSignal`.

    Raises:
        ConfigError: A directory to watch does not exist.
    """

    def __init__(
        self,
        config: ServerConfig,
        app_path: str,
        sockets: list[socket.socket],
        *,
        target: Target | None = None,
    ) -> None:
        self._config = config
        self._app_path = app_path
        self._sockets = sockets
        self._target = target or serve_child
        self._filter = FileFilter(config.reload_includes, config.reload_excludes)
        self._roots = outermost(_directories(config), self._filter)
        self._grace = config.timeout_graceful_shutdown + STOP_MARGIN
        self._terminal = next((fd for fd in (0, 1, 2) if _is_terminal(fd)), None)

        self._child: _Child | None = None
        self._retiring: list[_Child] = []
        self._events: deque[_Event] = deque()
        self._awake, self._wake = os.pipe()
        self._stops = 0
        self._stale: set[str] = set()
        """Files that changed since the last child was started."""
        self._start_at: float | None = None
        """When to start a child at the latest; None while none is wanted."""

    def run(self) -> int:
        """Serve until SIGINT, SIGTERM or `stop`; SIGHUP replaces the child. Returns the exit code.

        Raises:
            BindError: The sockets cannot be listened on.
        """
        try:
            listen(self._sockets, self._config.backlog)
            watcher = FileWatcher(
                self._roots,
                self._filter,
                delay=self._config.reload_delay,
                on_change=self._on_change,
            )
            with self._signal_handlers(), watcher:
                how = "file events" if watcher.uses_events else "looking at the files"
                logger.info("watching %s for changes (%s)", ", ".join(self._roots), how)
                try:
                    return self._loop()
                finally:
                    self._kill_all()
        finally:
            os.close(self._awake)
            wake, self._wake = self._wake, -1
            os.close(wake)

    def stop(self) -> None:
        """Stop gracefully, as SIGTERM does. Thread-safe."""
        self._post(_Event("stop", "asked to stop"))

    # Events arrive in other threads and in signal handlers; the loop works them off.

    def _post(self, event: _Event) -> None:
        self._events.append(event)
        with contextlib.suppress(OSError):
            os.write(self._wake, b"\0")

    def _on_change(self, paths: list[str]) -> None:
        names = [os.path.relpath(path) for path in paths[:3]]
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        self._post(_Event("restart", f"{', '.join(names)}{more} changed", tuple(paths)))

    def _on_signal(self, number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if name == "SIGUSR2":
            self._post(_Event("refuse", f"received {name}: there is no upgrade with --reload"))
            return
        # SIGHUP is also how a terminal says goodbye, and then nobody is left to serve.
        gone = self._terminal is not None and not _is_terminal(self._terminal)
        kind = "restart" if name == "SIGHUP" and not gone else "stop"
        self._post(_Event(kind, f"received {name}"))

    @contextlib.contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # The loop

    def _loop(self) -> int:
        self._start_at = time.monotonic()
        while self._stops == 0 or self._children():
            self._reap()
            self._work_off_events()
            if self._stops > 1:
                return 1
            self._start_if_due()
            self._kill_overdue()
            self._sleep()
        logger.info("stopped watching")
        return 0

    def _children(self) -> list[_Child]:
        current = [] if self._child is None else [self._child]
        return current + self._retiring

    def _sleep(self) -> None:
        """Until an event, the end of a child, or the next thing that is due."""
        children = self._children()
        due = [child.kill_at for child in children if child.kill_at is not None]
        if self._start_at is not None:
            due.append(self._start_at)
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        if self._events or (self._stops and not children):
            return
        if self._awake in wait([self._awake, *(c.process.sentinel for c in children)], timeout):
            os.read(self._awake, 4096)

    def _work_off_events(self) -> None:
        while self._events:
            event = self._events.popleft()
            if event.kind == "stop":
                self._stops += 1
                logger.info("%s, stopping", event.reason)
                self._start_at = None
                for child in self._children():
                    child.ask_to_stop(self._grace)
                continue
            if event.kind == "refuse":
                logger.warning("%s; nothing is changed", event.reason)
                continue
            self._stale.update(event.paths)
            if self._stops == 0 and self._start_at is None:
                logger.info("%s, restarting", event.reason)
                self._start_at = time.monotonic() + OVERLAP_AFTER
                if self._child is not None:
                    self._child.ask_to_stop(self._grace)

    def _start_if_due(self) -> None:
        if self._start_at is None:
            return
        if self._child is not None:
            if time.monotonic() < self._start_at:
                return
            logger.info("the old process finishes its requests beside the new one")
            self._retiring.append(self._child)
        self._start_at = None
        while self._stale:
            _forget_bytecode(self._stale.pop())
        config = dataclasses.replace(self._config, reload=False)
        self._child = _Child(
            (self._target, config, self._app_path, self._sockets), self._grace, self._terminal == 0
        )

    def _reap(self) -> None:
        for child in self._children():
            if child.process.is_alive():
                continue
            if child is self._child:
                self._child = None
                if child.kill_at is None:
                    logger.warning("%s; waiting for a change", child.ending())
            else:
                self._retiring.remove(child)
            child.close()

    def _kill_overdue(self) -> None:
        for child in self._children():
            if child.kill_at is not None and time.monotonic() >= child.kill_at:
                logger.warning("process %d did not stop in time, killed", child.process.pid)
                child.process.kill()
                child.kill_at = time.monotonic() + STOP_MARGIN

    def _kill_all(self) -> None:
        for child in self._children():
            child.process.kill()
            child.process.join()
            child.close()
        self._child, self._retiring = None, []


@dataclasses.dataclass(frozen=True, slots=True)
class _Event:
    kind: str
    """`stop`, `restart` or `refuse`."""
    reason: str
    paths: tuple[str, ...] = ()


class _Child:
    """One child process, seen from here."""

    def __init__(self, work: tuple[object, ...], grace: float, has_terminal: bool) -> None:
        context = multiprocessing.get_context("spawn")
        reader, self._stop_pipe = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(
            target=_run_child, args=(*work, reader, grace, has_terminal)
        )
        try:
            self.process.start()
        finally:
            reader.close()
        self.kill_at: float | None = None
        """On the monotonic clock; None while it has not been asked to stop."""

    def ask_to_stop(self, grace: float) -> None:
        if self.kill_at is None:
            self._stop_pipe.close()
            self.kill_at = time.monotonic() + grace

    def ending(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"the server was ended by {signal.Signals(-code).name}"
        return f"the server ended with exit code {code}"

    def close(self) -> None:
        self._stop_pipe.close()
        self.process.close()


def _directories(config: ServerConfig) -> list[str]:
    """What to watch: as given, else the current directory and that of the application."""
    directories = list(config.reload_dirs) or [".", config.app_dir]
    for directory in directories:
        if not os.path.isdir(directory):
            raise ConfigError(f"reload_dirs: {directory} is not a directory")
    return directories


def _forget_bytecode(path: str) -> None:
    """Remove the compiled form of a source file that changed.

    Python tells by the size and the whole second of the last change whether it is still good,
    which is not enough for someone who saves twice in a second.
    """
    with contextlib.suppress(OSError, NotImplementedError):
        os.unlink(importlib.util.cache_from_source(path))


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


# In the child


class StopSignal:
    """Tells the child when it is to stop: at the end of the pipe whose other end the parent has.

    A child that does not manage to stop within `grace` seconds ends itself, because the parent may
    not be there any more to do it.
    """

    def __init__(self, pipe: Connection, grace: float) -> None:
        self._pipe = pipe
        self._grace = grace
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] | None = []
        threading.Thread(target=self._run, name="pounce-stop", daemon=True).start()

    def subscribe(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, in another thread; at once if the time has come already."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback()

    def _run(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            self._pipe.recv_bytes()
        with self._lock:
            callbacks, self._callbacks = self._callbacks or [], None
        for callback in callbacks:
            callback()
        time.sleep(self._grace)
        os._exit(1)


Target: TypeAlias = "Callable[[ServerConfig, str, list[socket.socket], StopSignal], None]"


def serve_child(
    config: ServerConfig, app_path: str, sockets: list[socket.socket], stop: StopSignal
) -> None:
    """What the child runs: a server on the sockets of the parent."""
    configure_logging(config)
    # The child is a program of its own, whose top is the server; this module is below that.
    app = importlib.import_module("pounce.check").load_or_explain(app_path, config)
    if app is None:
        sys.exit(1)
    server = importlib.import_module("pounce.server").Server(config, app, app_path=app_path)
    stop.subscribe(server.shutdown)
    server._run_with_sockets(sockets)


def _run_child(
    target: Target,
    config: ServerConfig,
    app_path: str,
    sockets: list[socket.socket],
    pipe: Connection,
    grace: float,
    has_terminal: bool,
) -> None:
    # Until the server has its own handler, Ctrl-C ends the child without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if has_terminal:  # multiprocessing has put /dev/null there; a debugger needs the keyboard
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    for sock in sockets:
        sock.setblocking(False)
    try:
        target(config, app_path, sockets, StopSignal(pipe, grace))
    except PounceError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)
    except Exception:
        logger.exception("the application cannot be served")
        sys.exit(1)
