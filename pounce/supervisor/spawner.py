"""How workers come to be: as processes or as threads."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.metrics.own import own_metrics
from pounce.net.socket_share import duplicate, share
from pounce.runtime import WorkerMode
from pounce.supervisor.actions import Spawn
from pounce.supervisor.main_application import MainApplication
from pounce.supervisor.measurements import Measurements
from pounce.supervisor.stacks import StackPipe
from pounce.supervisor.worker_handle import (
    ProcessHandle,
    Receive,
    ThreadHandle,
    WorkerHandle,
    start_process,
)
from pounce.supervisor.worker_process import WorkerSpec
from pounce.supervisor.worker_thread import ThreadSpec, WorkerThread
from pounce.sync_protocol import SyncApp
from pounce.worker.life import Counting


class Spawner(Protocol):
    """Starts workers."""

    def start(
        self,
        order: Spawn,
        config: ServerConfig,
        sockets: Sequence[socket.socket],
        receive: Receive,
    ) -> WorkerHandle:
        """Starts one, on sockets that stay the caller's.

        Raises:
            Exception: There is no process or thread to be had, or what it is to be given cannot
                be pickled, which raises whatever it likes.
        """


def make_spawner(
    mode: WorkerMode,
    *,
    app_path: str | None,
    app: ASGIApp | None,
    sync_app: SyncApp | None,
    collects: bool,
    main: MainApplication | None,
    measurements: Measurements | None,
    close_inherited: Callable[[socket.socket, int], None],
) -> Spawner:
    """The one for what workers are; for the other arguments see `ProcessSpawner`."""
    if main is not None and mode is WorkerMode.THREAD:
        return ThreadSpawner(
            main=main, measurements=measurements, sync_app=sync_app, collects=collects
        )
    return ProcessSpawner(
        app_path=app_path,
        app=app,
        sync_app=sync_app,
        collects=collects,
        main=main,
        measurements=measurements,
        close_inherited=close_inherited,
    )


class ProcessSpawner:
    """Starts processes.

    Args:
        app_path: The import string, or
        app: the application itself, which workers inherit by fork.
        main: The application as the main process has it, whose lifespan state workers get.
        measurements: Where workers count.
        collects: Whether workers leave lifecycle events in their rings.
        close_inherited: In a forked worker: closes what belongs to the master alone. Gets the
            master's end of the worker's own line, and the worker's slot.
    """

    def __init__(
        self,
        *,
        app_path: str | None,
        app: ASGIApp | None,
        sync_app: SyncApp | None,
        collects: bool,
        main: MainApplication | None,
        measurements: Measurements | None,
        close_inherited: Callable[[socket.socket, int], None],
    ) -> None:
        self._app_path = app_path
        self._app = app
        self._sync_app = sync_app
        self._collects = collects
        self._main = main
        self._measurements = measurements
        self._close_inherited = close_inherited

    def start(
        self,
        order: Spawn,
        config: ServerConfig,
        sockets: Sequence[socket.socket],
        receive: Receive,
    ) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        stacks, to_stacks = multiprocessing.Pipe(duplex=False)
        state = None
        if self._main is not None:
            state = self._main.pickled_state if self._app is None else self._main.state
        spec = WorkerSpec(
            config=config,
            app_path=self._app_path,
            app=self._app,
            sync_app=self._sync_app,
            collects=self._collects,
            worker_id=order.worker_id,
            generation=order.generation,
            sockets=share(sockets),
            channel=share([theirs]),
            stacks=to_stacks,
            main_state=state,
            place=(
                None if self._measurements is None else self._measurements.place_of(order.worker_id)
            ),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            undo.callback(stacks.close)
            with theirs, to_stacks:
                process = start_process(spec, lambda: self._close_inherited(ours, order.slot))
            undo.pop_all()
        return ProcessHandle(order.worker_id, process, ours, receive, StackPipe(stacks))


class ThreadSpawner:
    """Starts threads.

    Args:
        main: The application.
        measurements: Where workers count.
        collects: Whether workers leave lifecycle events in their rings.
    """

    def __init__(
        self,
        *,
        main: MainApplication,
        measurements: Measurements | None,
        sync_app: SyncApp | None,
        collects: bool,
    ) -> None:
        self._main = main
        self._measurements = measurements
        self._sync_app = sync_app
        self._collects = collects

    def start(
        self,
        order: Spawn,
        config: ServerConfig,
        sockets: Sequence[socket.socket],
        receive: Receive,
    ) -> WorkerHandle:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(theirs.close)
            own = duplicate(sockets)
            for sock in own:
                undo.callback(sock.close)
            thread = WorkerThread(
                ThreadSpec(
                    config=config,
                    app=self._main.app,
                    sync_app=self._sync_app,
                    collects=self._collects,
                    worker_id=order.worker_id,
                    generation=order.generation,
                    sockets=own,
                    line=theirs,
                    main_state=self._main.state,
                    counting=self._counting(order.worker_id),
                    context=self._main.context.copy(),
                )
            )
            undo.pop_all()
        return ThreadHandle(order.worker_id, thread, ours, receive)

    def _counting(self, worker_id: int) -> Counting | None:
        if self._measurements is None:
            return None
        slot = self._measurements.slot_of(worker_id)
        slot.start()
        return Counting(
            self._measurements.arena,
            slot,
            # One process, and all workers in it: its registry has everything.
            own_metrics,
        )
