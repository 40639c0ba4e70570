"""The one list of what is counted: the cells in shared memory, and the metrics that come of them.

Cells hold whole numbers: nanoseconds, bytes. What can be derived from other cells has none: a
response that is sent whole has its first byte when it has its last one, and a request without
content has a size of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pounce.shm.layout import Counter, Declaration, Gauge, Histogram, Layout

# Labels

OTHER: Final = "other"

METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    OTHER,
)
"""A client may invent methods without end; all of those are one label value."""

_KNOWN_STATUSES: Final = (
    *(200, 201, 202, 203, 204, 205, 206, 207, 208, 226),
    *(300, 301, 302, 303, 304, 305, 307, 308),
    *(*range(400, 419), 420, 421, 422, 423, 424, 425, 426, 428, 429, 430, 431),
    *(440, 444, 449, 450, 451, 460, 463, 494, 495, 496, 497, 498, 499),
    *(*range(500, 512), *range(520, 528), 529, 530, 561, 598, 599),
)
"""Registered ones and those that are in use. Numbers, as Python's own list grows by version."""

STATUSES: Final = (
    *map(str, _KNOWN_STATUSES),
    *(f"{hundreds}xx" for hundreds in range(2, 10)),
)
"""A status that is not known is counted with its class."""

PROTOCOLS: Final = ("h1", "h2", "ws")
"""What connections speak, by ALPN's short names. A WebSocket over HTTP/1.1 takes its connection
from `h1` while it is open; one over HTTP/2 is there beside its connection."""

DISCONNECTS: Final = ("before_response", "during_response")
"""When clients went away whose request was in progress."""

CUTS: Final = ("application", "timeout", "drain")
"""Why responses were cut off in the middle by the server: the application failed, the client was
too slow to take it, the time to drain was over."""

TIMEOUTS: Final = (
    "first_byte",
    "request_head",
    "request_body",
    "keep_alive",
    "write",
    "tls_handshake",
    "ws_open",
    "ws_ping",
    "ws_idle",
    "ws_close",
)
"""Deadlines that connections missed, by the options `timeout_*`."""

REJECTIONS: Final = (
    "malformed",
    "content_too_large",
    "uri_too_long",
    "fields_too_large",
    "timeout",
    "overloaded",
    "not_implemented",
    OTHER,
)
"""Why the server answered in place of the application."""

EXIT_REASONS: Final = ("drained", "killed", "boot_failure", "crash", "outside")
"""How workers ended; the values of `supervisor.pool_events.ExitReason`."""

RECYCLE_REASONS: Final = (
    "reload",
    "restart",
    "max_requests",
    "max_lifetime",
    "max_rss",
    "max_rss_growth",
    "max_error_rate",
    "max_open_fds",
    "max_stuck_threads",
    "worker_stall",
    OTHER,
)
"""Why workers were replaced that served; the labels of the policies in `supervisor`."""

RESULTS: Final = ("succeeded", "failed")

MESSAGE_TYPES: Final = ("text", "binary")
"""Of WebSockets."""

CLOSE_CODES: Final = (
    *("1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009"),
    *("1010", "1011", "1012", "1013", "1014"),
    OTHER,
)
"""Those of RFC 6455 and its registry; the others belong to applications."""

_CLOSE_CODE_INDEX: Final = {int(code): i for i, code in enumerate(CLOSE_CODES) if code != OTHER}
_OTHER_CODE: Final = CLOSE_CODES.index(OTHER)
_METHOD_INDEX: Final = {name: index for index, name in enumerate(METHODS)}
_OTHER_METHOD: Final = METHODS.index(OTHER)
_STATUS_INDEX: Final = {int(text): index for index, text in enumerate(STATUSES) if text.isdigit()}
_CLASS_INDEX: Final = {
    int(text[0]): index for index, text in enumerate(STATUSES) if text.endswith("xx")
}
_REJECTION_BY_STATUS: Final = {
    400: "malformed",
    408: "timeout",
    413: "content_too_large",
    414: "uri_too_long",
    431: "fields_too_large",
    501: "not_implemented",
    503: "overloaded",
    505: "not_implemented",
}


def close_code_index(code: int) -> int:
    """The place of a close code in `CLOSE_CODES`."""
    return _CLOSE_CODE_INDEX.get(code, _OTHER_CODE)


def method_index(method: str) -> int:
    """The place of a method in `METHODS`."""
    return _METHOD_INDEX.get(method, _OTHER_METHOD)


