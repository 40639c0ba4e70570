from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import pytest

from pounce.net.socket_share import SharedSockets, adopt, duplicate, share
from pounce.net.sockets import close_sockets


def look(shared: SharedSockets, pipe: Connection) -> None:
    """What a worker finds: its first descriptor, where each socket is, and what is wrong."""
    sockets = adopt(shared)
    faults = [
        sock.fileno()
        for sock in sockets
        if sock.get_inheritable() or os.get_blocking(sock.fileno())
    ]
    objects = [sockets.index(sock) for sock in sockets]
    pipe.send(([sock.getsockname() for sock in sockets], objects, faults))
    close_sockets(sockets)
    pipe.send([sock.fileno() for sock in sockets])


def bound() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_is_spawned_gets_the_list_with_its_repeats(method: str) -> None:
    context = multiprocessing.get_context(method)
    with bound() as first, bound() as second:
        twin = socket.socket(fileno=first.fileno())
        try:
            sockets = [first, second, first, twin]
            ours, theirs = context.Pipe()
            process = context.Process(target=look, args=(share(sockets), theirs))  # type: ignore[attr-defined]
            process.start()
            theirs.close()
            assert ours.poll(60)
            names, objects, faults = ours.recv()
            closed = ours.recv()
            process.join(60)
            process.close()
            ours.close()
        finally:
            twin.detach()
        assert names == [sock.getsockname() for sock in (first, second, first, first)]
    assert objects == [0, 1, 0, 0]
    assert faults == []
    assert closed == [-1] * 4


FORK = """
import multiprocessing, warnings
from tests.net.test_socket_share import bound, look
from pounce.net.socket_share import share

context = multiprocessing.get_context("fork")
sock = bound()
ours, theirs = context.Pipe()
process = context.Process(target=look, args=(share([sock, sock]), theirs))
process.start()
names, objects, faults = ours.recv()
process.join()
print(names == [sock.getsockname()] * 2, objects, faults, process.exitcode)
"""


def test_a_worker_made_by_fork_gets_the_list_as_well() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout == "True [0, 0] [] 0\n"


def test_duplicates_are_closed_by_themselves() -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
        copies = duplicate([one, two, one])
        assert copies[0] is copies[2]
        assert copies[0].getsockname() == one.getsockname()
        assert not copies[0].getblocking()
        assert not {one.fileno(), two.fileno()} & {copy.fileno() for copy in copies}
        for copy in copies:
            copy.close()
        assert one.fileno() != -1
