from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from pounce.addresses import TCPAddress
from pounce.errors import BindError
from pounce.net import reuseport_listener, steering
from pounce.net.listen_queue import queue_length
from pounce.net.listener import Departure
from pounce.net.reuseport_listener import PATIENCE, SETTLE, ReusePortListener, _Seat
from pounce.net.sockets import bind_address
from tests.net.reuse_port import arrivals, kernel_order
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not steering.is_supported(), reason="this system cannot steer")

ANY_PORT = TCPAddress("127.0.0.1", 0)
BACKLOG = 64


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def listener(clock: Clock) -> Iterator[ReusePortListener]:
    """With the slots 0, 1 and 2 open and listening."""
    listener = ReusePortListener(*bind_address(ANY_PORT), clock=clock)
    for slot in range(3):
        listener.open(slot)
        listener.listen(slot, BACKLOG)
    yield listener
    listener.close_all()


def sockets_of(listener: ReusePortListener, *slots: int) -> list[socket.socket]:
    return [listener.socket(slot) for slot in slots]


def connect(listener: ReusePortListener) -> socket.socket:
    return socket.create_connection(listener.address, timeout=5)


# Slots


def test_every_slot_has_a_socket_of_its_own_at_one_address(listener: ReusePortListener) -> None:
    sockets = sockets_of(listener, 0, 1, 2)
    assert len({sock.fileno() for sock in sockets}) == 3
    assert {sock.getsockname() for sock in sockets} == {listener.address}
    assert not any(sock.get_inheritable() or sock.getblocking() for sock in sockets)
    assert arrivals(sockets, 60) == {*sockets}


def test_a_slot_gets_connections_only_when_it_listens(listener: ReusePortListener) -> None:
    listener.open(3)
    assert listener.socket(3) not in arrivals(sockets_of(listener, 0, 1, 2, 3), 30)
    listener.listen(3, BACKLOG)
    assert listener.socket(3) in arrivals(sockets_of(listener, 0, 1, 2, 3), 60)


def test_no_other_program_gets_the_address_unnoticed(listener: ReusePortListener) -> None:
    with pytest.raises(BindError, match=rf"^port {listener.address[1]} on 127\.0\.0\.1 is in use$"):
        bind_address(TCPAddress(*listener.address))


def test_a_program_that_took_the_port_before_anyone_listened_is_noticed() -> None:
    listener = ReusePortListener(*bind_address(ANY_PORT))
    listener.open(0)
    try:
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(listener.address)
            stranger.listen(1)
            with pytest.raises(BindError, match=r"is in use$"):
                listener.listen(0, BACKLOG)
            with pytest.raises(BindError, match=r"is in use$"):
                listener.open(1)
    finally:
        listener.close_all()


# Steering


def test_a_slot_that_is_steered_away_from_gets_nothing_until_it_listens_again(
    listener: ReusePortListener,
) -> None:
    sockets = sockets_of(listener, 0, 1, 2)
    assert listener.steer_away(1)
    assert arrivals(sockets, 60) == {sockets[0], sockets[2]}
    listener.listen(1, BACKLOG)
    assert arrivals(sockets, 60) == {*sockets}


def test_a_slot_that_listens_while_another_is_steered_away_from_gets_its_share(
    listener: ReusePortListener,
) -> None:
    listener.steer_away(0)
    listener.open(3)
    listener.listen(3, BACKLOG)
    assert arrivals(sockets_of(listener, 0, 1, 2, 3), 60) == {*sockets_of(listener, 1, 2, 3)}


def test_the_last_slot_cannot_be_steered_away_from(listener: ReusePortListener) -> None:
    assert listener.steer_away(0)
    assert listener.steer_away(1)
    assert not listener.steer_away(2)
    # Nobody is better than the others: what waits will be accepted by whoever comes first.
    sockets = sockets_of(listener, 0, 1, 2)
    assert arrivals(sockets, 60) == {*sockets}
    listener.listen(1, BACKLOG)
    assert arrivals(sockets, 20) == {sockets[1]}


