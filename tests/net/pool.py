"""A pool of the smallest workers there can be: each answers every connection with its name."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeAlias

from pounce.net.listeners import ListenerGroup
from pounce.net.socket_share import SharedSockets, adopt, share
from tests.waiting import PATIENCE

WORK_SECONDS = 0.0005
"""What a worker does for each connection. Queues form when it is slower than its clients."""

Address: TypeAlias = tuple[str, int]


class Pool:
    """Worker processes by their slots; those that are left in the end are killed."""

    def __init__(self, group: ListenerGroup) -> None:
        self.group = group
        self._workers: dict[int, tuple[SpawnProcess, Connection]] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in [*self._workers]:
            self.kill(slot)

    def prepare(self, slot: int, name: str) -> None:
        """Start a worker that has the sockets of a slot and does not accept yet."""
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        shared = share(self.group.sockets_for(slot))
        process = context.Process(target=run_worker, args=(shared, theirs, name))
        process.start()
        theirs.close()
        self._workers[slot] = process, pipe
        self._expect(slot, "prepared")

    def serve(self, slot: int) -> None:
        """Let connections in, and have the worker accept."""
        self.group.listen_slot(slot)
        self._workers[slot][1].send("serve")
        self._expect(slot, "ready")

    def _expect(self, slot: int, word: str) -> None:
        _, pipe = self._workers[slot]
        assert pipe.poll(PATIENCE)
        assert pipe.recv() == word

    def pid(self, slot: int) -> int:
        pid = self._workers[slot][0].pid
        assert pid is not None
        return pid

    def stop(self, slot: int) -> None:
        """Have the worker stop accepting, and wait for its end."""
        process, pipe = self._workers[slot]
        pipe.close()
        process.join(PATIENCE)
        assert process.exitcode == 0
        del self._workers[slot]
        process.close()

    def kill(self, slot: int) -> None:
        process, pipe = self._workers.pop(slot)
        pipe.close()
        process.kill()
        process.join()
        process.close()


def run_worker(shared: SharedSockets, pipe: Connection, name: str) -> None:
    sockets = adopt(shared)
    pipe.send("prepared")
    with contextlib.suppress(EOFError):
        pipe.recv()
        pipe.send("ready")
        while not pipe.poll():
            wait([pipe, *sockets])
            for sock in sockets:
                with contextlib.suppress(BlockingIOError):
                    answer(sock, name)
        pipe.recv()


def answer(listening: socket.socket, name: str) -> None:
    """Accepts one connection, and answers when it has asked."""
    connection, _ = listening.accept()
    with connection:
        connection.settimeout(PATIENCE)
        connection.recv(100)
        time.sleep(WORK_SECONDS)
        connection.sendall(name.encode())


def ask(address: Address) -> str:
    """The name of the worker that answers a new connection."""
    with begin(address) as client:
        return finish(client)


def begin(address: Address) -> socket.socket:
    """A new connection that has asked."""
    client = socket.create_connection(address, timeout=PATIENCE)
    client.sendall(b"?")
    return client


def finish(client: socket.socket) -> str:
    """The name of the worker that answers."""
    name = b""
    while part := client.recv(100):
        name += part
    assert name, "the connection ended without an answer"
    return name.decode()
