"""The program replaced by a new process of itself, while it serves.

The new process is prepared to its end beside the old one. Until then, and if it fails, the old one
serves as if nothing had happened; when it serves, the old one drains and leaves.

Somebody may know the program by the pid of the old process. A service manager is told of the new
one, and who reads a pidfile finds it there; for all others the old process stays, as the `keeper`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from pounce.net import handover
from pounce.net.listeners import ListenerGroup
from pounce.supervisor.control_messages import LastReload
from pounce.supervisor.keeping import become_keeper, hold_signals_of_loop, open_line, tell_keeper
from pounce.supervisor.notify import Notifier
from pounce.supervisor.origin import ORIGIN
from pounce.supervisor.pidfile import Pidfile
from pounce.supervisor.successor import Successor, SuccessorFailed
from pounce.supervisor.takeover import VERSION, Takeover

logger = logging.getLogger("pounce.error")

MARGIN: Final = 10.0
"""Seconds for the new process beyond those that its workers may take."""
COMMIT_PATIENCE: Final = 30.0
"""Seconds from "take over" to "done"."""
_CALM_CHECK: Final = 0.05


class Upgrades:
    """The upgrades of one process: any number that fail, and one that succeeds.

    Args:
        listeners: The sockets that are handed over.
        notifier: Tells the service manager.
        pidfile: The one of this process.
        takeover: How this process has taken over itself, if it has.
        boot_timeout: How long a worker may take to be prepared, in seconds.
        is_calm: Whether an upgrade may begin: no slot comes or goes.
        reload: Called after an upgrade that failed, when a reload was asked for meanwhile.
        leave: Called when the new process serves.
        admin: The sockets of the master's own server, if there is one.
        arena: Describes the shared memory, which is handed over.
        noted: Called with the result of each.
    """

    def __init__(
        self,
        *,
        listeners: ListenerGroup,
        notifier: Notifier,
        pidfile: Pidfile | None,
        takeover: Takeover | None,
        boot_timeout: Callable[[], float],
        is_calm: Callable[[], bool],
        reload: Callable[[], None],
        leave: Callable[[], Awaitable[None]],
        admin: ListenerGroup | None = None,
        arena: Callable[[], Mapping[str, Any] | None] = lambda: None,
        noted: Callable[[str], None] = lambda result: None,
    ) -> None:
        self._listeners = listeners
        self._notifier = notifier
        self._boot_timeout = boot_timeout
        self._is_calm = is_calm
        self._reload = reload
        self._leave = leave
        self._admin = admin
        self._arena = arena
        self._noted = noted
        self._keeper = None if takeover is None else takeover.keeper
        self._needs_keeper = not notifier.is_active and pidfile is None and self._keeper is None
        self._keeper_line: int | None = None
        """What this process reads as the keeper."""
        self._task: asyncio.Task[None] | None = None
        self._successor: Successor | None = None
        self._waiters: list[asyncio.Future[dict[str, Any]]] = []
        self._to_repeat: dict[int, None] = {}
        """Signals that came during an upgrade, for whoever serves after it."""
        self._is_stopping = False
        self._is_undoing = False
        """Whether the new process is being ended, which is not to be cut short."""
        self.is_handing_over = False
        """Whether the new process counts on the sockets as they are: none may come, go or begin to
        listen here."""
        self.is_committed = False
        """Whether the new process was told to take over. The sockets are its own from then on."""
        self.is_over = False
        """Whether it has."""
        self.last: LastReload | None = None
        """What became of the last one."""

    @property
    def is_under_way(self) -> bool:
        return self._task is not None

    def request(self, reason: str) -> None:
        """Begins an upgrade, or has it follow the one that is under way."""
        if self._is_stopping:
            self._answer("failed", "the server stops")
        elif not ORIGIN.is_repeatable:
            self._note("failed", "this program cannot be started again by itself")
            logger.warning("%s: this program cannot be started again by itself", reason)
        elif self.is_under_way:
            self.repeat_later(signal.SIGUSR2)
        else:
            self._task = asyncio.ensure_future(self._run(reason))

    def outcome(self) -> asyncio.Future[dict[str, Any]]:
        """What becomes of the next one to end: `result` and `reason`, as in `last`."""
        waiter: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def repeat_later(self, number: signal.Signals) -> None:
        """A signal that cannot be obeyed during an upgrade is obeyed after it."""
        logger.info("%s: an upgrade is under way; this one follows", number.name)
        self._to_repeat[number] = None

    def stop(self) -> None:
        """This process stops, and the new one with it."""
        self._is_stopping = True
        if self.is_over or self._task is None:
            return
        if self.is_committed and self._successor is not None:
            self._successor.signal(signal.SIGTERM)
        elif not self._is_undoing:
            self._task.cancel()

    def kill(self) -> None:
        """The same when this process is about to end without a word, which the new one would take
        for its turn."""
        if not self.is_over and self._successor is not None:
            self._successor.signal(signal.SIGKILL)

    async def close(self) -> None:
        """To be called in the end, before the event loop and its signal handlers are gone."""
        self.stop()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.is_over and self._needs_keeper:
            await hold_signals_of_loop()

    def become_keeper_if_needed(self) -> None:
        """The very last step of this process. Does not return where the new one is known to
        somebody by the pid of this one."""
        if self.is_over and self._keeper_line is not None:
            assert self._successor is not None
            become_keeper(self._successor.pid, self._keeper_line)

    def forward(self, number: int) -> None:
        """Passes a signal on to the process that has taken over, where it was meant for that."""
        is_of_terminal = number == signal.SIGINT and (os.isatty(0) or os.isatty(2))
        if self.is_over and self._needs_keeper and not is_of_terminal:
            assert self._successor is not None
            self._successor.signal(number)

    def close_copies(self) -> None:
        """In a forked worker: leaves what belongs to the master alone."""
        if self._successor is not None and not self.is_over:
            self._successor.close_copies()

    # One upgrade

    async def _run(self, reason: str) -> None:
        try:
            await self._until_calm(reason)
            logger.info("upgrade (%s): starting a new process", reason)
            self._notifier.reloading("starting a new process")
            await self._attempt()
        except SuccessorFailed as failure:
            self._roll_back(str(failure))
        except asyncio.CancelledError:
            self._note("failed", "the server stops")
        except Exception as error:
            logger.exception("an upgrade ends with an error")
            self._roll_back(str(error))
        finally:
            self._task = None
        if not self.is_over and not self._is_stopping:
            self._repeat_here()

    async def _until_calm(self, reason: str) -> None:
        if not self._is_calm():
            logger.info("upgrade (%s): waits until no worker comes or goes", reason)
        while True:
            if self._is_calm():
                return
            await asyncio.sleep(_CALM_CHECK)

    async def _attempt(self) -> None:
        began = time.monotonic()
        seconds = self._boot_timeout() + MARGIN
        line = self._keeper
        if self._needs_keeper:
            self._keeper_line, line = open_line()
        try:
            self.is_handing_over = True
            state = self._listeners.hand_over()
            admin = None if self._admin is None else self._admin.hand_over()
            fds = handover.descriptors(state) + ([] if line is None else [line])
            fds += [] if admin is None else handover.descriptors(admin)
            successor = Successor.start(fds, self._notifier.environment_of_successor())
            self._successor = successor
            tell_keeper(self._keeper, "next", successor.pid)
            async with _time_limit(seconds, "prepared"):
                await successor.give(
                    {
                        "version": VERSION,
                        "listeners": state,
                        "keeper": line,
                        "admin": admin,
                        "arena": self._arena(),
                    }
                )
                await successor.expect("prepared")
            self.is_committed = True
            # Before the new one says that it is ready, as nobody else is believed.
            self._notifier.main_pid(successor.pid)
            successor.tell("take over")
            async with _time_limit(COMMIT_PATIENCE, "ready"):
                await successor.expect("done")
        except BaseException:
            await self._undo()
            raise
        finally:
            if self._needs_keeper and line is not None:
                os.close(line)
        self.is_over = True
        self._listeners.disclaim_files()
        if self._admin is not None:
            self._admin.disclaim_files()
        self._note("succeeded", None)
        logger.info(
            "upgrade: process %d serves, after %.2f s", successor.pid, time.monotonic() - began
        )
        self._notifier.close()  # it speaks for the service now
        await self._leave()
        for number in self._to_repeat:
            successor.signal(number)
        successor.let_go()

    async def _undo(self) -> None:
        self._is_undoing = True
        if self._successor is not None:
            await self._successor.end()
            self._successor = None
        self._is_undoing = False
        if self.is_committed:
            self._notifier.main_pid(os.getpid())
        self.is_committed = self.is_handing_over = False
        tell_keeper(self._keeper, "next", 0)
        if self._keeper_line is not None:
            os.close(self._keeper_line)
            self._keeper_line = None

    def _roll_back(self, reason: str) -> None:
        self._note("failed", reason)
        logger.error("upgrade failed, this process goes on: %s", reason)
        self._notifier.ready("serving; the last upgrade failed")

    def _note(self, result: str, reason: str | None) -> None:
        self._noted(result)
        self.last = {"result": result, "reason": reason, "at": time.time()}
        self._answer(result, reason)

    def _answer(self, result: str, reason: str | None) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result({"result": result, "reason": reason})

    def _repeat_here(self) -> None:
        numbers, self._to_repeat = self._to_repeat, {}
        # An upgrade reads everything again, so that it is a reload as well.
        if signal.SIGUSR2 in numbers:
            self.request("asked for meanwhile")
        elif numbers:
            self._reload()


@contextlib.asynccontextmanager
async def _time_limit(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise SuccessorFailed(f"it was not {what} within {seconds:g} s") from None
