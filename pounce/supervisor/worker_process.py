"""A worker seen from inside: the process that a master has started."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import select
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from pounce import logs
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.loading import load_app
from pounce.net.socket_share import SharedSockets, adopt
from pounce.runtime import event_loop_factory, raise_fd_limit
from pounce.supervisor.measurements import Place
from pounce.supervisor.privileges import drop_privileges, resolve_identity, set_umask
from pounce.supervisor.stacks import write_stacks_when_asked
from pounce.supervisor.titles import set_worker_title
from pounce.supervisor.worker_side import WorkerSide, ring_collector
from pounce.sync_protocol import SyncApp
from pounce.worker import event_loop
from pounce.worker.life import Counting, WorkerLife

logger = logging.getLogger("pounce.error")

DRAIN_MARGIN: Final = 5.0
"""Seconds beyond the graceful ones after which a worker without a master ends by force."""

LEFT_TO_THE_MASTER: Final = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
"""A terminal sends them to all of its processes; the master decides what they mean."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is given; pickled on its way to a spawned process."""

    config: ServerConfig
    app_path: str | None
    app: ASGIApp | None
    """Only where there is no import string: the worker is forked then."""
    sync_app: SyncApp | None
    collects: bool
    """Whether lifecycle events go into the ring."""
    worker_id: int
    generation: int
    sockets: SharedSockets
    channel: SharedSockets
    stacks: Connection
    """Where to tell of the stacks of all threads."""
    main_state: Mapping[str, Any] | bytes | None = None
    """Of the lifespan that the main process runs, pickled for a spawned process: its classes are
    known only when the application has been imported."""
    place: Place | None = None
    """Where it counts."""


def worker_main(spec: WorkerSpec, close_inherited: Callable[[], None] | None = None) -> None:
    """Runs a worker to its end; the target of its process.

    Args:
        spec: What it is given.
        close_inherited: In a forked worker: closes what belongs to the master alone.
    """
    if close_inherited is not None:
        close_inherited()
    for number in LEFT_TO_THE_MASTER:
        signal.signal(number, signal.SIG_IGN)
    write_stacks_when_asked(spec.stacks)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_MASTER)
    # The default until the loop takes it over: a worker that is still loading just ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_worker_title(spec.worker_id, spec.generation)
    logs.configure_logging(spec.config)
    raise_fd_limit()
    [line] = adopt(spec.channel)
    process = _WorkerProcess(spec, line)
    event_loop.run(
        process.run(),
        event_loop_factory(spec.config.loop),
        seconds_left=process.seconds_left,
    )
    sys.exit(process.exit_code)


class _WorkerProcess(WorkerSide):
    def __init__(self, spec: WorkerSpec, line: socket.socket) -> None:
        super().__init__(spec.config, spec.worker_id, adopt(spec.sockets), line)
        self._spec = spec

    def _begun(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._reopen_logs)

    def _become_who_it_shall_be(self) -> None:
        if self._config.umask is not None:
            set_umask(self._config.umask)
        identity = resolve_identity(self._config.user, self._config.group)
        if identity is not None:
            drop_privileges(identity)

    def _load(self, context: ssl.SSLContext | None) -> WorkerLife:
        # Before that, as shared memory is the master's, too.
        counting = None if self._spec.place is None else self._spec.place.attach()
        self._become_who_it_shall_be()
        if counting is not None:
            counting = self._with_application_metrics(counting)
        # After that, as only the thread that gives up root does so on every system.
        self._watch_master(self._line.dup())
        spec = self._spec
        config = spec.config
        app = spec.app
        if app is None:
            assert spec.app_path is not None
            app = load_app(spec.app_path, factory=config.factory, app_dir=config.app_dir)
        state = spec.main_state
        return WorkerLife(
            config,
            app,
            context,
            sync_app=spec.sync_app,
            collector=ring_collector(counting) if spec.collects else None,
            worker_id=spec.worker_id,
            counting=counting,
            main_state=pickle.loads(state) if isinstance(state, bytes) else state,
        )

    def _with_application_metrics(self, counting: Counting) -> Counting:
        """Has the application's own metrics counted, from before it is imported."""
        place = self._spec.place
        if place is None or not place.has_clients:
            return counting
        # Imported here, because it is much and not always needed.
        from pounce.metrics.client.worker import install

        clients = install(place.arena, place.index, is_forked=self._spec.app is not None)
        if clients is None:
            return counting
        return counting._replace(application=clients.collector().collect)

    def _prepared(self) -> None:
        # Until here SIGTERM ends the process, whatever the application is doing.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leave)

    def _watch_master(self, line: socket.socket) -> None:
        """Ends a worker whose loop cannot see that the master is gone, or takes too long then."""

        def watch() -> None:
            poll = select.poll()
            poll.register(line, 0)  # the end of the other side is always told
            poll.poll()
            if self._is_prepared:
                time.sleep(max(0.0, self.seconds_left()) + DRAIN_MARGIN)
                os._exit(1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, name="master-watch", daemon=True).start()

    def _reopen_logs(self) -> None:
        logs.reopen_log_files()
        super()._reopen_logs()