def test_a_slot_that_never_listened_needs_no_steering(listener: ReusePortListener) -> None:
    listener.open(3)
    assert listener.steer_away(3)
    departure = listener.retire(3)
    assert departure.is_quiet()
    departure.close()


def test_a_kernel_that_refuses_is_reported(
    listener: ReusePortListener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(steering, "attach", refuse)
    with caplog.at_level(logging.WARNING, "pounce.error"):
        assert not listener.steer_away(0)
    port = listener.address[1]
    assert caplog.messages == [
        f"connections to 127.0.0.1 port {port} cannot be steered: [Errno 12] Cannot allocate memory"
    ]
    departure = listener.retire(0)
    assert not departure.is_quiet()
    departure.close()
    assert arrivals(sockets_of(listener, 1, 2), 30) == {*sockets_of(listener, 1, 2)}


# Leaving


def test_a_socket_is_quiet_when_what_waited_there_has_been_accepted(
    listener: ReusePortListener, clock: Clock
) -> None:
    listener.steer_away(1)
    listener.steer_away(2)
    with connect(listener) as client:
        wait_until(lambda: queue_length(listener.socket(0)) == (1, BACKLOG), "it arrived")
        listener.listen(1, BACKLOG)
        leaving = listener.socket(0)
        departure = listener.retire(0)
        clock.now += 2 * SETTLE
        assert not departure.is_quiet()
        served, _ = leaving.accept()
        with served:
            assert departure.is_quiet()
            departure.close()
            served.sendall(b"x")
            assert client.recv(1) == b"x"


def test_a_packet_under_way_when_the_choice_changed_is_waited_for(
    listener: ReusePortListener, clock: Clock
) -> None:
    departure = listener.retire(0)
    assert not departure.is_quiet()
    clock.now += 2 * SETTLE
    assert departure.is_quiet()


@pytest.fixture
def half_open(listener: ReusePortListener) -> Iterator[socket.socket]:
    """A client in the midst of its handshake with slot 0, which is then steered away from.

    The kernel is made to wait for the first byte before it takes the handshake for finished.
    """
    listener.socket(0).setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    listener.steer_away(1)
    listener.steer_away(2)
    with connect(listener) as client:
        for slot in (1, 2):
            listener.listen(slot, BACKLOG)
        yield client


def test_a_handshake_that_began_before_ends_where_it_began(
    listener: ReusePortListener, clock: Clock, half_open: socket.socket
) -> None:
    leaving = listener.socket(0)
    departure = listener.retire(0)
    clock.now += 2 * SETTLE
    assert not departure.is_quiet()
    half_open.sendall(b"?")
    wait_until(lambda: queue_length(leaving) == (1, BACKLOG), "the handshake ended")
    assert not departure.is_quiet()
    served, _ = leaving.accept()
    with served:
        assert departure.is_quiet()
        departure.close()
        served.sendall(b"!")
        assert half_open.recv(1) == b"!"


def test_handshakes_that_begin_later_are_not_waited_for(
    listener: ReusePortListener, clock: Clock
) -> None:
    departure = listener.retire(0)
    clock.now += 2 * SETTLE
    assert departure.is_quiet()
    listener.socket(1).setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    listener.steer_away(2)
    with connect(listener):
        assert departure.is_quiet()


def test_a_handshake_that_never_ends_is_given_up(
    listener: ReusePortListener, clock: Clock, half_open: socket.socket
) -> None:
    departure = listener.retire(0)
    clock.now += PATIENCE / 2
    assert not departure.is_quiet()
    clock.now += PATIENCE
    assert departure.is_quiet()


def test_without_word_from_the_kernel_handshakes_get_their_time(
    listener: ReusePortListener, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuseport_listener, "handshakes", lambda sock: None)
    departure = listener.retire(0)
    clock.now += PATIENCE / 2
    assert not departure.is_quiet()
    clock.now += PATIENCE
    assert departure.is_quiet()


def test_a_copy_of_a_closed_socket_in_another_process_gets_nothing(
    listener: ReusePortListener,
) -> None:
    with listener.socket(0).dup() as copy:
        departure = listener.retire(0)
        departure.close()
        departure.close()
        sockets = [*sockets_of(listener, 1, 2), copy]
        assert arrivals(sockets, 30) == {*sockets[:2]}


def test_a_slot_that_is_opened_again_at_once_has_another_socket(
    listener: ReusePortListener,
) -> None:
    old = listener.socket(2)
    departure = listener.retire(2)
    listener.open(2)
    listener.listen(2, BACKLOG)
    assert listener.socket(2) is not old
    departure.close()
    assert old.fileno() == -1
    assert arrivals(sockets_of(listener, 0, 1, 2), 60) == {*sockets_of(listener, 0, 1, 2)}


def test_a_socket_stays_while_closing_it_would_lead_connections_astray(
    listener: ReusePortListener,
) -> None:
    """Slots 0 and 1 leave; their places would be taken by slot 2, the only one to choose, at a
    moment that no program can foresee."""
    first, second = listener.socket(0), listener.socket(1)
    departures = [listener.retire(0), listener.retire(1)]
    departures[0].close()
    assert first.fileno() != -1
    departures[1].close()
    # Nobody minds where connections go of the other one that leaves.
    assert {first.fileno(), second.fileno()} != {-1}
    listener.open(0)
    listener.listen(0, BACKLOG)
    assert listener.socket(0) in (first, second)
    assert [first.fileno(), second.fileno()].count(-1) == 1
    assert arrivals(sockets_of(listener, 0, 2), 40) == {*sockets_of(listener, 0, 2)}


# All that can happen to a pool


class ProbedListener(ReusePortListener):
    """Looks where connections go in the moments before and after a socket closes, when the program
    in force is one that must be right for both."""

    def _close(self, seat: _Seat) -> None:
        self.probe()
        super()._close(seat)
        self.probe()

    def probe(self) -> None:
        chosen = {seat.sock for seat in self._order if seat.is_chosen}
        listening = [seat.sock for seat in self._order]
        if listening:
            assert arrivals(listening, 4) <= (chosen or {*listening})

    def order(self) -> list[socket.socket]:
        return [seat.sock for seat in self._order]


class PoolMachine(RuleBasedStateMachine):
    """Slots that are opened, listen, are steered away from, leave and close in any order."""

    slots = Bundle("slots")
    departures = Bundle("departures")

    @initialize(target=slots, count=st.integers(1, 4))
    def start(self, count: int) -> Any:
        self.listener = ProbedListener(*bind_address(ANY_PORT))
        self.next_slot = self.open_slots = count
        for slot in range(count):
            self.listener.open(slot)
            self.listener.listen(slot, BACKLOG)
        return multiple(*range(count))

    @precondition(lambda self: self.open_slots < 6)
    @rule(target=slots)
    def open(self) -> int:
        self.listener.open(self.next_slot)
        self.next_slot += 1
        self.open_slots += 1
        return self.next_slot - 1

    @rule(slot=slots)
    def listen(self, slot: int) -> None:
        self.listener.listen(slot, BACKLOG)

    @rule(slot=slots)
    def steer_away(self, slot: int) -> None:
        self.listener.steer_away(slot)

    @rule(target=departures, slot=consumes(slots))
    def retire(self, slot: int) -> Departure:
        self.open_slots -= 1
        return self.listener.retire(slot)

    @rule(departure=consumes(departures))
    def leave(self, departure: Departure) -> None:
        departure.close()

    @invariant()
    def connections_go_where_they_should(self) -> None:
        self.listener.probe()

    @invariant()
    def the_kernel_has_the_order_that_we_think(self) -> None:
        order = self.listener.order()
        if order:
            assert kernel_order(order) == order
            self.listener._update()

    def teardown(self) -> None:
        if hasattr(self, "listener"):
            self.listener.close_all()


PoolMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestPool = PoolMachine.TestCase
