"""Whose turn it is, and that everybody gets one."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pounce.protocol.h1_head import RequestLine
from pounce.protocol.h2.interface import RequestHead
from pounce.protocol.h2.send_scheduler import SendScheduler
from pounce.protocol.h2.streams import Outgoing, Stream


def outgoing(stream_id: int, urgency: int = 3, *, incremental: bool | None = None) -> Outgoing:
    """One frame's worth of content; `incremental` None: the client gave no priority."""
    head = RequestHead(RequestLine("GET", b"/", "2"), (), "https")
    if incremental is not None:
        head.pairs = ((b"priority", b"whatever"),)
        head.urgency, head.incremental = urgency, incremental
    stream = Stream()
    stream.head = head
    made = Outgoing(stream_id, stream)
    made.urgency = urgency
    return made


def order(scheduler: SendScheduler, frames: dict[int, int]) -> list[int]:
    """Who sends each frame, until all have sent as many as they have."""
    sent = []
    left = dict(frames)
    while scheduler.waiting:
        one = scheduler.next()
        sent.append(one.stream_id)
        left[one.stream_id] -= 1
        if not left[one.stream_id]:
            scheduler.remove(one)
    return sent


def scheduled(*all_of_them: Outgoing) -> SendScheduler:
    scheduler = SendScheduler()
    for one in all_of_them:
        scheduler.add(one)
    return scheduler


def test_the_most_urgent_is_first() -> None:
    scheduler = scheduled(outgoing(1, 5), outgoing(3, 0), outgoing(5, 3))
    assert order(scheduler, {1: 2, 3: 2, 5: 2}) == [3, 3, 5, 5, 1, 1]


def test_serial_ones_follow_each_other_in_the_order_of_their_requests() -> None:
    scheduler = scheduled(
        outgoing(5, incremental=False), outgoing(1, incremental=False),
        outgoing(3, incremental=False),
    )  # fmt: skip
    assert order(scheduler, {1: 2, 3: 1, 5: 2}) == [1, 1, 3, 5, 5]


def test_incremental_ones_take_turns() -> None:
    scheduler = scheduled(outgoing(1, incremental=True), outgoing(3, incremental=True))
    assert order(scheduler, {1: 3, 3: 2}) == [1, 3, 1, 3, 1]


def test_who_gives_no_priority_shares() -> None:
    scheduler = scheduled(outgoing(1), outgoing(3))
    assert order(scheduler, {1: 3, 3: 1}) == [1, 3, 1, 1]


def test_serial_ones_have_one_turn_among_the_others() -> None:
    scheduler = scheduled(
        outgoing(1, incremental=False), outgoing(3, incremental=False),
        outgoing(5, incremental=True), outgoing(7, incremental=True),
    )  # fmt: skip
    assert order(scheduler, {1: 2, 3: 1, 5: 2, 7: 2}) == [1, 5, 1, 7, 3, 5, 7]


def test_another_priority_takes_effect_at_once() -> None:
    late = outgoing(3, 7)
    scheduler = scheduled(outgoing(1), late)
    scheduler.reprioritise(late, 0, is_serial=True)
    assert scheduler.next() is late


def test_the_blocked_wait_for_no_turn() -> None:
    shut = outgoing(1, 0)
    scheduler = scheduled(shut, outgoing(3))
    scheduler.block(shut)
    assert list(scheduler.blocked) == [1]
    assert scheduler.next().stream_id == 3
    scheduler.reprioritise(shut, 1, is_serial=False)
    assert list(scheduler.blocked) == [1]
    scheduler.add(shut)
    assert not scheduler.blocked
    assert scheduler.next() is shut
    scheduler.remove(shut)
    assert scheduler.waiting == 1


PRIORITIES = st.tuples(st.integers(0, 7), st.sampled_from([None, True, False]), st.integers(1, 5))


@given(st.lists(PRIORITIES, max_size=12))
def test_nobody_waits_behind_the_less_urgent(wanted: list[tuple[int, bool | None, int]]) -> None:
    all_of_them = {
        2 * index + 1: outgoing(2 * index + 1, urgency, incremental=incremental)
        for index, (urgency, incremental, _) in enumerate(wanted)
    }
    frames = {2 * index + 1: count for index, (_, _, count) in enumerate(wanted)}
    sent = order(scheduled(*all_of_them.values()), frames)
    urgencies = [all_of_them[stream_id].urgency for stream_id in sent]
    assert urgencies == sorted(urgencies)
    assert {stream_id: sent.count(stream_id) for stream_id in frames} == frames
    for urgency in range(8):
        level = [s for s in sent if all_of_them[s].urgency == urgency]
        serial = [s for s in level if all_of_them[s].is_serial]
        assert serial == sorted(serial)
        sharing = {s for s in level if not all_of_them[s].is_serial}
        for stream_id in sharing:
            turns = [at for at, s in enumerate(level) if s == stream_id]
            for first, second in pairwise(turns):
                between = level[first + 1 : second]
                assert len([s for s in between if s in sharing]) <= len(sharing) - 1
