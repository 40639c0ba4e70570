from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce.addresses import Address, InheritedAddress, TCPAddress, UnixAddress
from pounce.errors import BindError
from pounce.net import handover, steering
from pounce.net.listeners import ListenerGroup
from tests.net.pool import answer, begin, finish
from tests.net.reuse_port import arrivals
from tests.waiting import PATIENCE, wait_until

STRATEGIES = [
    "shared",
    pytest.param(
        "reuseport",
        marks=pytest.mark.skipif(not steering.is_supported(), reason="this system cannot steer"),
    ),
]


@pytest.fixture
def old(request: pytest.FixtureRequest, short_tmp_path: Path) -> Iterator[ListenerGroup]:
    """A group with the slots 0 and 1, which listen at a TCP and a Unix address."""
    addresses: list[Address] = [
        TCPAddress("127.0.0.1", 0),
        UnixAddress(str(short_tmp_path / "s")),
    ]
    group = ListenerGroup(addresses, backlog=64, strategy=request.param)
    for slot in (0, 1):
        group.open_slot(slot)
        group.listen_slot(slot)
    yield group
    group.close_all()


@contextlib.contextmanager
def taken_over(old: ListenerGroup, *addresses: Address, **options: Any) -> Iterator[ListenerGroup]:
    """The group of a master that takes over from that of `old`, with copies of its descriptors as
    another process would have them."""
    state = json.loads(json.dumps(old.hand_over()))
    new = ListenerGroup(addresses, backlog=64, inherited=copy_of(state), **options)
    try:
        yield new
    finally:
        new.close_all()


def copy_of(state: dict[str, Any]) -> dict[str, Any]:
    copies = {fd: os.dup(fd) for fd in handover.descriptors(state)}
    for entry in state["addresses"]:
        for listener in entry["listeners"]:
            if "socket" in listener:
                listener["socket"] = copies[listener["socket"]]
            else:
                listener["slots"] = {slot: copies[fd] for slot, fd in listener["slots"].items()}
                for key in ("spare", "order", "chosen"):
                    listener[key] = [copies[fd] for fd in listener[key]]
    return state


PROGRAM = """
import json, sys
from pounce.addresses import parse_address
from pounce.net.listeners import ListenerGroup
from tests.net.pool import answer

state, addresses = json.loads(sys.argv[1]), map(parse_address, sys.argv[2:4])
group = ListenerGroup(addresses, backlog=64, inherited=state)
if "fail" in sys.argv:
    group.close_all()
    sys.exit(9)
group.claim_files()
print("took over", *(path or port for path, port in group.addresses()), group.slots, flush=True)
for line in sys.stdin:
    sockets = {sock for slot in group.slots for sock in group.sockets_for(slot)}
    for sock in sockets:
        try:
            while True:
                answer(sock, "new")
        except BlockingIOError:
            pass
    print("answered", flush=True)
group.close_all()
"""


def successor(old: ListenerGroup, *arguments: str) -> subprocess.Popen[str]:
    """Another master, which takes over from that of `old`."""
    _, (path, _) = old.addresses()
    state = old.hand_over()
    addresses = ["127.0.0.1:0", f"unix:{path}"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(state), *addresses, *arguments],
        pass_fds=handover.descriptors(state),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("old", STRATEGIES, indirect=True)
def test_another_program_goes_on_with_the_sockets_and_what_waits_there(
    old: ListenerGroup,
) -> None:
    tcp, (path, _) = old.addresses()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(begin(tcp)) for _ in range(10)]
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.settimeout(PATIENCE)
        unix.connect(path)
        unix.sendall(b"?")
        new = stack.enter_context(successor(old))
        assert new.stdin is not None
        assert new.stdout is not None
        assert new.stdout.readline().split() == ["took", "over", "127.0.0.1", path, "[0,", "1]"]
        old.disclaim_files()
        old.close_all()
        assert os.path.exists(path)
        print("go", file=new.stdin, flush=True)
        assert new.stdout.readline() == "answered\n"
        assert [finish(client) for client in (*clients, unix)] == ["new"] * 11
        new.stdin.close()
        assert new.wait(PATIENCE) == 0
        assert not os.path.exists(path)
        with pytest.raises(ConnectionRefusedError):
            begin(tcp)


@pytest.mark.parametrize("old", STRATEGIES, indirect=True)
def test_a_master_that_fails_leaves_the_old_one_as_it_was(old: ListenerGroup) -> None:
    _, (path, _) = old.addresses()
    with successor(old, "fail") as new:
        assert new.wait(PATIENCE) == 9
    assert os.path.exists(path)
    sockets = [*{old.sockets_for(slot)[0] for slot in (0, 1)}]
    assert arrivals(sockets, 40) == {*sockets}
    old.close_all()
    assert not os.path.exists(path)


