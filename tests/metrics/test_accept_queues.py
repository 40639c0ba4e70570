from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from pounce.metrics import accept_queues
from pounce.metrics.accept_queues import AcceptQueues, note_listeners
from pounce.shm.arena import Arena
from tests.metrics.arenas import LAYOUT, arena_with
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


@pytest.fixture
def arena() -> Iterator[Arena]:
    with arena_with(1, 2) as arena:
        yield arena


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    """Two sockets on one port, each for a worker."""
    sockets: list[socket.socket] = []
    port = 0
    for _ in range(2):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(9)
        port = sock.getsockname()[1]
        sockets.append(sock)
    yield sockets
    for sock in sockets:
        sock.close()


def test_one_worker_tells_of_the_sockets_of_all(arena: Arena, group: list[socket.socket]) -> None:
    for slot, place, sock in zip(arena.slots, (0, 1), group, strict=False):
        note_listeners(slot, LAYOUT, place, [sock])
    address = group[0].getsockname()
    queues = AcceptQueues(arena, group[:1])
    with socket.create_connection(address):
        wait_until(lambda: sum(each.length or 0 for each in queues()) == 1, "one is waiting")
        found = sorted(queues(), key=lambda each: each.slot or 0)
    assert [(each.address, each.slot, each.limit) for each in found] == [
        (address, 0, 9),
        (address, 1, 9),
    ]


def test_a_socket_that_several_have_belongs_to_no_slot(
    arena: Arena, group: list[socket.socket]
) -> None:
    for place in (0, 1):
        note_listeners(arena.slots[place], LAYOUT, place, [group[0]])
    assert [each.slot for each in AcceptQueues(arena, group[:1])()] == [None]


def test_sockets_of_other_programs_are_not_told_of(
    arena: Arena, group: list[socket.socket]
) -> None:
    note_listeners(arena.slots[0], LAYOUT, 0, [group[0]])
    assert [each.slot for each in AcceptQueues(arena, group)()] == [0]


def test_where_asking_is_forbidden_a_worker_tells_of_its_own(
    arena: Arena, group: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, sock in enumerate(group):
        note_listeners(arena.slots[place], LAYOUT, place, [sock])
    monkeypatch.setattr(accept_queues, "listening_sockets", lambda *_: None)
    assert AcceptQueues(arena, [group[1]])() == [(group[1].getsockname(), 1, 0, 9)]


def test_of_unix_sockets_nothing_is_told(arena: Arena) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        note_listeners(arena.slots[0], LAYOUT, 0, [sock])
        assert AcceptQueues(arena, [sock])() == []
