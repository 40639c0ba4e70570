from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pounce.net import steering
from pounce.net.steering import attach, detach, is_supported, program
from tests.net.reuse_port import arrival, arrivals, kernel_order, new_socket, place_program

needs_steering = pytest.mark.skipif(not is_supported(), reason="this system cannot steer")


def run(code: bytes, random: int) -> int:
    """What a program returns when `random` is drawn: the machine of classic BPF, as far as the
    programs use it."""
    value = 0
    instructions = list(struct.iter_unpack("=HBBI", code))
    at = 0
    while True:
        opcode, if_true, if_false, operand = instructions[at]
        at += 1
        match opcode:
            case 0x20:
                assert operand == 2**32 - 0x1000 + 56
                value = random
            case 0x94:
                value %= operand
            case 0x04:
                value += operand
            case 0x35:
                at += if_true if value >= operand else if_false
            case 0x16:
                return value
            case _:
                pytest.fail(f"unknown instruction {opcode:#x}")


@pytest.mark.parametrize("size", range(1, 7))
def test_every_place_that_is_not_excluded_is_as_likely_as_the_others(size: int) -> None:
    for count in range(size):
        for excluded in itertools.combinations(range(size), count):
            chosen = Counter(run(program(size, excluded), random) for random in range(60))
            allowed = set(range(size)) - set(excluded)
            assert chosen == dict.fromkeys(allowed, 60 // len(allowed))


def test_the_largest_pool_fits_into_a_program() -> None:
    excluded = range(0, 1024, 2)
    code = program(1024, excluded)
    assert len(code) // 8 <= 4096
    assert {run(code, random) for random in range(1024)} == set(range(1, 1024, 2))


# The kernel


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    """Four bound sockets at one address; those that a test makes itself are added to it."""
    first = new_socket()
    sockets = [first, *(new_socket(first.getsockname()) for _ in range(3))]
    yield sockets
    for sock in sockets:
        sock.close()


@needs_steering
def test_the_kernel_counts_sockets_in_the_order_in_which_they_listen(
    group: list[socket.socket],
) -> None:
    a, b, c, d = group
    for sock in (c, a, d, b):
        sock.listen(4)
    assert kernel_order(group) == [c, a, d, b]


@needs_steering
def test_listening_again_keeps_the_place(group: list[socket.socket]) -> None:
    a, b, c, _ = group
    for sock in (a, b, c, a):
        sock.listen(4)
    assert kernel_order([a, b, c]) == [a, b, c]


@needs_steering
@pytest.mark.parametrize("place", range(4))
def test_the_last_socket_takes_the_place_of_one_that_closes(
    group: list[socket.socket], place: int
) -> None:
    for sock in group:
        sock.listen(4)
    expected = list(group)
    last = expected.pop()
    if place < 3:
        expected[place] = last
    group[place].close()
    assert kernel_order(expected) == expected


@needs_steering
def test_a_copy_keeps_a_closed_socket_in_its_place_and_shutting_it_down_does_not(
    group: list[socket.socket],
) -> None:
    a, b, c, d = group
    for sock in group:
        sock.listen(4)
    copy = a.dup()
    group.append(copy)
    a.close()
    assert kernel_order([copy, b, c, d]) == [copy, b, c, d]
    copy.shutdown(socket.SHUT_RDWR)
    assert kernel_order([d, b, c]) == [d, b, c]


@needs_steering
def test_a_socket_that_does_not_listen_gets_nothing(group: list[socket.socket]) -> None:
    a, b, *_ = group
    a.listen(16)
    assert arrivals([a, b], 8) == {a}


@needs_steering
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("excluded", [{0}, {1}, {3}, {0, 3}, {1, 2}, {0, 1, 2}])
def test_connections_go_to_all_that_are_not_excluded_and_to_no_other(
    group: list[socket.socket], host: str, excluded: set[int]
) -> None:
    if host != "127.0.0.1":
        try:
            group.append(new_socket((host, 0)))
        except OSError:
            pytest.skip("this machine has no IPv6")
        group += [new_socket(group[-1].getsockname()) for _ in range(3)]
    members = group[-4:]
    for sock in members:
        sock.listen(64)
    attach(members[0], program(4, excluded))
    # One of three places is missed by 60 connections once in 10^10 runs.
    expected = {sock for place, sock in enumerate(members) if place not in excluded}
    assert arrivals(members, 60) == expected


@needs_steering
def test_a_place_past_the_end_leaves_it_to_the_hash(group: list[socket.socket]) -> None:
    for sock in group:
        sock.listen(64)
    attach(group[0], place_program(4))
    assert len(arrivals(group, 60)) > 1


@needs_steering
def test_a_program_chooses_for_the_whole_group_until_it_is_replaced_or_taken_away(
    group: list[socket.socket],
) -> None:
    for sock in group:
        sock.listen(64)
    attach(group[0], place_program(1))
    assert arrival(group) is group[1]
    attach(group[3], place_program(2))
    assert arrival(group) is group[2]
    detach(group[1])
    assert len(arrivals(group, 60)) > 1
    detach(group[1])


@needs_steering
def test_a_kernel_that_cannot_take_a_program_away_gets_one_that_leaves_it_to_the_hash(
    group: list[socket.socket],
) -> None:
    class Old(socket.socket):
        """A socket of Linux before 5.3."""

        def setsockopt(self, level: int, option: int, *value: Any) -> None:
            if option == 68:
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
            super().setsockopt(level, option, *value)

    for sock in group:
        sock.listen(64)
    attach(group[0], place_program(1))
    old = Old(fileno=group[0].fileno())
    try:
        detach(old)
    finally:
        old.detach()
    assert len(arrivals(group, 60)) > 1


@needs_steering
def test_a_socket_outside_a_group_cannot_be_steered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(OSError, match="nvalid"):
        attach(sock, program(1, ()))


@pytest.fixture
def _asks_anew() -> Iterator[None]:
    is_supported.cache_clear()
    yield
    is_supported.cache_clear()


@pytest.mark.usefixtures("_asks_anew")
def test_a_kernel_that_refuses_programs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    monkeypatch.setattr(steering, "attach", refuse)
    assert not is_supported()


@pytest.mark.usefixtures("_asks_anew")
def test_only_linux_can_steer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not is_supported()
