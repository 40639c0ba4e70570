from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce.addresses import Address, InheritedAddress, TCPAddress, UnixAddress
from pounce.errors import BindError
from pounce.net import reuseport_listener, steering
from pounce.net.listeners import ListenerGroup
from pounce.net.sockets import bind_beside
from pounce.net.unix_sockets import FileAccess
from tests.net.reuse_port import arrivals
from tests.waiting import wait_until

MakeGroup = Callable[..., ListenerGroup]

ANY_PORT = TCPAddress("127.0.0.1", 0)

needs_steering = pytest.mark.skipif(
    not steering.is_supported(), reason="here all slots share a socket"
)


@pytest.fixture
def make_group() -> Iterator[MakeGroup]:
    """Makes groups, which are closed in the end."""
    made: list[ListenerGroup] = []

    def make(*addresses: Address, slots: int = 2, **options: Any) -> ListenerGroup:
        made.append(ListenerGroup(addresses, **{"backlog": 64, **options}))
        for slot in range(slots):
            made[-1].open_slot(slot)
        return made[-1]

    yield make
    for group in made:
        group.close_all()


def answers_at(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


# Addresses


@pytest.mark.parametrize("strategy", ["auto", "shared"])
def test_all_slots_and_families_have_one_port(make_group: MakeGroup, strategy: str) -> None:
    group = make_group(TCPAddress("", 0), slots=3, strategy=strategy)
    ports = {port for _, port in group.addresses()}
    assert len(ports) == 1
    assert 0 not in ports
    for slot in range(3):
        assert {sock.getsockname()[1] for sock in group.sockets_for(slot)} == ports
        families = [sock.family for sock in group.sockets_for(slot)]
        assert len(families) == len({*families})


def test_several_addresses_of_all_kinds_are_bound(
    make_group: MakeGroup, short_tmp_path: Path
) -> None:
    path = short_tmp_path / "s"
    inherited = socket.create_server(("127.0.0.1", 0))
    address = inherited.getsockname()
    fd = inherited.detach()
    group = make_group(
        ANY_PORT,
        UnixAddress(str(path)),
        InheritedAddress(fd),
        ANY_PORT,
        access=FileAccess(0o600),
    )
    (host, port), *others = group.addresses()
    assert (host, port != 0) == ("127.0.0.1", True)
    assert others == [(str(path), 0), address]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [sock.family for sock in group.sockets_for(1)] == [
        socket.AF_INET,
        socket.AF_UNIX,
        socket.AF_INET,
    ]
    group.close_all()
    assert not path.exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@needs_steering
def test_every_slot_has_its_own_tcp_sockets_and_shares_all_others(
    make_group: MakeGroup, short_tmp_path: Path
) -> None:
    group = make_group(ANY_PORT, UnixAddress(str(short_tmp_path / "s")))
    (tcp, unix), (other_tcp, other_unix) = (group.sockets_for(slot) for slot in (0, 1))
    assert tcp is not other_tcp
    assert unix is other_unix


def test_shared_sockets_are_the_same_objects_for_all(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT, strategy="shared")
    assert group.sockets_for(0) == group.sockets_for(1)
    assert group.sockets_for(0)[0] is group.sockets_for(1)[0]


def test_auto_is_shared_where_connections_cannot_be_steered(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "is_supported", lambda: False)
    group = make_group(ANY_PORT)
    assert group.sockets_for(0) == group.sockets_for(1)


def test_reuseport_is_refused_where_it_means_something_else(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BindError, match=r"^the socket strategy reuseport needs Linux$"):
        make_group(ANY_PORT, strategy="reuseport")


@pytest.mark.parametrize("strategy", ["auto", "shared"])
def test_two_names_of_one_address_are_bound_once(
    make_group: MakeGroup, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    real = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **options: Any) -> Any:
        return real("127.0.0.1" if host == "name" else host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    group = make_group(TCPAddress("127.0.0.1", port), TCPAddress("name", port), strategy=strategy)
    assert group.addresses() == [("127.0.0.1", port)]
    group.listen_slot(0)
    group.listen_slot(1)


def test_one_bad_address_leaves_nothing_bound(make_group: MakeGroup, short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    with pytest.raises(BindError, match=r"^192\.0\.2\.1 is not an address of this machine$"):
        make_group(UnixAddress(str(path)), ANY_PORT, TCPAddress("192.0.2.1", 1))
    assert not path.exists()


def test_a_port_in_use_is_named_whatever_its_holder_would_share(make_group: MakeGroup) -> None:
    first = make_group(ANY_PORT)
    first.listen_slot(0)
    [(host, port)] = first.addresses()
    with pytest.raises(BindError, match=rf"^port {port} on 127\.0\.0\.1 is in use$"):
        make_group(TCPAddress(host, port))


# Slots


def test_nobody_is_let_in_before_a_slot_listens(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT)
    [address] = group.addresses()
    assert not answers_at(address)
    group.listen_slot(1)
    assert answers_at(address)


def test_slots_are_known_by_their_numbers(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT)
    assert group.slots == [0, 1]
    with pytest.raises(ValueError, match=r"^slot 1 is open$"):
        group.open_slot(1)
    for call in (group.sockets_for, group.listen_slot, group.steer_away, group.retire_slot):
        with pytest.raises(KeyError):
            call(2)
    group.retire_slot(0).close()
    assert group.slots == [1]
    with pytest.raises(KeyError):
        group.sockets_for(0)


@pytest.mark.parametrize("strategy", ["auto", "shared"])
def test_a_slot_leaves_and_another_comes(make_group: MakeGroup, strategy: str) -> None:
    group = make_group(ANY_PORT, TCPAddress("127.0.0.1", 0), strategy=strategy)
    for slot in (0, 1):
        group.listen_slot(slot)
    departure = group.retire_slot(0)
    wait_until(departure.is_quiet, "the slot was quiet")
    departure.close()
    group.open_slot(0)
    group.listen_slot(0)
    for number, address in enumerate(group.addresses()):
        sockets = list(dict.fromkeys(group.sockets_for(slot)[number] for slot in (0, 1)))
        assert arrivals(sockets, 40) == {*sockets}
        assert answers_at(address)


@needs_steering
def test_a_slot_that_cannot_be_opened_leaves_no_half_of_it(
    make_group: MakeGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make_group(TCPAddress("127.0.0.1", 0), TCPAddress("127.0.0.2", 0))
    bound: list[socket.socket] = []

    def bind(family: int, address: Any) -> socket.socket:
        if bound:
            raise BindError("no more")
        bound.append(bind_beside(family, address))
        return bound[0]

    with monkeypatch.context() as patch:
        patch.setattr(reuseport_listener, "bind_beside", bind)
        with pytest.raises(BindError, match=r"^no more$"):
            group.open_slot(2)
    assert group.slots == [0, 1]
    group.open_slot(2)
    assert len(group.sockets_for(2)) == 2


def test_queue_lengths_are_told_for_every_socket(
    make_group: MakeGroup, short_tmp_path: Path
) -> None:
    path = short_tmp_path / "s"
    group = make_group(ANY_PORT, UnixAddress(str(path)))
    for slot in (0, 1):
        group.listen_slot(slot)
    tcp, unix = group.addresses()
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(tcp, timeout=5))

        def waiting() -> int:
            return sum(queue.length or 0 for queue in group.queue_lengths())

        if sys.platform == "linux":
            wait_until(lambda: waiting() == 5, "the connections arrived")
    *of_tcp, of_unix = group.queue_lengths()
    assert {queue.address for queue in of_tcp} == {tcp}
    assert of_unix == (unix, None, None, None)
    if sys.platform == "linux":
        assert {queue.limit for queue in of_tcp} == {64}
        assert [queue.slot for queue in of_tcp] == [0, 1]


def test_a_steered_slot_of_a_shared_socket_loses_nothing(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT, strategy="shared")
    group.listen_slot(0)
    assert group.steer_away(0)
    assert answers_at(group.addresses()[0])


@needs_steering
def test_a_slot_is_steered_away_from_at_every_address(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT, TCPAddress("127.0.0.2", 0))
    for slot in (0, 1):
        group.listen_slot(slot)
    assert group.steer_away(0)
    for number in (0, 1):
        first, second = (group.sockets_for(slot)[number] for slot in (0, 1))
        assert arrivals([first, second], 20) == {second}
    assert not group.steer_away(1)


@needs_steering
def test_the_port_of_a_steered_group_is_free_when_it_has_closed(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT, slots=3)
    for slot in range(3):
        group.listen_slot(slot)
    [(host, port)] = group.addresses()
    group.retire_slot(0)
    group.close_all()
    successor = make_group(TCPAddress(host, port))
    successor.listen_slot(0)


# In a worker made by fork

FORK = """
import os, socket, sys
from pounce.addresses import TCPAddress
from pounce.net.listeners import ListenerGroup

def listening():
    found = 0
    for name in os.listdir("/dev/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as sock:
                found += sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            pass
    return found

group = ListenerGroup([TCPAddress("127.0.0.1", 0)], backlog=8, strategy=sys.argv[1])
for slot in range(3):
    group.open_slot(slot)
    group.listen_slot(slot)
before = listening()
if not (pid := os.fork()):
    group.close_others(1)
    [sock] = group.sockets_for(1)
    os._exit(listening() if sock.fileno() != -1 else 99)
_, status = os.waitpid(pid, 0)
print(before, os.waitstatus_to_exitcode(status), listening())
"""


@needs_steering
@pytest.mark.parametrize(("strategy", "counts"), [("reuseport", "3 1 3"), ("shared", "1 1 1")])
def test_a_worker_made_by_fork_keeps_the_sockets_of_its_slot_alone(
    strategy: str, counts: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK, strategy], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout.split() == counts.split()


def test_a_group_says_what_it_is(make_group: MakeGroup) -> None:
    group = make_group(ANY_PORT, strategy="shared")
    assert repr(group).startswith("<ListenerGroup slots [0, 1] [<SharedListener ('127.0.0.1', ")
