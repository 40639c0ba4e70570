from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pounce.net import listen_queue
from pounce.net.listen_queue import handshakes, listening_sockets, queue_length
from tests.waiting import wait_until

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A bound socket that does not listen."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as sock:
        try:
            sock.bind((request.param, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        yield sock


@pytest.fixture
def clients(server: socket.socket) -> Iterator[list[socket.socket]]:
    """Three clients, connected when the server listens; closed in the end."""
    made = [socket.socket(server.family) for _ in range(3)]
    yield made
    for client in made:
        client.close()


def connect(clients: list[socket.socket], server: socket.socket) -> None:
    for client in clients:
        client.settimeout(5)
        client.connect(server.getsockname())


@needs_linux
def test_connections_that_wait_to_be_accepted_are_counted(
    server: socket.socket, clients: list[socket.socket]
) -> None:
    assert queue_length(server) is None
    server.listen(7)
    assert queue_length(server) == (0, 7)
    connect(clients, server)
    wait_until(lambda: queue_length(server) == (3, 7), "the connections arrived")
    server.accept()[0].close()
    assert queue_length(server) == (2, 7)


@needs_linux
def test_handshakes_under_way_are_told_until_they_end(
    server: socket.socket, clients: list[socket.socket]
) -> None:
    # The kernel then waits for the first byte before it takes a handshake for finished.
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    server.listen(7)
    assert handshakes(server) == frozenset()
    connect(clients, server)
    begun = handshakes(server)
    assert begun is not None
    assert len(begun) == 3
    assert queue_length(server) == (0, 7)
    clients[0].send(b"x")
    wait_until(lambda: queue_length(server) == (1, 7), "the connection arrived")
    left = handshakes(server)
    assert left is not None
    assert len(left) == 2
    assert left < begun


@needs_linux
def test_handshakes_of_other_ports_are_not_counted(
    server: socket.socket, clients: list[socket.socket]
) -> None:
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    server.listen(7)
    connect(clients, server)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert handshakes(other) == frozenset()


@needs_linux
def test_more_handshakes_than_one_answer_of_the_kernel_holds(server: socket.socket) -> None:
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    server.listen(1024)
    clients = [socket.socket(server.family) for _ in range(400)]
    try:
        connect(clients, server)
        begun = handshakes(server)
    finally:
        for client in clients:
            client.close()
    assert begun is not None
    assert len(begun) == 400


def test_unix_sockets_have_no_queue_that_could_be_asked_for() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert queue_length(sock) is None


@pytest.mark.parametrize("answer", ["refused", "error message", "silence"])
def test_a_system_that_does_not_tell_is_taken_at_its_word(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    class Netlink:
        def __init__(self, *_: object) -> None:
            if answer == "refused":
                raise PermissionError

        def __enter__(self) -> Netlink:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def sendto(self, *_: object) -> None:
            pass

        def recv(self, *_: object) -> bytes:
            if answer == "silence":
                raise BlockingIOError
            # struct nlmsghdr with NLMSG_ERROR, and -ENOENT: the module is not there
            header = listen_queue._HEADER.pack(20, 2, 0, 1, 0)
            return header + (-2).to_bytes(4, sys.byteorder, signed=True)

    with socket.create_server(("127.0.0.1", 0)) as sock, monkeypatch.context() as patch:
        patch.setattr(listen_queue.socket, "socket", Netlink)
        assert handshakes(sock) is None


def test_other_systems_do_not_tell(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    server.listen(1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert queue_length(server) is None
    assert handshakes(server) is None


@needs_linux
def test_whoever_asks_is_told_of_all_sockets_on_a_port(
    server: socket.socket, clients: list[socket.socket]
) -> None:
    host, port = server.getsockname()[:2]
    assert listening_sockets(server.family, port) == []
    server.listen(7)
    connect(clients, server)
    wait_until(lambda: queue_length(server) == (3, 7), "the connections arrived")
    inode = os.fstat(server.fileno()).st_ino
    assert listening_sockets(server.family, port) == [(inode, host, port, (3, 7))]


def test_of_unix_sockets_nothing_is_told() -> None:
    assert listening_sockets(socket.AF_UNIX, 1) is None


@needs_linux
def test_listening_sockets_are_not_told_where_asking_is_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: Any) -> Any:
        raise PermissionError

    monkeypatch.setattr(listen_queue.socket, "socket", forbidden)
    assert listening_sockets(socket.AF_INET, 80) is None