def status_index(status: int) -> int:
    """The place of a final status, from 200 to 999, in `STATUSES`."""
    index = _STATUS_INDEX.get(status)
    return _CLASS_INDEX[status // 100] if index is None else index


def rejection_index(status: int) -> int:
    """The place in `REJECTIONS` of what the server says with a status of its own."""
    return REJECTIONS.index(_REJECTION_BY_STATUS.get(status, OTHER))


# Buckets

_MICROSECOND: Final = 1_000
_MILLISECOND: Final = 1_000_000
_SECOND: Final = 1_000_000_000

DURATION_BOUNDS: Final = (
    *(250 * _MICROSECOND, 500 * _MICROSECOND),
    *(n * _MILLISECOND // 10 for n in (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)),
    *(n * _SECOND // 10 for n in (10, 25, 50, 100, 300)),
)
"""From a quarter of a millisecond to half a minute."""

STREAM_BOUNDS: Final = tuple(
    n * _SECOND // 100 for n in (1, 5, 10, 50, 100, 500, 1_000, 3_000, 6_000, 30_000, 360_000)
)

SIZE_BOUNDS: Final = tuple(4**power for power in range(3, 15))
"""From 64 bytes to 256 MiB."""

LOOP_DELAY_BOUNDS: Final = tuple(
    n * _MILLISECOND for n in (1, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)
)


LISTENERS: Final = 8
"""Listening sockets of a worker whose accept queues are told of."""

# Cells. Every slot of the arena has all of them; those of the master are written in its own slot.

CELLS: Final[Sequence[Declaration]] = (
    # The sum of the durations and the two after it are stored in one go by `worker.meter`.
    Histogram("duration_whole", DURATION_BOUNDS),
    Counter("bytes_received"),
    Counter("bytes_sent"),
    Histogram("response_size", SIZE_BOUNDS),
    Histogram("duration_streamed", DURATION_BOUNDS),
    Histogram("first_byte_streamed", DURATION_BOUNDS),
    Histogram("stream_duration", STREAM_BOUNDS),
    Histogram("request_size", SIZE_BOUNDS),
    Histogram("loop_delay", LOOP_DELAY_BOUNDS),
    # Apart, so that requests without content need no cell of their size, and no bucket of the sizes
    # ever falls: one store counts a request.
    Counter("requests_without_content", (len(METHODS), len(STATUSES))),
    Counter("requests_with_content", (len(METHODS), len(STATUSES))),
    Counter("connections", (len(PROTOCOLS),)),
    Counter("disconnects", (len(DISCONNECTS),)),
    Counter("cuts", (len(CUTS),)),
    Counter("timeouts", (len(TIMEOUTS),)),
    Counter("rejections", (len(REJECTIONS),)),
    Counter("messages_received", (len(MESSAGE_TYPES),)),
    Counter("messages_sent", (len(MESSAGE_TYPES),)),
    Counter("closes", (len(CLOSE_CODES),)),
    Gauge("connections_active", (len(PROTOCOLS),)),
    Gauge("streams_active"),
    Gauge("stuck_threads"),
    # Of a worker, written by whoever gave it the slot: its place in the pool, and the inodes of
    # its listening sockets.
    Gauge("place"),
    Gauge("listeners", (LISTENERS,)),
    # Of the master
    Counter("worker_exits", (len(EXIT_REASONS),)),
    Counter("worker_recycles", (len(RECYCLE_REASONS),)),
    Counter("reloads", (len(RESULTS),)),
    Counter("upgrades", (len(RESULTS),)),
    Gauge("workers_wanted"),
)

MASTER_ID: Final = 0
"""The worker id of the master's own slot; those of workers begin with 1."""

BLACK_BOX_TICK: Final = 10_000_000
"""Nanoseconds of the monotonic clock to one of the black box: a small integer is stored in half the
time, and so many of these fit into one for 124 days."""
BLACK_BOX_RECORDS: Final = 512
"""Requests in flight that one worker can note at once."""
BLACK_BOX_SIZE: Final = 176
"""Bytes of method, target and client."""
RING_RECORDS: Final = 512
RING_SIZE: Final = 240


def slots_for(workers: int) -> int:
    """Slots for a pool of that size: each worker and its successor at once, some that are killed
    and not yet gone, room to grow, and the master's own."""
    return 2 * workers + 15


def layout(slots: int) -> Layout:
    """The layout of the arena."""
    return Layout(
        tuple(CELLS),
        slots=slots,
        black_box_records=BLACK_BOX_RECORDS,
        black_box_size=BLACK_BOX_SIZE,
        ring_records=RING_RECORDS,
        ring_size=RING_SIZE,
    )


# Metrics


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family that is made of cells."""

    name: str
    """As Prometheus is told, with the unit; the suffix `_total` of counters left out."""
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    cells: tuple[str, ...]
    """Fields that are added up."""
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Name and values for each dimension of the fields."""
    unit: Literal["", "seconds", "bytes"] = ""
    """Cells have nanoseconds where it is seconds."""
    sparse: bool = False
    """Whether what is 0 is left out, because there are many."""
    zeros: str = ""
    """Counter of further observations, of size 0."""
    of_master: bool = False
    """Whether it means nothing where there is no master."""


METRICS: Final = (
    Metric(
        "http_requests",
        "counter",
        "Responses to HTTP requests, complete ones.",
        ("requests_without_content", "requests_with_content"),
        (("method", METHODS), ("status", STATUSES)),
        sparse=True,
    ),
    Metric(
        "http_request_duration_seconds",
        "histogram",
        "Time from when the server turns to a request to the end of the response.",
        ("duration_whole", "duration_streamed"),
        unit="seconds",
    ),
    Metric(
        "http_time_to_first_byte_seconds",
        "histogram",
        "Time from when the server turns to a request to the first byte of the response.",
        ("duration_whole", "first_byte_streamed"),
        unit="seconds",
    ),
    Metric(
        "http_stream_duration_seconds",
        "histogram",
        "Time from the first to the last part of responses that are sent in parts.",
        ("stream_duration",),
        unit="seconds",
    ),
    Metric(
        "http_request_size_bytes",
        "histogram",
        "Content of requests, without framing; requests without content have 0.",
        ("request_size",),
        unit="bytes",
        zeros="requests_without_content",
    ),
    Metric(
        "http_response_size_bytes",
        "histogram",
        "Content of responses, without framing.",
        ("response_size",),
        unit="bytes",
    ),
    Metric(
        "http_connections_active",
        "gauge",
        "Open connections, and WebSockets.",
        ("connections_active",),
        (("protocol", PROTOCOLS),),
    ),
    Metric(
        "http_connections",
        "counter",
        "Connections accepted; over TLS, after the handshake. WebSockets are counted besides.",
        ("connections",),
        (("protocol", PROTOCOLS),),
    ),
    Metric(
        "http_streams_active",
        "gauge",
        "Responses that are being sent in parts.",
        ("streams_active",),
    ),
    Metric(
        "http_bytes_received",
        "counter",
        "Bytes of requests, with framing, after decryption.",
        ("bytes_received",),
        unit="bytes",
    ),
    Metric(
        "http_bytes_sent",
        "counter",
        "Bytes of responses, with framing, before encryption.",
        ("bytes_sent",),
        unit="bytes",
    ),
    Metric(
        "http_client_disconnects",
        "counter",
        "Clients that went away while their request was in progress.",
        ("disconnects",),
        (("when", DISCONNECTS),),
    ),
    Metric(
        "http_responses_cut",
        "counter",
        "Responses that the server cut off in the middle.",
        ("cuts",),
        (("reason", CUTS),),
    ),
    Metric(
        "http_timeouts",
        "counter",
        "Connections that missed a deadline.",
        ("timeouts",),
        (("reason", TIMEOUTS),),
    ),
    Metric(
        "http_rejections",
        "counter",
        "Requests that the server answered in place of the application.",
        ("rejections",),
        (("reason", REJECTIONS),),
    ),
    Metric(
        "http_websocket_messages_received",
        "counter",
        "Messages from clients over WebSockets.",
        ("messages_received",),
        (("type", MESSAGE_TYPES),),
    ),
    Metric(
        "http_websocket_messages_sent",
        "counter",
        "Messages to clients over WebSockets.",
        ("messages_sent",),
        (("type", MESSAGE_TYPES),),
    ),
    Metric(
        "http_websocket_closes",
        "counter",
        "WebSockets that were closed, by the code that either side gave; 1006 where none did.",
        ("closes",),
        (("code", CLOSE_CODES),),
        sparse=True,
    ),
    Metric(
        "pounce_worker_exits",
        "counter",
        "Workers that ended.",
        ("worker_exits",),
        (("reason", EXIT_REASONS),),
        of_master=True,
    ),
    Metric(
        "pounce_worker_recycles",
        "counter",
        "Workers that were replaced although they lived.",
        ("worker_recycles",),
        (("reason", RECYCLE_REASONS),),
        of_master=True,
    ),
    Metric(
        "pounce_stuck_threads",
        "gauge",
        "Threads of synchronous work that have been in one call for too long.",
        ("stuck_threads",),
    ),
    Metric(
        "pounce_reloads",
        "counter",
        "Reloads of configuration and code.",
        ("reloads",),
        (("result", RESULTS),),
        of_master=True,
    ),
    Metric(
        "pounce_upgrades",
        "counter",
        "Upgrades of the running program.",
        ("upgrades",),
        (("result", RESULTS),),
        of_master=True,
    ),
    Metric(
        "pounce_workers_wanted",
        "gauge",
        "The size that the pool is to have.",
        ("workers_wanted",),
        of_master=True,
    ),
)
"""What is made of totals and gauges over all workers. What is told of each worker by itself is in
the exposition."""
