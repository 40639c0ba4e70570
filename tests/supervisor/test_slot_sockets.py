"""When the sockets of slots open, listen, are steered around and close."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import cast

import pytest

from pounce.errors import BindError
from pounce.net.listener import Departure
from pounce.net.listeners import ListenerGroup
from pounce.supervisor.actions import TellDrain
from pounce.supervisor.pool_status import WorkerStatus
from pounce.supervisor.slot_sockets import SlotSockets


@dataclass
class Listeners:
    """What a `ListenerGroup` is asked to do."""

    slots: list[int] = field(default_factory=list)
    calls: list[tuple[str, int]] = field(default_factory=list)
    is_quiet: bool = False
    is_refusing: bool = False
    has_departures: bool = False

    def open_slot(self, slot: int) -> None:
        if self.is_refusing:
            raise BindError("no more sockets")
        self.slots.append(slot)

    def sockets_for(self, slot: int) -> list[socket.socket]:
        assert slot in self.slots
        return []

    def listen_slot(self, slot: int) -> None:
        self.calls.append(("listen", slot))

    def steer_away(self, slot: int) -> None:
        self.calls.append(("steer away", slot))

    def retire_slot(self, slot: int) -> Departure:
        self.slots.remove(slot)
        return Departure(lambda: self.is_quiet, lambda: self.calls.append(("close", slot)))


class World:
    def __init__(self) -> None:
        self.listeners = Listeners()
        self.told_now = asyncio.Queue[int]()
        self.is_handing_over = self.are_given_away = False
        self.sockets = SlotSockets(
            cast(ListenerGroup, self.listeners),
            tell_drain=lambda worker_id, seconds: self.told_now.put_nowait(worker_id),
            is_handing_over=lambda: self.is_handing_over,
            are_given_away=lambda: self.are_given_away,
        )


@pytest.fixture
def world() -> World:
    return World()


def worker(worker_id: int, slot: int, state: str = "ready") -> WorkerStatus:
    return WorkerStatus(
        slot=slot,
        worker_id=worker_id,
        pid=None,
        generation=1,
        state=state,
        age=0.0,
        requests=0,
        connections=0,
        in_flight=0,
        reason="",
    )


def test_what_could_not_be_opened_is_tried_again_for_the_worker(world: World) -> None:
    world.listeners.is_refusing = True
    world.sockets.open(1)
    with pytest.raises(BindError, match="no more sockets"):
        world.sockets.for_worker(1)
    world.listeners.is_refusing = False
    assert world.sockets.for_worker(1) == []
    assert world.listeners.slots == [1]


def test_no_slot_begins_to_listen_while_sockets_are_handed_over(world: World) -> None:
    world.sockets.open(0)
    world.sockets.listen(0)
    world.is_handing_over = True
    assert world.sockets.for_worker(0) == []
    with pytest.raises(BindError, match="upgrade"):
        world.sockets.for_worker(1)
    assert world.listeners.slots == [0]


def test_sockets_of_another_process_are_let_be(world: World) -> None:
    world.sockets.open(0)
    world.are_given_away = True
    world.sockets.listen(0)
    world.sockets.steer_away_from(1, [worker(1, 0)])
    assert world.listeners.calls == []


@pytest.mark.parametrize(
    ("others", "is_steered"),
    [
        ([], True),
        ([worker(2, 0, "opening")], False),
        ([worker(2, 0)], False),
        ([worker(2, 0, "starting"), worker(3, 0, "draining")], True),
        ([worker(2, 1)], True),
    ],
)
def test_connections_go_elsewhere_until_a_successor_accepts(
    world: World, others: list[WorkerStatus], is_steered: bool
) -> None:
    world.sockets.steer_away_from(1, [worker(1, 0), *others])
    assert world.listeners.calls == [("steer away", 0)] * is_steered


@pytest.mark.parametrize("state", ["starting", "prepared", "draining", "killed"])
def test_nothing_is_steered_for_a_worker_that_did_not_accept(world: World, state: str) -> None:
    world.sockets.steer_away_from(1, [worker(1, 0, state)])
    assert world.listeners.calls == []


def test_it_is_calm_when_all_slots_with_workers_listen(world: World) -> None:
    workers = [worker(1, 0), worker(2, 1, "prepared")]
    world.sockets.open(0)
    world.sockets.listen(0)
    assert not world.sockets.is_calm(workers)
    world.sockets.open(1)
    world.sockets.listen(1)
    assert world.sockets.is_calm(workers)
    world.listeners.has_departures = True
    assert not world.sockets.is_calm(workers)


def test_workers_of_a_slot_that_is_given_up_drain_when_nothing_arrives(world: World) -> None:
    async def run() -> None:
        for slot in (0, 1):
            world.sockets.open(slot)
        world.sockets.give_up(1, [worker(1, 0), worker(2, 1), worker(3, 1, "draining")])
        assert not world.sockets.puts_off(TellDrain(1, gentle=True, seconds=30.0))
        assert world.sockets.puts_off(TellDrain(2, gentle=True, seconds=30.0))
        await asyncio.sleep(0)
        assert world.told_now.empty()
        world.listeners.is_quiet = True
        assert await asyncio.wait_for(world.told_now.get(), 10) == 2
        world.sockets.worker_ended(2)
        assert world.listeners.calls == []
        world.sockets.worker_ended(3)
        assert world.listeners.calls == [("close", 1)]

    asyncio.run(run())


def test_who_is_to_hurry_is_told_at_once_and_once(world: World) -> None:
    async def run() -> None:
        world.sockets.open(1)
        world.sockets.give_up(1, [worker(2, 1)])
        assert world.sockets.puts_off(TellDrain(2, gentle=True, seconds=30.0))
        assert not world.sockets.puts_off(TellDrain(2, gentle=False, seconds=5.0))
        world.listeners.is_quiet = True
        world.sockets.close()
        assert world.told_now.empty()
        assert world.listeners.calls == [("close", 1)]

    asyncio.run(run())
