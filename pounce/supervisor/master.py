"""The master: one event loop around the pool's state machine.

It does not import the application and serves no traffic. Everything that happens (a signal, a
message or the end of a worker, a command, a deadline) is an input to the pool, whose actions are
carried out at once; nothing here waits for a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from pounce import logs
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.errors import BindError, PounceError
from pounce.lifecycle import LifecycleCollector
from pounce.net.listeners import ListenerGroup
from pounce.net.socket_share import share
from pounce.supervisor.actions import (
    Action,
    CloseSlot,
    OpenSlot,
    Report,
    Signal,
    Spawn,
    TellDrain,
    TellServe,
)
from pounce.supervisor.control import ControlServer, start_control_server
from pounce.supervisor.control_messages import ControlError
from pounce.supervisor.departures import Departures
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_events import PoolEvent, ReloadFailed, ReloadStarted, ReloadSucceeded
from pounce.supervisor.pool_log import log_event
from pounce.supervisor.pool_settings import PoolSettings
from pounce.supervisor.reload_waiters import ReloadWaiters
from pounce.supervisor.titles import set_master_title
from pounce.supervisor.worker_handle import WorkerHandle, start_process
from pounce.supervisor.worker_process import WorkerSpec
from pounce.sync_protocol import SyncApp

logger = logging.getLogger("pounce.error")

QUIET_CHECK: Final = 0.05
"""Seconds between two looks at the queue of a slot that is being given up."""


_ACCEPTING: Final = ("opening", "ready")
"""States of workers that take new connections, or will in a moment."""


def pool_settings(config: ServerConfig) -> PoolSettings:
    """What the configuration says about the pool."""
    return PoolSettings(
        workers=config.resolve_workers(),
        timeout_worker_boot=config.timeout_worker_boot,
        timeout_graceful_shutdown=config.timeout_graceful_shutdown,
        shutdown_delay=config.shutdown_delay,
        max_concurrent_replacements=config.max_concurrent_replacements,
        max_requests=config.max_requests,
        max_requests_jitter=config.max_requests_jitter,
        max_lifetime=config.max_lifetime,
        max_lifetime_jitter=config.max_lifetime_jitter,
    )


class Master:
    """Runs a pool of worker processes until it is told to stop.

    Args:
        config: The configuration of the first generation.
        listeners: Bound; the caller closes them.
        app_path: The import string, or
        app: the application itself, which the workers inherit by fork and which a reload cannot
            load again.
        reload_config: Reads the configuration again at a reload; None keeps the one there is.
        report_listening: Called with the bound addresses when all workers serve for the first time.
    """

    def __init__(
        self,
        config: ServerConfig,
        listeners: ListenerGroup,
        *,
        app_path: str | None,
        app: ASGIApp | None = None,
        sync_app: SyncApp | None = None,
        collector: LifecycleCollector | None = None,
        reload_config: Callable[[], ServerConfig] | None = None,
        report_listening: Callable[[Sequence[tuple[str, int]]], None] | None = None,
        version: str = "",
    ) -> None:
        self._config = config
        self._configs: dict[int, ServerConfig] = {}
        """By generation: a worker that is started again gets that of its own."""
        self._listeners = listeners
        self._app_path = app_path
        self._app = app
        self._sync_app = sync_app
        self._collector = collector
        self._reload_config = reload_config
        self._report_listening = report_listening
        self._version = version
        self._pool = Pool(pool_settings(config))
        self._handles: dict[int, WorkerHandle] = {}
        self._departures = Departures(self._tell_drain)
        self._timer: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()
        self._started_at = time.monotonic()
        self._last_reload: dict[str, Any] | None = None
        self._reload_waiters = ReloadWaiters()
        self._control: ControlServer | None = None

    async def run(self) -> int:
        """Returns the program's exit code when the last worker is gone."""
        self._loop = asyncio.get_running_loop()
        set_master_title(self._app_path or repr(self._app))
        self._install_signals()
        self._control = await start_control_server(self._config.control_socket, self._command)
        try:
            self._do(self._pool.start(self._now()))
            await self._done.wait()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._control is not None:
                await self._control.close()
            self._departures.close()
        return self._pool.exit_code or 0

    def stop(self, *, graceful: bool = True) -> None:
        """Ends the pool; a second time at once."""
        self._do(self._pool.stop(self._now(), graceful))

    # Signals

    def _install_signals(self) -> None:
        for name, handler in {
            "SIGTERM": self.stop,
            "SIGINT": self.stop,
            "SIGQUIT": lambda: self.stop(graceful=False),
            "SIGHUP": self.reload,
            "SIGTTIN": lambda: self._scale_by(1),
            "SIGTTOU": lambda: self._scale_by(-1),
            "SIGUSR1": self._reopen_logs,
            "SIGUSR2": lambda: logger.warning("SIGUSR2 (upgrade) is not supported"),
            "SIGWINCH": self._drain_all,
        }.items():
            self._loop.add_signal_handler(getattr(signal, name), self._on_signal, name, handler)

    def _on_signal(self, name: str, handler: Callable[[], None]) -> None:
        logger.info("received %s", name)
        handler()

    def reload(self) -> None:
        """Reads the configuration again and replaces all workers, or none."""
        self._request_reload()

    def _request_reload(self) -> str | None:
        """Returns why there will be none, if so."""
        settings = None
        if self._reload_config is not None:
            try:
                config = self._reload_config()
                logs.configure_logging(config)
            except PounceError as exc:
                logs.configure_logging(self._config)
                reason = f"the configuration cannot be used: {exc}"
                logger.error("reload failed: %s", reason)
                self._note_reload("failed", reason)
                return reason
            if _listening_options(config) != _listening_options(self._config):
                logger.warning("where to listen changes with a restart only, not with a reload")
            self._config = config
            settings = pool_settings(config)
        if self._app is not None:
            logger.warning("the application was given as an object: a reload runs the same code")
        self._do(self._pool.reload(self._now(), settings))
        return None

    def _scale_by(self, change: int) -> None:
        target = self._pool.snapshot().target
        if target + change < 1:
            logger.warning("a pool has at least one worker")
            return
        self._do(self._pool.scale(target + change, self._now()))

    def _drain_all(self) -> None:
        if os.isatty(0) or os.isatty(2):
            return  # a terminal sends it to say that its size has changed
        self._do(self._pool.drain_all(self._now()))

    def _reopen_logs(self) -> None:
        logs.reopen_log_files()
        for handle in self._handles.values():
            handle.tell("reopen")

    # Inputs from workers

    def _on_message(self, worker_id: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        pool, now = self._pool, self._now()
        if kind == "report":
            self._do(
                pool.reported(
                    worker_id,
                    message["requests"],
                    message["connections"],
                    message["in_flight"],
                    now,
                )
            )
        elif kind == "prepared":
            self._do(pool.prepared(worker_id, now))
        elif kind == "ready":
            self._do(pool.ready(worker_id, now))
            self._announce()
        elif kind == "failed" and worker_id in self._handles:
            self._handles[worker_id].last_words = message["message"]

    def _on_exit(self, worker_id: int) -> None:
        handle = self._handles[worker_id]
        self._loop.remove_reader(handle.sentinel)
        code = handle.end()
        del self._handles[worker_id]
        self._departures.ended(worker_id)
        self._steer_away_from(worker_id)
        self._do(self._pool.exited(worker_id, code, self._now(), handle.last_words))

    def _steer_away_from(self, worker_id: int) -> None:
        """Has new connections go to other slots until a crashed worker has its successor."""
        workers = {worker.worker_id: worker for worker in self._pool.snapshot().workers}
        gone = workers.pop(worker_id, None)
        if gone is None or gone.state not in _ACCEPTING:
            return
        if not any(w.slot == gone.slot and w.state in _ACCEPTING for w in workers.values()):
            with contextlib.suppress(KeyError):
                self._listeners.steer_away(gone.slot)

    def _announce(self) -> None:
        if self._report_listening is None:
            return
        status = self._pool.snapshot()
        if sum(worker.state == "ready" for worker in status.workers) >= status.target:
            self._report_listening(self._listeners.addresses())
            self._report_listening = None

    # Actions

    def _do(self, actions: Sequence[Action]) -> None:
        """Carries actions out, and what comes of them, and sets the clock for the next deadline."""
        queue = list(actions)
        while queue:
            queue.extend(self._carry_out(queue.pop(0)))
        status = self._pool.snapshot()
        if not status.reload_queued:
            self._reload_waiters.given_up(f"the pool is {status.phase}", status.generation)
        if status.phase == "stopping":
            # Clients are refused from here on: nobody would accept them.
            self._listeners.close_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pool.exit_code is not None:
            self._done.set()
            return
        now = self._now()
        deadline = self._pool.next_deadline(now)
        if deadline is not None:
            self._timer = self._loop.call_later(
                max(0.0, deadline - now), lambda: self._do(self._pool.tick(self._now()))
            )

    def _carry_out(self, action: Action) -> Sequence[Action]:
        match action:
            case Spawn():
                return self._spawn(action)
            case TellServe(worker_id):
                return self._tell_serve(worker_id)
            case TellDrain(worker_id, gentle, seconds):
                self._drain(worker_id, gentle, seconds)
            case Signal(worker_id, number):
                if worker_id in self._handles:
                    self._handles[worker_id].signal(number)
            case OpenSlot(slot):
                with contextlib.suppress(ValueError):
                    self._open_slot(slot)
            case CloseSlot(slot):
                self._close_slot(slot)
            case Report(event):
                log_event(event)
                self._follow_reload(event)
        return ()

    def _spawn(self, action: Spawn) -> Sequence[Action]:
        now = self._now()
        config = self._configs.setdefault(action.generation, self._config)
        try:
            sockets = self._listeners.sockets_for(action.slot)
        except KeyError:
            return self._pool.spawn_failed(action.worker_id, "its sockets cannot be had", now)
        ours, theirs = socket.socketpair()
        spec = WorkerSpec(
            config=config,
            app_path=self._app_path,
            app=self._app,
            sync_app=self._sync_app,
            collector=self._collector,
            worker_id=action.worker_id,
            generation=action.generation,
            sockets=share(sockets),
            channel=share([theirs]),
        )
        try:
            process = start_process(spec, lambda: self._close_inherited(ours, action.slot))
        except Exception as exc:  # also what pickling makes of the caller's own objects
            ours.close()
            return self._pool.spawn_failed(action.worker_id, str(exc), now)
        finally:
            theirs.close()
        handle = WorkerHandle(action.worker_id, process, ours, self._on_message)
        self._handles[action.worker_id] = handle
        self._loop.add_reader(handle.sentinel, self._on_exit, action.worker_id)
        return self._pool.spawned(action.worker_id, handle.pid, now)

    def _close_inherited(self, ours: socket.socket, slot: int) -> None:
        """In a forked worker: leaves the master's loop and sockets alone."""
        asyncio._set_running_loop(None)
        signal.set_wakeup_fd(-1)
        for name in ("SIGTERM", "SIGUSR1"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        ours.close()
        for handle in self._handles.values():
            handle.close_line()
        self._listeners.close_others(slot)

    def _tell_serve(self, worker_id: int) -> Sequence[Action]:
        handle = self._handles.get(worker_id)
        if handle is not None:
            for worker in self._pool.snapshot().workers:
                if worker.worker_id == worker_id:
                    try:
                        # Before its worker accepts, so that what comes meanwhile waits for it.
                        self._listeners.listen_slot(worker.slot)
                    except (BindError, KeyError) as exc:
                        logger.error("%s", exc)
            handle.tell("serve")
        return ()

    def _open_slot(self, slot: int) -> None:
        try:
            self._listeners.open_slot(slot)
        except BindError as exc:
            logger.error("slot %d: %s", slot, exc)  # the spawn that follows fails

    def _close_slot(self, slot: int) -> None:
        with contextlib.suppress(KeyError):
            departure = self._listeners.retire_slot(slot)
            workers = self._pool.snapshot().workers
            # Those of an earlier slot of that number count too, and are gone soon.
            self._departures.add(departure, [w.worker_id for w in workers if w.slot == slot])

    def _drain(self, worker_id: int, gentle: bool, seconds: float) -> None:
        if not gentle:
            self._departures.release(worker_id)
        elif self._departures.hold(worker_id, seconds):
            self._loop.call_later(QUIET_CHECK, self._check_departures)
            return
        self._tell_drain(worker_id, seconds, gentle=gentle)

    def _tell_drain(self, worker_id: int, seconds: float, *, gentle: bool = True) -> None:
        if worker_id in self._handles:
            self._handles[worker_id].tell("drain", gentle=gentle, seconds=seconds)

    def _check_departures(self) -> None:
        self._departures.check()
        if self._departures.holds:
            self._loop.call_later(QUIET_CHECK, self._check_departures)

    def _follow_reload(self, event: PoolEvent) -> None:
        match event:
            case ReloadStarted():
                self._reload_waiters.started()
            case ReloadSucceeded(generation=generation):
                self._note_reload("succeeded", None)
                self._reload_waiters.ended("succeeded", None, generation)
            case ReloadFailed(reason=reason):
                self._note_reload("failed", reason)
                generation = self._pool.snapshot().generation
                self._reload_waiters.ended("failed", reason, generation)

    def _note_reload(self, result: str, reason: str | None) -> None:
        self._last_reload = {"result": result, "reason": reason, "at": time.time()}

    # Commands

    async def _command(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "status":
            return self._status()
        if command == "reload":
            return await self._reload_for_command(wait=arguments["wait"])
        if command == "scale":
            previous = self._pool.snapshot().target
            self._do(self._pool.scale(arguments["workers"], self._now()))
            return {"workers_target": self._pool.snapshot().target, "previous": previous}
        if command == "restart-worker":
            for worker in self._pool.snapshot().workers:
                if worker.worker_id == arguments["worker_id"]:
                    self._do(self._pool.restart(worker.slot, self._now()))
                    return {"worker_id": worker.worker_id, "slot": worker.slot}
            raise ControlError(f"there is no worker {arguments['worker_id']}")
        assert command == "stop"
        self._loop.call_soon(lambda: self.stop(graceful=not arguments["now"]))
        return {"pid": os.getpid()}

    async def _reload_for_command(self, *, wait: bool) -> dict[str, Any]:
        # Before the request, which may start the reload.
        waiter = self._reload_waiters.add()
        failure = self._request_reload()
        generation = self._pool.snapshot().generation
        if failure is not None:
            waiter.set_result({"result": "failed", "reason": failure, "generation": generation})
        if wait or waiter.done():
            return await waiter
        return {"result": "started", "reason": None, "generation": generation}

    def _status(self) -> dict[str, Any]:
        now = self._now()
        status = self._pool.snapshot(now)
        return {
            "version": self._version,
            "pid": os.getpid(),
            "uptime": now - self._started_at,
            "addresses": [_format(address) for address in self._listeners.addresses()],
            "workers_target": status.target,
            "generation": status.generation,
            "last_reload": self._last_reload,
            "upgrading": False,
            "workers": [
                {
                    "slot": worker.slot,
                    "worker_id": worker.worker_id,
                    "pid": worker.pid,
                    "generation": worker.generation,
                    "state": worker.state,
                    "age": worker.age,
                    "connections": worker.connections,
                    "requests": worker.requests,
                    "in_flight": worker.in_flight,
                    "reason": worker.reason or None,
                }
                for worker in status.workers
            ],
            "troubles": [
                {
                    "slot": trouble.slot,
                    "failures": trouble.failures,
                    "retry_in": trouble.retry_in,
                    "reason": trouble.reason,
                }
                for trouble in status.troubles
            ],
        }

    @staticmethod
    def _now() -> float:
        return time.monotonic()


def _listening_options(config: ServerConfig) -> tuple[object, ...]:
    return config.host, config.port, config.uds, config.fd, config.backlog, config.socket_strategy


def _format(address: tuple[str, int]) -> str:
    host, port = address
    if port == 0:
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
