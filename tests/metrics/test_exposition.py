from __future__ import annotations

import gzip
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from pounce.config import ServerConfig
from pounce.metrics.encoder import encoder_for
from pounce.metrics.exposition import FAMILIES, Exposition
from pounce.metrics.families import Reading
from pounce.net.listener import SlotQueue
from pounce.shm.arena import Arena
from pounce.shm.slot import Slot, SlotState
from tests.metrics.arenas import LAYOUT, add, add_master, arena_with, fill
from tests.metrics.scraping import (
    OPEN_METRICS,
    parse_open_metrics,
    parse_text,
    samples_of,
    scrape,
    value,
    values,
)

CONFIG = ServerConfig()
FORMATS = [
    "",
    "text/plain;version=0.0.4",
    "text/plain;version=1.0.0;escaping=allow-utf-8",
    "application/openmetrics-text",
    "application/openmetrics-text;version=1.0.0;escaping=underscores",
    "application/openmetrics-text;version=1.0.0;escaping=dots",
]


class Registry:
    """What has been read, for prometheus_client to write."""

    def __init__(self, readings: list[Reading], *further: Metric) -> None:
        self._metrics = [*(reading.metric() for reading in readings), *further]

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


@pytest.fixture
def arena() -> Iterator[Arena]:
    """A master and two workers."""
    with arena_with(1, 2) as arena:
        add_master(arena)
        yield arena


@pytest.fixture
def exposition(arena: Arena) -> Exposition:
    return Exposition(arena, CONFIG)


numbers = st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 2**45))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, LAYOUT.cells - 1), numbers), max_size=3))
def test_the_text_is_what_prometheus_client_writes(workers: list[dict[int, int]]) -> None:
    with arena_with() as arena:
        for worker_id, cells in enumerate(workers, start=1):
            slot = add(arena, worker_id)
            for index, number in cells.items():
                slot.cells[index] = number
        queues = [SlotQueue(("::1", 80), 3, 5, 128), SlotQueue(("/a%s \\b", 0), None, 1, 2)]
        exposition = Exposition(arena, CONFIG, queues=lambda: queues)
        readings = exposition.readings()
        for accept in FORMATS:
            encode, content_type = choose_encoder(accept)
            encoder = encoder_for(accept)
            assert encoder.content_type == content_type
            assert encoder.encode(readings) == encode(Registry(readings))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.integers(0, LAYOUT.summed - 1), st.integers(0, 2**40)))
def test_both_parsers_give_the_numbers_back(cells: dict[int, int]) -> None:
    with arena_with() as arena:
        add_master(arena)
        slot = add(arena, 1)
        for index, number in cells.items():
            slot.cells[index] = number
        exposition = Exposition(arena, CONFIG)
        readings = exposition.readings()
        expected = samples_of(Registry(readings).collect())
        assert parse_text(encoder_for("").encode(readings)) == expected
        assert parse_open_metrics(encoder_for(OPEN_METRICS).encode(readings)) == expected


def test_values_of_all_workers_are_added_up(arena: Arena, exposition: Exposition) -> None:
    for slot, number in zip(arena.slots, (3, 40), strict=False):
        fill(slot, {"bytes_sent": number, "streams_active": number, "response_size": number})
        slot.black_box_writer().take(1, b"GET /")
        slot.cells[LAYOUT["requests_without_content"].index(0, 0)] = number
    samples = scrape(exposition)
    assert value(samples, "http_bytes_sent_total") == 43
    assert value(samples, "http_streams_active") == 43
    assert value(samples, "http_requests_in_flight") == 2
    assert value(samples, "http_requests_total", method="GET", status="200") == 43
    assert value(samples, "pounce_worker_requests_total", worker="1") == 3
    assert value(samples, "pounce_worker_requests_total", worker="2") == 40


def test_what_ended_workers_counted_stays_and_their_gauges_go(
    arena: Arena, exposition: Exposition
) -> None:
    fill(arena.slots[0], {"bytes_sent": 7, "streams_active": 1})
    arena.slots[0].black_box_writer().take(1, b"GET /")
    arena.slots[0].state = SlotState.EXITED
    for _ in range(2):
        samples = scrape(exposition)
        assert value(samples, "http_bytes_sent_total") == 7
        assert value(samples, "http_streams_active") == 0
        assert value(samples, "http_requests_in_flight") == 0
        assert list(values(samples, "pounce_worker_up")) == [frozenset({("worker", "2")})]
        if arena.slots[0].state is SlotState.EXITED:
            arena.retire(arena.slots[0])


def test_only_requests_that_came_have_a_series(arena: Arena, exposition: Exposition) -> None:
    assert not values(scrape(exposition), "http_requests_total")
    arena.slots[1].cells[LAYOUT["requests_without_content"].index(9, 3)] += 1
    assert list(values(scrape(exposition), "http_requests_total")) == [
        frozenset({("method", "other"), ("status", "203")})
    ]