@pytest.mark.parametrize("old", STRATEGIES, indirect=True)
def test_addresses_that_are_new_are_bound_for_the_slots_there_are(
    old: ListenerGroup, short_tmp_path: Path
) -> None:
    tcp, (path, _) = old.addresses()
    more = UnixAddress(str(short_tmp_path / "t"))
    with taken_over(old, TCPAddress("127.0.0.1", 0), more, TCPAddress("127.0.0.2", 0)) as new:
        assert [new.addresses()[0], new.addresses()[1][0]] == [tcp, more.path]
        assert new.slots == [0, 1]
        for slot in (0, 1):
            assert len(new.sockets_for(slot)) == 3
            new.listen_slot(slot)
        sockets = [*{new.sockets_for(slot)[2] for slot in (0, 1)}]
        assert arrivals(sockets, 40) == {*sockets}
        # The file of an address that is not asked for any more stays as long as the old master may
        # go on, and goes with the change.
        assert os.path.exists(path)
        new.claim_files()
        assert not os.path.exists(path)


@pytest.mark.parametrize("old", STRATEGIES[1:], indirect=True)
def test_what_was_steered_away_from_still_is(old: ListenerGroup) -> None:
    old.steer_away(0)
    with taken_over(old, TCPAddress("127.0.0.1", 0)) as new:
        first, second = (new.sockets_for(slot)[0] for slot in (0, 1))
        assert arrivals([first, second], 20) == {second}
        departure = new.retire_slot(0)
        wait_until(departure.is_quiet, "the slot was quiet")
        departure.close()
        assert arrivals([second], 5) == {second}
        new.open_slot(0)
        new.listen_slot(0)
        assert arrivals([new.sockets_for(0)[0], second], 40) == {new.sockets_for(0)[0], second}


@pytest.mark.parametrize("old", STRATEGIES[1:], indirect=True)
def test_sockets_for_nobody_are_handed_over_as_well(old: ListenerGroup) -> None:
    """Of two slots that leave a third one alone, the sockets have to stay; see the listener."""
    old.open_slot(2)
    old.listen_slot(2)
    for departure in [old.retire_slot(slot) for slot in (0, 1)]:
        departure.close()
    state = old.hand_over()
    assert len(handover.descriptors(state)) == 1 + 2 + 1
    with taken_over(old, TCPAddress("127.0.0.1", 0)) as new:
        new.open_slot(0)
        new.listen_slot(0)
        sockets = [new.sockets_for(slot)[0] for slot in (0, 2)]
        assert arrivals(sockets, 40) == {*sockets}


@pytest.mark.parametrize("old", STRATEGIES[1:], indirect=True)
def test_nothing_is_handed_over_while_a_slot_leaves(old: ListenerGroup) -> None:
    departure = old.retire_slot(0)
    assert old.has_departures
    with pytest.raises(RuntimeError, match=r"^a retired slot is not closed yet$"):
        old.hand_over()
    departure.close()
    assert not old.has_departures
    assert old.hand_over()["slots"] == [1]


def test_sockets_of_systemd_are_known_as_such() -> None:
    original = socket.create_server(("127.0.0.1", 0))
    address = InheritedAddress(original.detach(), "http")
    old = ListenerGroup([address], backlog=8)
    state = json.loads(json.dumps(old.hand_over()))
    [found] = handover.activated_addresses(state)
    assert (found, found.name) == (address, "http")
    with taken_over(old, found) as new:
        assert new.addresses() == old.addresses()
        old.close_all()


@pytest.mark.parametrize("old", ["shared"], indirect=True)
def test_a_state_of_another_version_is_refused(old: ListenerGroup) -> None:
    state = old.hand_over() | {"version": 2}
    with pytest.raises(BindError, match=r"^the sockets were handed over by a version that is too"):
        ListenerGroup([], backlog=8, inherited=state)


@pytest.mark.parametrize("old", ["shared"], indirect=True)
def test_a_descriptor_that_was_not_passed_is_named(old: ListenerGroup) -> None:
    state = json.loads(json.dumps(old.hand_over()))
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    state["addresses"][0]["listeners"][0]["socket"] = fd
    with pytest.raises(BindError, match=rf"^file descriptor {fd} is not open$"):
        ListenerGroup([], backlog=8, inherited=state)


def test_the_answering_helper_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, begin(server.getsockname()) as client:
        answer(server, "me")
        assert finish(client) == "me"
