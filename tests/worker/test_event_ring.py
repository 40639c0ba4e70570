"""Lifecycle events through a ring."""

from __future__ import annotations

import marshal
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce import lifecycle
from pounce.lifecycle import LifecycleEvent, RequestStarted
from pounce.metrics import catalogue
from pounce.shm.arena import Arena
from pounce.worker import event_ring
from pounce.worker.event_ring import RingCollector, event_of

# A target is ASCII with anything percent-encoded; what it stands for may be any text.
TEXTS = st.text(max_size=400)
EVENTS: st.SearchStrategy[Any] = st.one_of(
    [
        st.from_type(kind)
        for kind in (
            lifecycle.ConnectionOpened,
            lifecycle.ResponseCompleted,
            lifecycle.StreamClosed,
            lifecycle.ClientDisconnected,
            lifecycle.ConnectionCompleted,
        )
    ]
)


def through_a_ring(*events: LifecycleEvent) -> list[LifecycleEvent]:
    with Arena.anonymous(catalogue.layout(1)) as arena:
        slot = arena.acquire(1, 1)
        collector = RingCollector(slot.ring_writer(), arena.layout.ring_size)
        for event in events:
            collector.record(event)
        return [event_of(record) for record in slot.drain_ring()]


def test_every_kind_of_event_has_a_number() -> None:
    assert set(event_ring._KINDS) == set(get_args(lifecycle.LifecycleEvent))


@given(st.builds(RequestStarted, path=TEXTS, method=st.just("GET"), http_version=st.just("1.1")))
def test_an_event_arrives_as_it_was_or_with_its_path_cut(event: RequestStarted) -> None:
    [arrived] = through_a_ring(event)
    assert isinstance(arrived, RequestStarted)
    if arrived != event:
        assert arrived.path.endswith("…")
        assert event.path.startswith(arrived.path[:-1])
        assert arrived == replace(event, path=arrived.path)
        assert len(event.path.encode("utf-8", "surrogatepass")) > 100


def test_a_short_path_is_not_cut() -> None:
    event = RequestStarted(
        connection_id=2**40,
        worker_id=2**20,
        method="OPTIONS",
        path="/" + "a" * 120,
        http_version="1.1",
    )
    assert through_a_ring(event) == [event]


@given(st.lists(EVENTS, max_size=5))
def test_events_arrive_in_their_order(events: list[LifecycleEvent]) -> None:
    arrived = through_a_ring(*events)
    assert [type(event) for event in arrived] == [type(event) for event in events]


@pytest.mark.parametrize("payload", [b"", b"x", marshal.dumps((99, ())), marshal.dumps((1, (1,)))])
def test_what_is_no_event_is_said_to_be_none(payload: bytes) -> None:
    with pytest.raises(ValueError, match="no event"):
        event_of(payload)