def test_counters_without_many_labels_are_there_from_the_start(exposition: Exposition) -> None:
    samples = scrape(exposition)
    assert value(samples, "http_bytes_received_total") == 0
    assert value(samples, "http_timeouts_total", reason="keep_alive") == 0
    assert value(samples, "pounce_worker_exits_total", reason="crash") == 0
    assert value(samples, "pounce_ring_dropped_total") == 0
    assert value(samples, "http_request_duration_seconds_count") == 0


def observe(slot: Slot, name: str, bucket: int, amount: int) -> None:
    field = LAYOUT[name]
    slot.cells[field.start + bucket] += 1
    slot.cells[field.start + field.declaration.width - 1] += amount


def test_the_first_byte_of_a_whole_response_comes_with_its_last(
    arena: Arena, exposition: Exposition
) -> None:
    slot = arena.slots[0]
    observe(slot, "duration_whole", 2, 900_000)
    observe(slot, "duration_streamed", 8, 90_000_000)
    observe(slot, "first_byte_streamed", 0, 100_000)
    samples = scrape(exposition)
    assert value(samples, "http_request_duration_seconds_sum") == pytest.approx(0.0909)
    assert value(samples, "http_time_to_first_byte_seconds_sum") == pytest.approx(0.001)
    assert value(samples, "http_request_duration_seconds_bucket", le="0.001") == 1
    assert value(samples, "http_time_to_first_byte_seconds_bucket", le="0.001") == 2
    for name in ("http_request_duration_seconds", "http_time_to_first_byte_seconds"):
        assert value(samples, f"{name}_count") == value(samples, f"{name}_bucket", le="+Inf") == 2


def test_requests_without_content_are_of_size_0(arena: Arena, exposition: Exposition) -> None:
    slot = arena.slots[0]
    slot.cells[LAYOUT["requests_without_content"].index(0, 0)] = 5
    slot.cells[LAYOUT["requests_with_content"].index(2, 1)] = 2
    observe(slot, "request_size", 3, 4000)
    observe(slot, "request_size", 1, 100)
    samples = scrape(exposition)
    assert value(samples, "http_request_size_bytes_bucket", le="64.0") == 5
    assert value(samples, "http_request_size_bytes_bucket", le="256.0") == 6
    assert value(samples, "http_request_size_bytes_count") == 7
    assert value(samples, "http_request_size_bytes_sum") == 4100


def test_each_worker_is_told_of(arena: Arena, exposition: Exposition) -> None:
    slot = arena.slots[1]
    slot.state = SlotState.STARTING
    observe(slot, "loop_delay", 0, 500_000)
    samples = scrape(exposition)
    assert value(samples, "pounce_worker_up", worker="1") == 1
    assert value(samples, "pounce_worker_up", worker="2") == 0
    assert value(samples, "pounce_worker_generation", worker="2") == 1
    started = value(samples, "pounce_worker_start_time_seconds", worker="2")
    assert started == pytest.approx(slot.started_ns / 1e9)
    assert value(samples, "pounce_worker_event_loop_delay_seconds_count", worker="2") == 1
    assert 0 <= value(samples, "pounce_worker_heartbeat_age_seconds", worker="2") < 60
    assert not any(("worker", "0") in labels for _, labels in samples)


def test_a_process_is_told_of_once_where_its_workers_are_threads(exposition: Exposition) -> None:
    samples = scrape(exposition)
    assert value(samples, "pounce_master_rss_bytes") > 2**20
    assert value(samples, "pounce_master_open_fds") > 2
    assert not values(samples, "pounce_worker_rss_bytes")


def test_a_worker_without_a_master_tells_of_its_process() -> None:
    with arena_with(1) as arena:
        samples = scrape(Exposition(arena, CONFIG))
    assert value(samples, "pounce_worker_rss_bytes", worker="1") > 2**20
    assert value(samples, "pounce_worker_cpu_seconds_total", worker="1") > 0
    assert value(samples, "pounce_worker_open_fds", worker="1") > 2
    assert not any(name.startswith("pounce_master") for name, _ in samples)
    assert not values(samples, "pounce_workers_wanted")
    assert not values(samples, "pounce_reloads_total")


def test_the_later_master_says_how_many_workers_are_wanted(
    arena: Arena, exposition: Exposition
) -> None:
    former = arena.slots[2]
    successor = add_master(arena)
    fill(former, {"workers_wanted": 4, "reloads": 1})
    fill(successor, {"workers_wanted": 6, "reloads": 2})
    samples = scrape(exposition)
    assert value(samples, "pounce_workers_wanted") == 6
    assert value(samples, "pounce_reloads_total", result="succeeded") == 3


def test_limits_are_told_and_where_there_is_none_everything_is_a_small_part_of_it() -> None:
    config = ServerConfig(limit_concurrency=50, limit_request_body=0)
    with arena_with() as arena:
        samples = scrape(Exposition(arena, config))
    assert value(samples, "pounce_limit_concurrency") == 50
    assert value(samples, "pounce_limit_request_body_bytes") == float("inf")
    ((labels, one),) = values(samples, "pounce_build_info").items()
    assert one == 1
    assert {name for name, _ in labels} == {"version", "python", "implementation"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("text/html, */*;q=0.1", "text/plain; version=0.0.4"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        ("Application/OpenMetrics-Text; version=1.0.0", "application/openmetrics-text;"),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;q=0, text/plain", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=7.0.0", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=x.y", "text/plain; version=0.0.4"),
        ("application/openmetrics-text;version=", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;q=high", "text/plain; version=0.0.4"),
        # Prometheus 3
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
            "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text; version=1.0.0",
        ),
    ],
)
def test_the_client_chooses_the_format(
    exposition: Exposition, accept: str, content_type: str
) -> None:
    page = exposition.page(accept)
    assert page.content_type.startswith(content_type)
    assert page.content.endswith(b"# EOF\n") == ("openmetrics" in content_type)


