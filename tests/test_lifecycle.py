"""Lifecycle events, and what collects them."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from pounce.lifecycle import (
    BufferedCollector,
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleCollector,
    LifecycleEvent,
    LoggingCollector,
    NoopCollector,
    RequestStarted,
    ResponseCompleted,
    StreamClosed,
    StreamOpened,
    safe_record,
)

IDS: dict[str, Any] = {"connection_id": 7, "worker_id": 1}


def opened(**changes: Any) -> ConnectionOpened:
    fields = {
        "client_addr": "192.0.2.7",
        "client_port": 50000,
        "server_addr": "127.0.0.1",
        "server_port": 8000,
        "protocol": "h1",
    }
    return ConnectionOpened(**IDS | fields | changes)


def started(path: str = "/a", **changes: Any) -> RequestStarted:
    return RequestStarted(**IDS | {"method": "GET", "path": path, "http_version": "1.1"} | changes)


def responded(duration_ms: float = 1.0, status: int = 200, **changes: Any) -> ResponseCompleted:
    fields = {"status": status, "bytes_sent": 5, "duration_ms": duration_ms, "method": "GET"}
    return ResponseCompleted(**IDS | fields | changes)


def completed(reason: str = "complete", **changes: Any) -> ConnectionCompleted:
    fields = {"requests_served": 1, "total_bytes_sent": 5, "duration_ms": 2.0, "reason": reason}
    return ConnectionCompleted(**IDS | fields | changes)


ONE_OF_EACH: list[LifecycleEvent] = [
    opened(),
    started(),
    StreamOpened(**IDS, method="GET", path="/a"),
    StreamClosed(**IDS, duration_ms=1.0, reason="complete"),
    responded(),
    ClientDisconnected(**IDS, during_streaming=True),
    completed(),
]


class Broken:
    def __init__(self) -> None:
        self.calls = 0

    def record(self, event: LifecycleEvent) -> None:
        self.calls += 1
        raise ZeroDivisionError("the collector's own fault")


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lifecycle_records() -> Iterator[list[logging.LogRecord]]:
    yield from _capture("pounce.lifecycle")


@pytest.fixture
def error_records() -> Iterator[list[logging.LogRecord]]:
    yield from _capture("pounce.error")


def _capture(name: str) -> Iterator[list[logging.LogRecord]]:
    logger = logging.getLogger(name)
    handler = Records()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler.records
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_union_has_every_event() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(get_args(LifecycleEvent))


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_events_are_frozen_slotted_and_travel_between_processes(event: LifecycleEvent) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.worker_id = 2  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    assert pickle.loads(pickle.dumps(event)) == event
    made_by_position: Any = type(event)
    with pytest.raises(TypeError, match="positional"):
        made_by_position(1, 2, 3)


def test_timestamps_are_monotonic_nanoseconds() -> None:
    before = time.monotonic_ns()
    event = started()
    assert before <= event.timestamp_ns <= time.monotonic_ns()
    assert started(timestamp_ns=5).timestamp_ns == 5


def test_every_collector_takes_every_event() -> None:
    collectors: list[LifecycleCollector] = [
        NoopCollector(),
        BufferedCollector(),
        LoggingCollector(),
        LoggingCollector(log_format="text"),
    ]
    for collector in collectors:
        for event in ONE_OF_EACH:
            collector.record(event)


def test_a_failing_collector_is_reported_once_and_goes_on(
    error_records: list[logging.LogRecord],
) -> None:
    collector = Broken()
    record = safe_record(collector)
    for event in ONE_OF_EACH:
        record(event)
    assert collector.calls == len(ONE_OF_EACH)
    (report,) = error_records
    assert "Broken failed on ConnectionOpened" in report.getMessage()
    assert report.exc_info is not None
    assert report.exc_info[0] is ZeroDivisionError


def test_buffer_without_limit_keeps_all_in_order() -> None:
    collector = BufferedCollector()
    for event in ONE_OF_EACH * 100:
        collector.record(event)
    assert len(collector) == len(ONE_OF_EACH) * 100
    assert collector.flush() == ONE_OF_EACH * 100
    assert len(collector) == 0
    assert collector.flush() == []


def test_a_full_buffer_is_handed_over() -> None:
    handed: list[list[LifecycleEvent]] = []
    collector = BufferedCollector(3, handed.append)
    for event in ONE_OF_EACH:
        collector.record(event)
    assert handed == [ONE_OF_EACH[:3], ONE_OF_EACH[3:6]]
    assert collector.flush() == ONE_OF_EACH[6:]
    assert handed[2:] == [ONE_OF_EACH[6:]]
    collector.flush()
    assert len(handed) == 3


def test_a_full_buffer_that_nobody_takes_drops_the_oldest() -> None:
    collector = BufferedCollector(3)
    for event in ONE_OF_EACH:
        collector.record(event)
    assert collector.dropped == 4
    assert repr(collector) == "<BufferedCollector 3 events, 4 dropped>"
    assert collector.flush() == ONE_OF_EACH[4:]


def test_buffer_refuses_a_negative_size() -> None:
    with pytest.raises(ValueError, match="negative"):
        BufferedCollector(-1)


def test_buffer_loses_nothing_between_threads() -> None:
    handed: list[LifecycleEvent] = []
    collector = BufferedCollector(10, handed.extend)

    def produce(worker_id: int) -> None:
        for connection_id in range(500):
            collector.record(started(worker_id=worker_id, connection_id=connection_id))

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collector.flush()
    seen = sorted((event.worker_id, event.connection_id) for event in handed)
    assert seen == [(worker, number) for worker in range(4) for number in range(500)]


def test_json_messages_hold_the_fields(lifecycle_records: list[logging.LogRecord]) -> None:
    collector = LoggingCollector()
    for event in ONE_OF_EACH:
        collector.record(event)
    messages = [json.loads(record.getMessage()) for record in lifecycle_records]
    assert [message["event"] for message in messages] == [
        "connection_opened",
        "request_started",
        "stream_opened",
        "stream_closed",
        "response_completed",
        "client_disconnected",
        "connection_completed",
    ]
    for message, event in zip(messages, ONE_OF_EACH, strict=True):
        assert dataclasses.asdict(event).items() <= message.items()
    assert messages[4]["path"] == "/a"


def test_text_messages_carry_the_fields_as_extra(
    lifecycle_records: list[logging.LogRecord],
) -> None:
    collector = LoggingCollector(log_format="text")
    collector.record(started("/a\nINFO: forged"))
    collector.record(responded(duration_ms=12.5))
    start, response = lifecycle_records
    assert "path='/a\\nINFO: forged'" in start.getMessage()
    assert "\n" not in start.getMessage()
    assert response.getMessage().startswith("response_completed ")
    assert "duration_ms=12.5" in response.getMessage()
    assert vars(response)["duration_ms"] == 12.5
    assert vars(response)["event"] == "response_completed"


@pytest.mark.parametrize(
    ("event", "name", "level"),
    [
        (responded(4999.9), "response_completed", logging.INFO),
        (responded(5000), "slow_request", logging.WARNING),
        (responded(1, status=500), "response_completed", logging.WARNING),
        (ClientDisconnected(**IDS, during_streaming=False), "client_disconnected", logging.INFO),
        (completed("complete"), "connection_completed", logging.DEBUG),
        (completed("client_disconnect"), "connection_completed", logging.DEBUG),
        (completed("timeout"), "connection_completed", logging.INFO),
        (completed("backpressure"), "connection_completed", logging.INFO),
        (opened(), "connection_opened", logging.DEBUG),
    ],
)
def test_levels(
    lifecycle_records: list[logging.LogRecord], event: LifecycleEvent, name: str, level: int
) -> None:
    LoggingCollector().record(event)
    (record,) = lifecycle_records
    assert json.loads(record.getMessage())["event"] == name
    assert record.levelno == level


def test_health_checks_are_silent_unless_slow_or_failed(
    lifecycle_records: list[logging.LogRecord],
) -> None:
    collector = LoggingCollector(slow_request_threshold_ms=100, health_check_path="/health")
    for event in (started("/health"), responded(), started("/health"), responded()):
        collector.record(event)
    assert lifecycle_records == []
    for event in (started("/health"), responded(100), started("/health"), responded(status=503)):
        collector.record(event)
    assert [record.levelno for record in lifecycle_records] == [logging.WARNING] * 2
    collector.record(started("/other"))
    collector.record(responded())
    assert len(lifecycle_records) == 4


def test_a_path_is_not_given_to_the_wrong_one_of_several_streams(
    lifecycle_records: list[logging.LogRecord],
) -> None:
    collector = LoggingCollector(health_check_path="/health")
    for event in (started("/a"), started("/health"), responded(), responded()):
        collector.record(event)
    for event in (started("/b"), responded(), started("/c", worker_id=2), responded()):
        collector.record(event)
    paths = [
        message.get("path")
        for message in (json.loads(record.getMessage()) for record in lifecycle_records)
        if message["event"] == "response_completed"
    ]
    assert paths == [None, None, "/b", None]


def test_what_is_remembered_of_a_connection_ends_with_it() -> None:
    collector = LoggingCollector()
    for number in range(100):
        collector.record(started(connection_id=number))
        collector.record(completed("client_disconnect", connection_id=number))
    assert collector._in_flight == {}


def test_an_unknown_log_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'xml'"):
        LoggingCollector(log_format="xml")  # type: ignore[arg-type]
