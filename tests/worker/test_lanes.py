"""Lanes: many requests at once on one connection are counted, and noted, each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from types import SimpleNamespace
from typing import Any

import pytest

from pounce.metrics import catalogue
from pounce.protocol.h1_head import RequestLine
from pounce.shm.arena import Arena
from pounce.shm.slot import Slot
from pounce.worker.lane import Lane, Lanes
from pounce.worker.meter import Meter
from tests.metrics.arenas import LAYOUT, add

LINES = [RequestLine("GET", b"/%d" % number, "2") for number in range(4)]


@pytest.fixture
def slot() -> Iterator[Slot]:
    with Arena.anonymous(LAYOUT) as arena:
        yield add(arena, 1)


def in_loop(test: Callable[[Slot], Coroutine[Any, Any, None]]) -> Callable[[Slot], None]:
    @wraps(test)
    def run(slot: Slot) -> None:
        asyncio.run(test(slot))

    return run


class Multiplexed:
    """A connection with many requests at once, as far as a meter looks at it."""

    protocol = "h2"
    client = ("192.0.2.1", 5000)
    server = ("192.0.2.2", 443)
    close_reason = None
    worker = SimpleNamespace(abandoning=False)

    def __init__(self) -> None:
        self.lanes = Lanes()


def begin(meter: Meter, connection: Any, line: RequestLine) -> Any:
    cycle = SimpleNamespace(
        connection=connection,
        lane=connection.lanes.take(),
        line=line,
        scope={"path": line.path},
        started_ns=0,
        first_byte_ns=0,
        streamed=False,
        uncounted=0,
        status=0,
        sent_bytes=0,
        received_bytes=0,
        disconnected=False,
    )
    meter.request_started(cycle)  # type: ignore[arg-type]
    return cycle


def end(meter: Meter, cycle: Any, status: int = 200, size: int = 5) -> None:
    cycle.status, cycle.sent_bytes = status, size
    meter.request_completed(cycle)
    cycle.connection.lanes.give_back(cycle.lane)


def noted(slot: Slot) -> list[bytes]:
    """The targets of what the black box has as not answered."""
    return sorted(each.text.split()[1] for each in slot.read_black_box() if each.stamp > 0)


def answered(slot: Slot) -> int:
    return sum(each.stamp < 0 for each in slot.read_black_box())


def counted(slot: Slot, status: int) -> int:
    at = LAYOUT["requests_without_content"].index(0, catalogue.status_index(status))
    return slot.cells[at]


@in_loop
async def test_requests_at_once_are_noted_each_by_itself(slot: Slot) -> None:
    meter = Meter(slot, LAYOUT, None, None)
    connection: Any = Multiplexed()
    meter.connection_opened(connection)
    cycles = [begin(meter, connection, line) for line in LINES]
    assert noted(slot) == [b"/0", b"/1", b"/2", b"/3"]
    end(meter, cycles[2])
    end(meter, cycles[0], 404)
    assert noted(slot) == [b"/1", b"/3"]
    assert answered(slot) == 2
    again = begin(meter, connection, LINES[0])
    assert noted(slot) == [b"/0", b"/1", b"/3"]
    for cycle in (cycles[1], cycles[3], again):
        end(meter, cycle)
    meter.tick()
    assert noted(slot) == []
    assert answered(slot) == 0
    assert (counted(slot, 200), counted(slot, 404)) == (4, 1)


@in_loop
async def test_what_ends_in_the_turn_that_it_begins_in_is_left_as_answered(slot: Slot) -> None:
    """Each on a lane of its own: nothing has to be counted before the turn is over."""
    meter = Meter(slot, LAYOUT, None, None)
    connection: Any = Multiplexed()
    for line in LINES:
        end(meter, begin(meter, connection, line))
    assert answered(slot) == 4
    assert counted(slot, 200) == 0
    meter.tick()
    assert (answered(slot), counted(slot, 200)) == (0, 4)
    for line in LINES:
        end(meter, begin(meter, connection, line))
    assert len(list(connection.lanes)) == 4


@in_loop
async def test_a_lane_that_is_needed_at_once_has_its_answer_counted_first(slot: Slot) -> None:
    meter = Meter(slot, LAYOUT, None, None)
    connection: Any = Multiplexed()
    for number in range(300):
        end(meter, begin(meter, connection, LINES[number % 4]))
        assert counted(slot, 200) + answered(slot) == number + 1
    assert len(list(connection.lanes)) == 128


@in_loop
async def test_the_end_of_a_connection_frees_the_records_of_all_lanes(slot: Slot) -> None:
    meter = Meter(slot, LAYOUT, None, None)
    for _ in range(3 * catalogue.BLACK_BOX_RECORDS):
        connection: Any = Multiplexed()
        meter.connection_opened(connection)
        cycles = [begin(meter, connection, line) for line in LINES]
        end(meter, cycles[0])
        meter.request_aborted(cycles[1])
        connection.lanes.give_back(cycles[1].lane)
        meter.connection_closed(connection, None)
        assert slot.read_black_box() == []
    assert slot.black_box_missed == 0
    assert counted(slot, 200) == 3 * catalogue.BLACK_BOX_RECORDS


@in_loop
async def test_connections_are_counted_by_protocol_and_websockets_beside(slot: Slot) -> None:
    meter = Meter(slot, LAYOUT, None, None)

    def figures(name: str) -> dict[str, int]:
        at = LAYOUT[name].start
        return {
            protocol: slot.cells[at + index] for index, protocol in enumerate(catalogue.PROTOCOLS)
        }

    old: Any = Multiplexed()
    old.protocol = "h1"
    new: Any = Multiplexed()
    for connection in (old, new):
        meter.connection_opened(connection)
    sockets = [begin(meter, connection, LINES[0]) for connection in (old, new)]
    for cycle in sockets:
        meter.websocket_opened(cycle)
    assert noted(slot) == []
    assert figures("connections") == {"h1": 1, "h2": 1, "ws": 2}
    # Over HTTP/1.1 it takes its connection for itself, over HTTP/2 it does not.
    assert figures("connections_active") == {"h1": 0, "h2": 1, "ws": 2}
    for cycle in sockets:
        meter.websocket_closed(cycle, "complete", 1000)
    assert figures("connections_active") == {"h1": 1, "h2": 1, "ws": 0}
    for connection in (old, new):
        meter.connection_closed(connection, None)
    assert figures("connections_active") == {"h1": 0, "h2": 0, "ws": 0}


def test_lanes_that_are_free_are_taken_again() -> None:
    lanes = Lanes()
    first, second = lanes.take(), lanes.take()
    lanes.give_back(first)
    lanes.give_back(second)
    assert [lanes.take(), lanes.take()] == [first, second]
    assert list(lanes) == [first, second]
    assert isinstance(lanes.take(), Lane)
    assert len(list(lanes)) == 3
