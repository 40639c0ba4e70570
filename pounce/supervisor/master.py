"""The master: one event loop around the pool's state machine.

It serves no traffic, and does not know the application, unless workers are threads or its lifespan
is to run here. Everything that happens (a signal, a message or the end of a worker, a command, a
deadline) is an input to the pool, whose actions are carried out at once; nothing here waits for a
worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pounce import logs
from pounce.asgi.types import ASGIApp
from pounce.config import ServerConfig
from pounce.errors import LifespanError
from pounce.lifecycle import LifecycleCollector
from pounce.net.listeners import ListenerGroup
from pounce.runtime import WorkerMode
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
from pounce.supervisor.collecting import collecting
from pounce.supervisor.control_commands import ControlCommands
from pounce.supervisor.crew import Crew, Ended
from pounce.supervisor.health_watch import HealthWatch
from pounce.supervisor.main_application import MainApplication
from pounce.supervisor.master_signals import MasterSignals
from pounce.supervisor.master_status import MasterStatus
from pounce.supervisor.measurements import Measurements
from pounce.supervisor.notify import Notifier
from pounce.supervisor.operator_servers import OperatorServers
from pounce.supervisor.pidfile import Pidfile
from pounce.supervisor.pool import Pool
from pounce.supervisor.pool_events import (
    GaveUp,
    PoolEvent,
    WorkerKilled,
    WorkerLost,
)
from pounce.supervisor.pool_log import log_event, log_in_flight
from pounce.supervisor.pool_settings import pool_settings
from pounce.supervisor.pool_status import PoolStatus
from pounce.supervisor.reload_course import ReloadCourse, ReloadRefused
from pounce.supervisor.slot_sockets import SlotSockets
from pounce.supervisor.spawner import make_spawner
from pounce.supervisor.takeover import Takeover
from pounce.supervisor.titles import set_master_title
from pounce.supervisor.upgrades import Upgrades
from pounce.supervisor.worker_record import STARTUP_FAILED
from pounce.supervisor.worker_side import explain
from pounce.sync_protocol import SyncApp
from pounce.worker.worker import CANCEL_GRACE

logger = logging.getLogger("pounce.error")


class Master:
    """Runs a pool of workers until it is told to stop.

    Args:
        config: The configuration of the first generation.
        listeners: Bound; the caller closes them.
        app_path: The import string, or
        app: the application itself, which the workers inherit by fork and which a reload cannot
            load again.
        mode: What workers are.
        main: The application in this process, where it is needed here: for threads, and where its
            lifespan runs here.
        reload_config: Reads the configuration again at a reload; None keeps the one there is.
        report_listening: Called with the bound addresses when all workers serve for the first time.
        notifier: Tells the service manager of reloads and of the end.
        pidfile: The one of this process.
        takeover: From the master that this one replaces.
        admin: Where the master's own server listens; None: it has none.
        measurements: Where workers count.
    """

    def __init__(
        self,
        config: ServerConfig,
        listeners: ListenerGroup,
        *,
        app_path: str | None,
        app: ASGIApp | None = None,
        mode: WorkerMode = WorkerMode.PROCESS,
        main: MainApplication | None = None,
        sync_app: SyncApp | None = None,
        collector: LifecycleCollector | None = None,
        reload_config: Callable[[], ServerConfig] | None = None,
        report_listening: Callable[[Sequence[tuple[str, int]]], None] | None = None,
        notifier: Notifier | None = None,
        pidfile: Pidfile | None = None,
        takeover: Takeover | None = None,
        admin: ListenerGroup | None = None,
        measurements: Measurements | None = None,
        version: str = "",
    ) -> None:
        self._listeners = listeners
        self._title = app_path or repr(app)
        self._main = main
        self._report_listening = report_listening
        self._notifier = notifier or Notifier(None)
        self._pidfile = pidfile
        self._takeover = takeover
        self._measurements = measurements
        self._timer: asyncio.TimerHandle | None = None
        self._done = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._stopped_at: float | None = None
        self._is_stopping = False
        self._taking_over: asyncio.Task[None] | None = None
        last_worker_id = 0 if measurements is None else measurements.shared.last_worker_id
        self._pool = Pool(pool_settings(config, mode), last_worker_id=last_worker_id)
        self._collecting = collecting(collector, measurements)
        self._crew = Crew(
            make_spawner(
                mode,
                app_path=app_path,
                app=app,
                sync_app=sync_app,
                collects=self._collecting is not None,
                main=main,
                measurements=measurements,
                close_inherited=self._close_inherited,
            ),
            measurements,
            self._collecting,
            receive=self._on_message,
            ended=self._on_end,
        )
        self._health = (
            HealthWatch(measurements, self._pool, self._crew.handles, self._do, mode)
            if measurements is not None
            else None
        )
        self._reloads = ReloadCourse(
            config,
            mode,
            read_config=reload_config,
            has_app_object=app is not None,
            notifier=self._notifier,
            generation=lambda: self._pool.snapshot().generation,
            noted=lambda result: measurements.count_reload(result) if measurements else None,
        )
        self.upgrades = self._make_upgrades(admin)
        if measurements is not None:
            measurements.shared.is_handed_over = lambda: self.upgrades.is_committed
        self._sockets = SlotSockets(
            listeners,
            tell_drain=self._tell_drain,
            is_handing_over=lambda: self.upgrades.is_handing_over,
            are_given_away=lambda: self.upgrades.is_committed,
        )
        status = MasterStatus(
            self._pool, self._health, listeners, self._reloads, self.upgrades, version
        )
        self._servers = OperatorServers(
            self._make_commands(status).handle,
            status,
            admin=admin,
            listeners=listeners,
            measurements=measurements,
            mode=mode,
        )
        self._signals = MasterSignals(
            self._pool,
            self._do,
            self.upgrades,
            stop=self.stop,
            reload=self.reload,
            reopen_logs=self._reopen_logs,
        )

    def _make_upgrades(self, admin: ListenerGroup | None) -> Upgrades:
        measurements = self._measurements
        return Upgrades(
            listeners=self._listeners,
            notifier=self._notifier,
            pidfile=self._pidfile,
            takeover=self._takeover,
            boot_timeout=lambda: self._reloads.config.timeout_worker_boot,
            is_calm=self._is_calm,
            reload=self.reload,
            leave=self._leave,
            admin=admin,
            arena=self._describe_arena,
            noted=lambda result: measurements.count_upgrade(result) if measurements else None,
        )

    def _make_commands(self, status: MasterStatus) -> ControlCommands:
        return ControlCommands(
            self._pool,
            self._do,
            self._reloads,
            self.upgrades,
            request_reload=self._request_reload,
            is_reload_upgrade=self._main is not None,
            status=status.report,
            stop=self.stop,
        )

    async def run(self) -> int:
        """Returns the program's exit code when the last worker is gone."""
        self._loop = asyncio.get_running_loop()
        set_master_title(self._title)
        self._signals.install()
        if self._takeover is None:
            await self._servers.open(self._reloads.config)
        if self._collecting is not None:
            self._collecting.start()
        keeping = [asyncio.ensure_future(self._notifier.keep_alive())]
        if self._measurements is not None:
            keeping.append(asyncio.ensure_future(self._measurements.shared.keep_swept()))
        try:
            if self._main is not None and not await self._start_main(self._main):
                return STARTUP_FAILED if self._pool.exit_code is None else self._pool.exit_code
            self._do(self._pool.start(self._now(), held=self._takeover is not None))
            if self._health is not None:
                self._health.start()
            await self._done.wait()
            if self._main is not None:
                await self._main.shut_down(max(self.seconds_left(), CANCEL_GRACE))
        finally:
            for task in keeping:
                task.cancel()
            if self._health is not None:
                self._health.stop()
            if self._taking_over is not None:
                self._taking_over.cancel()
            await self.upgrades.close()
            if self._timer is not None:
                self._timer.cancel()
            await self._servers.close()
            self._sockets.close()
            if self._collecting is not None:
                self._collecting.close()
        code = self._pool.exit_code or 0
        if not code:
            logger.info("stopped")
        return code

    async def _start_main(self, main: MainApplication) -> bool:
        """Whether the application has started before anybody asked for the end."""
        starting = asyncio.ensure_future(main.start_up())
        stopping = asyncio.ensure_future(self._done.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._done.is_set():
            main.cancel()
            starting.cancel()
            return False
        try:
            await starting
        except LifespanError as exc:
            log_event(GaveUp(reason=explain(exc), exit_code=STARTUP_FAILED))
            if self._takeover is not None:
                self._takeover.failed(explain(exc))
            return False
        return True

    def seconds_left(self) -> float:
        """How long a graceful stop may go on; all of the time while it has not begun."""
        seconds = self._reloads.config.timeout_graceful_shutdown
        if self._stopped_at is None:
            return seconds
        return seconds - max(0.0, self._now() - self._stopped_at)

    def stop(self, graceful: bool = True) -> None:
        """Ends the pool; a second time at once."""
        delay = 0.0
        if graceful and not self._pool.is_stopping:
            logger.info("shutting down")
            delay = self._reloads.config.shutdown_delay
        else:
            logger.warning("ending at once")
            if self._main is not None:
                self._main.cancel()
        begins = self._now() + delay
        if self._stopped_at is None or begins < self._stopped_at:
            self._stopped_at = begins
        self.upgrades.stop()
        self._do(self._pool.stop(self._now(), graceful))

    # What is asked for

    def reload(self) -> None:
        """Reads the configuration again and replaces all workers, or none."""
        if self.upgrades.is_under_way:
            self.upgrades.repeat_later(signal.SIGHUP)
        elif self._main is not None:
            # One interpreter cannot hold two versions of the code.
            self.upgrades.request("reload")
        else:
            with contextlib.suppress(ReloadRefused):
                self._request_reload()

    def _request_reload(self) -> None:
        """Raises `ReloadRefused`."""
        settings = self._reloads.prepare()
        self._do(self._pool.reload(self._now(), settings))

    def _reopen_logs(self) -> None:
        logs.reopen_log_files()
        self._crew.tell_all("reopen")

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

    def _on_end(self, ended: Ended) -> None:
        self._sockets.worker_ended(ended.worker_id)
        log_in_flight(ended.worker_id, ended.in_flight, is_asked_for=self._pool.is_stopping)
        self._sockets.steer_away_from(ended.worker_id, self._pool.snapshot().workers)
        self._do(self._pool.exited(ended.worker_id, ended.exit_code, self._now(), ended.last_words))

    def _announce(self, status: PoolStatus) -> None:
        """Says where the server listens, when as many workers serve as are wanted."""
        if sum(worker.state == "ready" for worker in status.workers) >= status.target:
            self._all_ready.set()
            if self._takeover is None and self._report_listening is not None:
                self._report_listening(self._listeners.addresses())

    # From one master to the next

    async def _take_over(self, takeover: Takeover) -> None:
        try:
            await self._serve_in_place_of(takeover)
        except Exception as exc:
            # The master before has it in its log as well, and ends this process.
            logger.exception("this process cannot take over")
            takeover.failed(str(exc))

    async def _serve_in_place_of(self, takeover: Takeover) -> None:
        """Serves when the master before lets go."""
        await takeover.wait_for_go()
        self._do(self._pool.release(self._now()))
        await self._all_ready.wait()
        target = self._pool.snapshot().target
        await takeover.complete(self._listeners, target, self._pidfile)
        if self._measurements is not None:
            self._measurements.shared.adopt()
        await self._servers.take_over(self._reloads.config)
        if self._report_listening is not None:
            self._report_listening(self._listeners.addresses())
        takeover.done()

    def _describe_arena(self) -> Mapping[str, Any] | None:
        if self._measurements is None:
            return None
        return self._measurements.shared.describe(self._pool.last_worker_id)

    def _is_calm(self) -> bool:
        """Whether the sockets can be handed over: none is coming or going."""
        status = self._pool.snapshot()
        is_reloading = status.reload_under_way is not None or status.reload_queued
        return not is_reloading and self._sockets.is_calm(status.workers)

    async def _leave(self) -> None:
        """Another master serves now."""
        await self._servers.close()
        self._stopped_at = self._now()
        self._do(self._pool.leave(self._now()))

    # Actions

    def _do(self, actions: Sequence[Action]) -> None:
        """Carries actions out, and what comes of them, and sets the clock for the next deadline."""
        queue = list(actions)
        while queue:
            queue.extend(self._carry_out(queue.pop(0)))
        status = self._pool.snapshot()
        if self._measurements is not None:
            self._measurements.set_workers_wanted(status.target)
        if not self._all_ready.is_set():
            self._announce(status)
        self._reloads.forget_unless_queued(status)
        if status.phase in ("lingering", "stopping") and not self._is_stopping:
            self._is_stopping = True
            if self._takeover is None or self._takeover.is_granted:
                self._notifier.stopping()
        if self._takeover is not None and self._taking_over is None and self._pool.is_prepared:
            self._taking_over = asyncio.ensure_future(self._take_over(self._takeover))
        if status.phase in ("stopping", "leaving"):
            # Unless another master has them, clients are refused from here on: nobody would
            # accept them.
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
                self._tell_serve(worker_id)
            case TellDrain():
                if not self._sockets.puts_off(action):
                    self._tell_drain(action.worker_id, action.seconds, gentle=action.gentle)
            case Signal(worker_id, number):
                self._crew.signal(worker_id, number)
            case OpenSlot(slot):
                self._sockets.open(slot)
            case CloseSlot(slot):
                self._sockets.give_up(slot, self._pool.snapshot().workers)
            case Report(event):
                self._reloads.follow(event)
                self._note(event)
                log_event(event)
        return ()

    def _spawn(self, order: Spawn) -> Sequence[Action]:
        now = self._now()
        config = self._reloads.config_of(order.generation)
        try:
            pid = self._crew.start(order, config, self._sockets.for_worker(order.slot))
        except Exception as exc:  # also what pickling makes of the caller's own objects
            return self._pool.spawn_failed(order.worker_id, str(exc), now)
        return self._pool.spawned(order.worker_id, pid, now)

    def _close_inherited(self, ours: socket.socket, slot: int) -> None:
        """In a forked worker: leaves the master's loop and sockets alone."""
        asyncio._set_running_loop(None)
        signal.set_wakeup_fd(-1)
        for name in ("SIGTERM", "SIGUSR1"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        ours.close()
        self._crew.close_lines()
        self.upgrades.close_copies()
        if self._takeover is not None:
            self._takeover.close_copies()
        self._listeners.close_others(slot)

    def _tell_serve(self, worker_id: int) -> None:
        for worker in self._pool.snapshot().workers:
            if worker.worker_id == worker_id and worker_id in self._crew.handles:
                # Before its worker accepts, so that what comes meanwhile waits for it.
                self._sockets.listen(worker.slot)
        self._crew.tell(worker_id, "serve")

    def _tell_drain(self, worker_id: int, seconds: float, *, gentle: bool = True) -> None:
        self._crew.tell(worker_id, "drain", gentle=gentle, seconds=seconds)

    def _note(self, event: PoolEvent) -> None:
        """What follows from what has happened in the pool, besides what the pool does."""
        match event:
            case WorkerLost(worker_id=worker_id):
                self._sockets.worker_ended(worker_id)
            case GaveUp(reason=reason) if self._takeover is not None:
                self._takeover.failed(reason)
            case WorkerKilled(slot=slot, recycled_for=reason) if reason:
                # What waits in its queue has to wait for the successor; others need not.
                self._sockets.steer_away(slot)
        if self._measurements is not None:
            self._measurements.count(event)

    @staticmethod
    def _now() -> float:
        return time.monotonic()
