"""The workers that run, from their start to their end: their handles, and what they count."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pounce.config import ServerConfig
from pounce.shm.black_box import BlackBoxRecord
from pounce.supervisor.actions import Spawn
from pounce.supervisor.collecting import Collecting
from pounce.supervisor.measurements import Measurements
from pounce.supervisor.spawner import Spawner
from pounce.supervisor.worker_handle import Receive, WorkerHandle


class Ended(NamedTuple):
    """A worker that has come to its end."""

    worker_id: int
    exit_code: int
    """Negative for a signal."""
    last_words: str
    """Why it could not start, if it said so."""
    in_flight: Sequence[BlackBoxRecord]
    """What it was working on, the oldest first."""


class Crew:
    """The workers of one master.

    Args:
        spawner: Starts them.
        measurements: Where they count.
        collecting: Takes the lifecycle events that they leave.
        receive: Gets what they say.
        ended: Called for each that has ended, after all that it has said.
    """

    def __init__(
        self,
        spawner: Spawner,
        measurements: Measurements | None,
        collecting: Collecting | None,
        *,
        receive: Receive,
        ended: Callable[[Ended], None],
    ) -> None:
        self._spawner = spawner
        self._measurements = measurements
        self._collecting = collecting
        self._receive = receive
        self._ended = ended
        self._handles: dict[int, WorkerHandle] = {}

    @property
    def handles(self) -> Mapping[int, WorkerHandle]:
        """Of those that have not ended, by worker id; it changes with them."""
        return self._handles

    def start(self, order: Spawn, config: ServerConfig, sockets: Sequence[socket.socket]) -> int:
        """Starts a worker; its pid, or what stands for that.

        Raises:
            Exception: It cannot be started; also what pickling makes of the caller's own objects.
        """
        try:
            if self._measurements is not None:
                self._measurements.assign(order.worker_id, order.generation, order.slot, sockets)
            handle = self._spawner.start(order, config, sockets, self._hear)
        except BaseException:
            if self._measurements is not None:
                self._measurements.ended(order.worker_id)
            raise
        self._handles[order.worker_id] = handle
        loop = asyncio.get_running_loop()
        loop.add_reader(handle.sentinel, self._on_end, order.worker_id)
        return handle.pid

    def tell(self, worker_id: int, kind: str, **fields: Any) -> None:
        """Sends a message to a worker, if it has not ended."""
        if worker_id in self._handles:
            self._handles[worker_id].tell(kind, **fields)

    def tell_all(self, kind: str) -> None:
        """Sends a message to every worker."""
        for handle in self._handles.values():
            handle.tell(kind)

    def signal(self, worker_id: int, number: signal.Signals) -> None:
        """Sends SIGTERM or SIGKILL to a worker, if it has not ended."""
        if worker_id in self._handles:
            self._handles[worker_id].signal(number)

    def close_lines(self) -> None:
        """In a forked worker: leaves the others alone."""
        for handle in self._handles.values():
            handle.close_line()

    def _hear(self, worker_id: int, message: dict[str, Any]) -> None:
        if message["kind"] != "failed":
            self._receive(worker_id, message)
        elif worker_id in self._handles:
            self._handles[worker_id].last_words = message["message"]

    def _on_end(self, worker_id: int) -> None:
        handle = self._handles[worker_id]
        asyncio.get_running_loop().remove_reader(handle.sentinel)
        code = handle.end()
        del self._handles[worker_id]
        in_flight: Sequence[BlackBoxRecord] = ()
        if self._measurements is not None:
            if self._collecting is not None:
                self._collecting.drain(self._measurements.slot_of(worker_id))
            in_flight = self._measurements.ended(worker_id)
        self._ended(Ended(worker_id, code, handle.last_words, in_flight))