@pytest.mark.parametrize(
    ("accept_encoding", "is_gzipped"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP;q=0.5, identity", True),
        ("x-gzip", True),
        ("br, *", True),
        ("gzip;q=0, *", False),
        ("gzip;q=0.000", False),
        ("identity", False),
        ("deflate, gzip ; q=1.0", True),
        ("gzip;q=2", False),
    ],
)
def test_the_client_chooses_whether_it_is_compressed(
    exposition: Exposition, accept_encoding: str, is_gzipped: bool
) -> None:
    page = exposition.page("", accept_encoding)
    assert page.is_gzipped is is_gzipped
    content = gzip.decompress(page.content) if is_gzipped else page.content
    assert b"# TYPE http_requests_total counter" in content


@settings(deadline=None)
@given(st.text(), st.text())
def test_whatever_a_client_asks_for_it_gets_something(accept: str, accept_encoding: str) -> None:
    with arena_with(1) as arena:
        assert Exposition(arena, CONFIG).page(accept, accept_encoding).content


@pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_text), (OPEN_METRICS, parse_open_metrics)]
)
def test_metrics_of_the_application_follow_and_their_names_come_first(
    arena: Arena, accept: str, parse: Callable[[bytes], Any], caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    Gauge("http_timeouts_total", "With a suffix.", registry=registry).set(7)
    Counter("http_requests", "Of the framework.", ["handler"], registry=registry).labels("/").inc(3)
    Gauge("queue", "Of the application.", registry=registry).set(2.5)
    arena.slots[0].cells[LAYOUT["requests_without_content"].index(0, 0)] = 5
    exposition = Exposition(arena, CONFIG, application=registry.collect)
    samples = parse(exposition.page(accept).content)
    exposition.page(accept)
    assert caplog.text.count("the application has a metric http_requests:") == 1
    assert value(samples, "http_timeouts_total") == 7
    assert values(samples, "http_requests_total") == {frozenset({("handler", "/")}): 3}
    assert value(samples, "queue") == 2.5
    assert value(samples, "http_bytes_sent_total") == 0


@pytest.mark.parametrize(
    ("accept", "write"), [("", generate_latest), (OPEN_METRICS, openmetrics.generate_latest)]
)
def test_the_application_s_are_as_prometheus_client_writes_them(
    accept: str, write: Callable[[CollectorRegistry], bytes]
) -> None:
    registry = CollectorRegistry()
    counter = Counter("jobs", 'Of "two"\nlines.', ["kind", "path"], registry=registry)
    gauge = Gauge("size", "Sizes.", ["kind"], registry=registry, unit="bytes")
    wait = Histogram("wait", "Waits.", ["kind"], registry=registry)
    Summary("took", "Took.", registry=registry).observe(2)
    Info("build", "Of what.", registry=registry).info({"version": "1"})
    Enum("state", "Which.", states=["on", "off"], registry=registry).state("off")
    encoder = encoder_for(accept)
    values = (0.5, -3, 1e300, math.inf, math.nan, 12345678, 7)
    for number, kind in enumerate(
        ("a", 'with "quotes"', "back\\slash", "two\nlines", "é", "", "%s")
    ):
        counter.labels(kind, "/").inc(number + 0.25)
        gauge.labels(kind).set(values[number])
        wait.labels(kind).observe(number)
        for _ in range(2):
            assert encoder.encode((), list(registry.collect())) == write(registry)
    counter.labels("a", "/").inc(1, exemplar={"trace": "x"})
    assert encoder.encode((), list(registry.collect())) == write(registry)


def test_the_list_of_families_is_complete_and_in_order(arena: Arena) -> None:
    exposition = Exposition(arena, CONFIG, queues=lambda: [SlotQueue(("127.0.0.1", 80), 0, 1, 128)])
    # This process is that of the master and of both workers.
    elsewhere = {"pounce_worker_rss_bytes", "pounce_worker_cpu_seconds", "pounce_worker_open_fds"}
    names = [metric.name for metric in exposition.collect() if metric.samples]
    listed = [family.name for family in FAMILIES]
    assert len(set(listed)) == len(listed)
    nothing_yet = {"http_requests", "http_websocket_closes"}
    assert names == [n for n in listed if n not in elsewhere | nothing_yet]


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"(http|pounce)(_[a-z]+)+", family.name)
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket"))
        assert family.help.endswith(".")
        assert family.unit in ("", "seconds", "bytes")
        if family.unit == "seconds":
            assert family.name.endswith("_seconds")
