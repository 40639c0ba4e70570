"""Listening sockets in the hands of real processes that come, go and die."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pounce.addresses import TCPAddress
from pounce.net import steering
from pounce.net.listeners import ListenerGroup
from tests.net.pool import Address, Pool, ask, begin, finish
from tests.waiting import wait_until

STRATEGIES = [
    "shared",
    pytest.param(
        "reuseport",
        marks=pytest.mark.skipif(not steering.is_supported(), reason="this system cannot steer"),
    ),
]

MakeGroup = Callable[..., ListenerGroup]


@pytest.fixture
def make_group() -> Iterator[MakeGroup]:
    with contextlib.ExitStack() as stack:

        def make(slots: int, **options: Any) -> ListenerGroup:
            group = ListenerGroup([TCPAddress("127.0.0.1", 0)], backlog=512, **options)
            stack.callback(group.close_all)
            for slot in range(slots):
                group.open_slot(slot)
            return group

        yield make


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_waits_for_a_worker_that_is_killed_is_answered_by_its_successor(
    make_group: MakeGroup, strategy: str
) -> None:
    group = make_group(1, strategy=strategy)
    [address] = group.addresses()
    with Pool(group) as pool, contextlib.ExitStack() as stack:
        pool.prepare(0, "first")
        pool.serve(0)
        assert ask(address) == "first"
        os.kill(pool.pid(0), signal.SIGSTOP)
        clients = [stack.enter_context(begin(address)) for _ in range(20)]
        pool.kill(0)
        pool.prepare(0, "second")
        pool.serve(0)
        assert [finish(client) for client in clients] == ["second"] * 20


@pytest.mark.skipif(not steering.is_supported(), reason="this system cannot steer")
def test_connections_avoid_a_slot_whose_worker_is_dead_for_a_while(make_group: MakeGroup) -> None:
    group = make_group(2)
    [address] = group.addresses()
    with Pool(group) as pool:
        for slot in (0, 1):
            pool.prepare(slot, str(slot))
            pool.serve(slot)
        pool.kill(0)
        assert group.steer_away(0)
        assert Counter(ask(address) for _ in range(30)) == {"1": 30}
        pool.prepare(0, "0 again")
        pool.serve(0)
        assert {ask(address) for _ in range(60)} == {"0 again", "1"}


class Load:
    """Clients that connect, ask and disconnect without a pause, in threads of their own."""

    LIMIT = 20_000
    """Connections of one client, however long the test takes."""

    def __init__(self, address: Address, clients: int) -> None:
        self._address = address
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        for _ in range(self.LIMIT):
            if self._stop.is_set():
                return
            try:
                name = ask(self._address)
            except (OSError, AssertionError) as error:
                with self._lock:
                    self.failures.append(repr(error))
            else:
                with self._lock:
                    self.answers[name] += 1

    def wait_for(self, *names: str) -> None:
        """Until workers of these names have answered."""
        wait_until(lambda: all(self.answers[name] for name in names), f"{names} answered")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_connection_is_lost_while_the_pool_shrinks_and_grows(
    make_group: MakeGroup, strategy: str
) -> None:
    group = make_group(3, strategy=strategy)
    [address] = group.addresses()
    with Pool(group) as pool:
        for slot in range(3):
            pool.prepare(slot, f"{slot}.0")
            pool.serve(slot)
        with Load(address, clients=8) as load:
            load.wait_for("0.0", "1.0", "2.0")
            for turn, leaving in enumerate([(0,), (1, 2), (2, 0)], 1):
                departures = [group.retire_slot(slot) for slot in leaving]
                for slot, departure in zip(leaving, departures, strict=True):
                    wait_until(departure.is_quiet, "the slot was quiet")
                    pool.stop(slot)
                    departure.close()
                for slot in leaving:
                    group.open_slot(slot)
                    pool.prepare(slot, f"{slot}.{turn}")
                    pool.serve(slot)
                load.wait_for(*(f"{slot}.{turn}" for slot in leaving))
    assert load.failures == []
    assert load.answers.total() > 100
