"""A worker seen from inside: the process that a master has started.

It prepares (loads the application, runs its startup), says so, and waits to be told to serve and,
one day, to drain. A worker whose master is gone drains and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pounce import logs
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.errors import PounceError
from pounce.lifecycle import LifecycleCollector
from pounce.loading import load_app
from pounce.net.socket_share import SharedSockets, adopt
from pounce.net.tls import create_context
from pounce.runtime import event_loop_factory, raise_fd_limit
from pounce.supervisor.channel import Channel, fitting
from pounce.supervisor.titles import set_worker_title
from pounce.supervisor.worker_record import STARTUP_FAILED
from pounce.sync_protocol import SyncApp
from pounce.worker import event_loop
from pounce.worker.life import WorkerLife

logger = logging.getLogger("pounce.error")

REPORT_PERIOD: Final = 0.5
"""Seconds between two reports of what the worker counts."""

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
    collector: LifecycleCollector | None
    worker_id: int
    generation: int
    sockets: SharedSockets
    channel: SharedSockets


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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_MASTER)
    # The default until the loop takes it over: a worker that is still loading just ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_worker_title(spec.worker_id, spec.generation)
    logs.configure_logging(spec.config)
    raise_fd_limit()
    process = _WorkerProcess(spec)
    event_loop.run(
        process.run(),
        event_loop_factory(spec.config.loop),
        seconds_left=process.seconds_left,
    )
    sys.exit(process.exit_code)


class _WorkerProcess:
    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._sockets = adopt(spec.sockets)
        self._life: WorkerLife | None = None
        self._serve = asyncio.Event()
        self._drain = asyncio.Event()
        self._gentle = True
        self._is_prepared = False
        self._seconds = spec.config.timeout_graceful_shutdown
        self.exit_code = 0

    def seconds_left(self) -> float:
        """How long a graceful stop may go on."""
        return self._seconds if self._life is None else self._life.seconds_left()

    async def run(self) -> None:
        [line] = adopt(self._spec.channel)
        self._watch_master(line.dup())
        channel = Channel(line, self._receive, self._master_is_gone)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        try:
            life = self._life = self._load()
            await life.prepare()
        except Exception as exc:
            self._say_why(channel, exc)
            return
        self._is_prepared = True
        # Until here SIGTERM ends the process, whatever the application is doing.
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        try:
            channel.send("prepared")
            await self._until_told(self._serve)
            if not self._drain.is_set():
                await life.serve(self._sockets)
                channel.send("ready")
                reporting = loop.create_task(self._report(channel, life))
                await self._drain.wait()
                await life.stop_accepting()
                self._close_sockets()
                await life.drain(self._seconds, gentle=self._gentle)
                reporting.cancel()
        except PounceError as exc:
            self._say_why(channel, exc)
        finally:
            await life.shut_down_lifespan()
            life.close()
            channel.close()

    def _load(self) -> WorkerLife:
        spec = self._spec
        config = spec.config
        app = spec.app
        if app is None:
            assert spec.app_path is not None
            app = load_app(spec.app_path, factory=config.factory, app_dir=config.app_dir)
        return WorkerLife(
            config,
            app,
            create_context(config) if config.is_tls else None,
            sync_app=spec.sync_app,
            collector=spec.collector,
            worker_id=spec.worker_id,
        )

    def _say_why(self, channel: Channel, exc: Exception) -> None:
        """The startup failed: the master logs why, and is not to try again for ever."""
        self.exit_code = STARTUP_FAILED
        if isinstance(exc, PounceError):
            text = str(exc)
            if exc.__cause__ is not None:
                text += "\n" + "".join(traceback.format_exception(exc.__cause__)).rstrip()
        else:
            text = "".join(traceback.format_exception(exc)).rstrip()
        channel.send("failed", message=fitting(text))
        channel.close()

    async def _until_told(self, event: asyncio.Event) -> None:
        waiting = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._drain.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in waiting:
            each.cancel()

    async def _report(self, channel: Channel, life: WorkerLife) -> None:
        while True:
            requests, connections, in_flight = life.counts()
            channel.send("report", requests=requests, connections=connections, in_flight=in_flight)
            await asyncio.sleep(REPORT_PERIOD)

    def _receive(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "serve":
            self._serve.set()
        elif kind == "drain":
            if self._drain.is_set():
                if not message["gentle"] and self._life is not None:
                    self._life.hasten()
                return
            self._gentle, self._seconds = message["gentle"], message["seconds"]
            self._drain.set()
        elif kind == "reopen":
            self._reopen_logs()

    def _on_term(self) -> None:
        self._gentle = False
        self._drain.set()

    def _master_is_gone(self) -> None:
        if not self._drain.is_set():
            logger.warning("the master is gone: worker %d leaves", self._spec.worker_id)
        self._on_term()

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
        if self._life is not None:
            self._life.reopen_logs()

    def _close_sockets(self) -> None:
        # Only this process's copies: the master goes on listening with its own.
        for sock in {id(each): each for each in self._sockets}.values():
            _close_quietly(sock)


def _close_quietly(sock: socket.socket) -> None:
    if sock.fileno() != -1:
        sock.close()
