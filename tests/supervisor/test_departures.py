from dataclasses import dataclass, field

import pytest

from pounce.net.listener import Departure
from pounce.supervisor.departures import LONGEST_HOLD, Departures


@dataclass
class Slot:
    """What the listeners say about a slot."""

    is_quiet: bool = False
    is_closed: bool = False

    def departure(self) -> Departure:
        return Departure(lambda: self.is_quiet, self.close)

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@dataclass
class World:
    now: float = 100.0
    told: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.departures = Departures(
            lambda worker_id, seconds: self.told.append((worker_id, seconds)),
            clock=lambda: self.now,
        )


@pytest.fixture
def world() -> World:
    return World()


def test_worker_drains_when_nothing_arrives_any_more(world: World) -> None:
    slot = Slot()
    world.departures.add(slot.departure(), [7])
    assert world.departures.hold(7, 30.0)
    world.now += 0.05
    world.departures.check()
    assert (world.told, world.departures.holds) == ([], True)
    slot.is_quiet = True
    world.now += 0.05
    world.departures.check()
    assert world.told == [(7, 30.0 - (world.now - 100.0))]
    assert not world.departures.holds
    world.departures.check()
    assert len(world.told) == 1


def test_worker_of_a_quiet_slot_is_not_held(world: World) -> None:
    world.departures.add(Slot(is_quiet=True).departure(), [7])
    assert not world.departures.hold(7, 30.0)


def test_worker_of_another_slot_is_not_held(world: World) -> None:
    world.departures.add(Slot().departure(), [7])
    assert not world.departures.hold(8, 30.0)


@pytest.mark.parametrize(("seconds", "hold"), [(30.0, LONGEST_HOLD), (1.0, 0.5)])
def test_worker_is_not_held_for_ever(world: World, seconds: float, hold: float) -> None:
    world.departures.add(Slot().departure(), [7])
    world.departures.hold(7, seconds)
    world.now += hold - 0.01
    world.departures.check()
    assert world.told == []
    world.now += 0.02
    world.departures.check()
    assert world.told == [(7, seconds - (world.now - 100.0))]


def test_worker_that_hurries_is_told_no_more(world: World) -> None:
    slot = Slot()
    world.departures.add(slot.departure(), [7])
    world.departures.hold(7, 30.0)
    world.departures.release(7)
    slot.is_quiet = True
    world.departures.check()
    assert world.told == []


def test_sockets_close_when_the_last_worker_is_gone(world: World) -> None:
    slot, other = Slot(is_quiet=True), Slot()
    world.departures.add(slot.departure(), [7, 8])
    world.departures.add(other.departure(), [9])
    world.departures.check()
    world.departures.ended(7)
    assert not slot.is_closed
    world.departures.ended(8)
    assert slot.is_closed
    assert not other.is_closed


def test_slot_without_workers_closes_at_once(world: World) -> None:
    slot = Slot()
    world.departures.add(slot.departure(), [])
    assert slot.is_closed


def test_held_worker_that_is_gone_is_forgotten(world: World) -> None:
    slot = Slot()
    world.departures.add(slot.departure(), [7])
    world.departures.hold(7, 30.0)
    world.departures.ended(7)
    assert slot.is_closed
    assert not world.departures.holds


def test_what_is_left_closes_at_the_end(world: World) -> None:
    slot = Slot()
    world.departures.add(slot.departure(), [7])
    world.departures.close()
    world.departures.close()
    assert slot.is_closed
