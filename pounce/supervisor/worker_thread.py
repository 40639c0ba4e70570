"""A worker that is a thread of the main process.

The application and its lifespan are the main process's, and so are signals, loggers and limits:
what is left is an event loop with a slot's sockets.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.runtime import event_loop_factory
from pounce.supervisor.titles import set_worker_thread_title
from pounce.supervisor.worker_side import WorkerSide, ring_collector
from pounce.sync_protocol import SyncApp
from pounce.worker import event_loop
from pounce.worker.life import Counting, WorkerLife

logger = logging.getLogger("pounce.error")

_CRASHED: Final = 1
_ENDED_BY_FORCE: Final = 1


@dataclass(frozen=True, slots=True)
class ThreadSpec:
    """What a worker is given."""

    config: ServerConfig
    app: ASGIApp
    sync_app: SyncApp | None
    collects: bool
    """Whether lifecycle events go into the ring."""
    worker_id: int
    generation: int
    sockets: Sequence[socket.socket]
    """Its own, as `line` is."""
    line: socket.socket
    main_state: Mapping[str, Any] | None
    context: contextvars.Context
    """Its own. A thread would begin with an empty one."""
    counting: Counting | None = None


class WorkerThread:
    """Runs a worker in a thread, and tells its end as a process does: by a descriptor and a code.

    Args:
        spec: What it is given.

    Raises:
        OSError: There is no descriptor to be had.
        RuntimeError: There is no thread to be had.
    """

    def __init__(self, spec: ThreadSpec) -> None:
        self._spec = spec
        self.exit_code: int | None = None
        """None while it runs."""
        self.sentinel, self._ended = os.pipe()
        """Readable when the worker has come to its end."""
        # A daemon, because one that is stuck in the application must not hold up the program's end.
        self._thread = threading.Thread(
            target=spec.context.run,
            args=(self._run,),
            name=f"worker-{spec.worker_id}",
            daemon=True,
        )
        try:
            self._thread.start()
        except BaseException:
            os.close(self.sentinel)
            os.close(self._ended)
            raise

    @property
    def native_id(self) -> int:
        """The number that the system knows the thread by."""
        native_id = self._thread.native_id
        assert native_id is not None
        return native_id

    @property
    def ident(self) -> int:
        """The number that Python knows the thread by."""
        ident = self._thread.ident
        assert ident is not None
        return ident

    def join(self) -> None:
        """Waits for a thread that has come to its end."""
        self._thread.join()
        os.close(self.sentinel)

    def _run(self) -> None:
        code = _CRASHED
        try:
            code = _run_worker(self._spec)
        except SystemExit as exc:  # of the application
            code = exc.code if isinstance(exc.code, int) else _CRASHED
        except BaseException:
            logger.exception("worker %d failed", self._spec.worker_id)
        finally:
            self.exit_code = code
            # A byte, because a process that the application has forked off holds the pipe open.
            os.write(self._ended, b".")
            os.close(self._ended)


def _run_worker(spec: ThreadSpec) -> int:
    """Returns the exit code."""
    side = _ThreadSide(spec)
    try:
        event_loop.run(
            side.run(), event_loop_factory(spec.config.loop), seconds_left=side.seconds_left
        )
    except asyncio.CancelledError:
        if not side.is_killed:
            raise
        return _ENDED_BY_FORCE
    finally:
        side.release()
    return side.exit_code


class _ThreadSide(WorkerSide):
    def __init__(self, spec: ThreadSpec) -> None:
        super().__init__(spec.config, spec.worker_id, spec.sockets, spec.line)
        self._spec = spec
        self._task: asyncio.Task[Any] | None = None
        self.is_killed = False

    def release(self) -> None:
        """Gives back what a process gives back by ending."""
        self.close_sockets()
        self._line.close()
        if self._life is not None:
            self._life.close()

    def _begun(self) -> None:
        self._task = asyncio.current_task()
        set_worker_thread_title(self._spec.worker_id, self._spec.generation)

    def _load(self, context: ssl.SSLContext | None) -> WorkerLife:
        spec = self._spec
        return WorkerLife(
            spec.config,
            spec.app,
            context,
            sync_app=spec.sync_app,
            collector=ring_collector(spec.counting) if spec.collects else None,
            worker_id=spec.worker_id,
            main_state=spec.main_state,
            counting=spec.counting,
            owns_process=False,
        )

    def _receive(self, message: dict[str, Any]) -> None:
        if message["kind"] == "kill":
            assert self._task is not None
            self.is_killed = True
            self._task.cancel()
        else:
            super()._receive(message)
