"""What a worker does under a master, be it a process or a thread.

It prepares, says so, and waits to be told to serve and, one day, to drain. A worker whose master is
gone drains and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import traceback
from collections.abc import Sequence
from typing import Any, Final

from pounce.config import ServerConfig
from pounce.errors import PounceError
from pounce.net.tls import create_context
from pounce.supervisor.channel import Channel, fitting
from pounce.supervisor.worker_record import STARTUP_FAILED
from pounce.worker.event_ring import RingCollector
from pounce.worker.life import Counting, WorkerLife

logger = logging.getLogger("pounce.error")

REPORT_PERIOD: Final = 0.5
"""Seconds between two reports of what the worker counts."""


class WorkerSide:
    """The worker's end of the line to its master.

    Args:
        config: That of its generation.
        worker_id: Its number.
        sockets: To listen on; they are the worker's own, and it closes them.
        line: Its end of the channel.
    """

    def __init__(
        self,
        config: ServerConfig,
        worker_id: int,
        sockets: Sequence[socket.socket],
        line: socket.socket,
    ) -> None:
        self._config = config
        self._worker_id = worker_id
        self._sockets = sockets
        self._line = line
        self._life: WorkerLife | None = None
        self._serve = asyncio.Event()
        self._drain = asyncio.Event()
        self._gentle = True
        self._is_prepared = False
        self._seconds = config.timeout_graceful_shutdown
        self.exit_code = 0

    def seconds_left(self) -> float:
        """How long a graceful stop may go on."""
        return self._seconds if self._life is None else self._life.seconds_left()

    async def run(self) -> None:
        """From the startup to the end."""
        channel = Channel(self._line, self._receive, self._master_is_gone)
        self._begun()
        try:
            # Root may be the only one who can read the key.
            context = create_context(self._config) if self._config.is_tls else None
            life = self._life = self._load(context)
            await life.prepare()
        except Exception as exc:
            self._say_why(channel, exc)
            return
        self._is_prepared = True
        self._prepared()
        try:
            channel.send("prepared")
            await self._until_told(self._serve)
            if not self._drain.is_set():
                await self._until_drained(channel, life)
        except PounceError as exc:
            self._say_why(channel, exc)
        except asyncio.CancelledError:
            await life.abandon()
            raise
        finally:
            await life.shut_down_lifespan()
            life.close()
            channel.close()

    async def _until_drained(self, channel: Channel, life: WorkerLife) -> None:
        await life.serve(self._sockets)
        channel.send("ready")
        reporting = asyncio.get_running_loop().create_task(self._report(channel, life))
        await self._drain.wait()
        await life.stop_accepting()
        self.close_sockets()
        await life.drain(self._seconds, gentle=self._gentle)
        reporting.cancel()

    def _load(self, context: ssl.SSLContext | None) -> WorkerLife:
        """Brings the application and its worker's life together."""
        raise NotImplementedError

    def _begun(self) -> None:
        """The loop runs."""

    def _prepared(self) -> None:
        """The application has started."""

    def _say_why(self, channel: Channel, exc: Exception) -> None:
        """The startup failed: the master logs why, and is not to try again for ever."""
        self.exit_code = STARTUP_FAILED
        channel.send("failed", message=fitting(explain(exc)))
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

    def _leave(self) -> None:
        self._gentle = False
        self._drain.set()

    def _master_is_gone(self) -> None:
        if not self._drain.is_set():
            logger.warning("the master is gone: worker %d leaves", self._worker_id)
        self._leave()

    def _reopen_logs(self) -> None:
        if self._life is not None:
            self._life.reopen_logs()

    def close_sockets(self) -> None:
        """Only this worker's copies: the master goes on listening with its own."""
        for sock in {id(each): each for each in self._sockets}.values():
            if sock.fileno() != -1:
                sock.close()


def ring_collector(counting: Counting | None) -> RingCollector | None:
    """What takes the lifecycle events for the master."""
    if counting is None:
        return None
    return RingCollector(counting.slot.ring_writer(), counting.layout.ring_size)


def explain(exc: Exception) -> str:
    """Why a startup failed; what the application raised has its traceback."""
    if not isinstance(exc, PounceError):
        return "".join(traceback.format_exception(exc)).rstrip()
    text = str(exc)
    if exc.__cause__ is not None:
        text += "\n" + "".join(traceback.format_exception(exc.__cause__)).rstrip()
    return text
