"""Typed events of connections and requests, and what can collect them.

A server that has no collector creates no events. One worker calls `record` from its event loop,
so `record` must be quick and must not block; under a master a thread of the main process calls it,
with the events of all workers.

Events carry `timestamp_ns` of the monotonic clock: differences between two events of one machine
mean something, the absolute value does not.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

_lifecycle_logger = logging.getLogger("pounce.lifecycle")
_error_logger = logging.getLogger("pounce.error")

StreamCloseReason: TypeAlias = Literal["complete", "client_disconnect", "drain", "error"]
ConnectionCloseReason: TypeAlias = Literal[
    "complete", "timeout", "client_disconnect", "error", "backpressure", "write_timeout"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    connection_id: int
    """Unique within one worker."""
    worker_id: int
    timestamp_ns: int = field(default_factory=time.monotonic_ns)
    """`time.monotonic_ns()` at the moment of the event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOpened(_Event):
    """A client's connection was accepted (after the TLS handshake, if there is one)."""

    client_addr: str
    client_port: int
    server_addr: str
    server_port: int
    protocol: str
    """`"h1"`, `"h2"` or `"h3"`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted(_Event):
    """The head of a request is complete and valid; the application is about to be called."""

    method: str
    path: str
    http_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCompleted(_Event):
    """The last byte of a response was handed to the transport."""

    status: int
    bytes_sent: int
    """Bytes of the response body."""
    duration_ms: float
    """From the complete request head to the end of the response."""
    method: str = "unknown"
    streaming: bool = False
    """Whether the body came in more than one part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened(_Event):
    """A response began whose body comes in more than one part, or a WebSocket was accepted."""

    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed(_Event):
    """What `StreamOpened` announced has ended."""

    duration_ms: float
    reason: StreamCloseReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDisconnected(_Event):
    """The client went away before the response was complete."""

    during_streaming: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCompleted(_Event):
    """A connection is closed; every `ConnectionOpened` is followed by exactly one of these.

    `total_bytes_sent` is response content and the payloads of WebSocket messages, as they were sent
    but without framing.
    """

    requests_served: int
    total_bytes_sent: int
    duration_ms: float
    reason: ConnectionCloseReason


LifecycleEvent: TypeAlias = (
    ConnectionOpened
    | RequestStarted
    | ResponseCompleted
    | StreamOpened
    | StreamClosed
    | ClientDisconnected
    | ConnectionCompleted
)


class LifecycleCollector(Protocol):
    """Whatever wants to know what the server does."""

    def record(self, event: LifecycleEvent) -> None:
        """Take note of `event`. Called from the event loop where there is no master: quick, never
        blocking."""


def safe_record(collector: LifecycleCollector) -> Callable[[LifecycleEvent], None]:
    """`collector.record`, made harmless: an exception in it never reaches the server.

    The first failure is logged with its traceback to `pounce.error`; later ones are silent, and
    the collector goes on receiving events.
    """
    record = collector.record
    reported = False

    def recorded(event: LifecycleEvent) -> None:
        nonlocal reported
        try:
            record(event)
        except Exception:
            if not reported:
                reported = True
                _error_logger.exception(
                    "The lifecycle collector %s failed on %s; further failures are not logged",
                    type(collector).__name__,
                    type(event).__name__,
                )

    return recorded


class NoopCollector:
    """Discards every event."""

    def record(self, event: LifecycleEvent) -> None:
        return


class BufferedCollector:
    """Keeps events until they are asked for. Safe to use from several threads.

    Args:
        max_buffer_size: how many events are kept at most; 0 means without limit. When it is
            reached, the buffer is handed to `on_flush`; without `on_flush` the oldest event
            makes room and is counted in `dropped`.
        on_flush: receives the list of events, in order, at every flush that has any. It is
            called outside the lock, by the thread that filled the buffer or called `flush`.

    Raises:
        ValueError: `max_buffer_size` is negative.
    """

    def __init__(
        self,
        max_buffer_size: int = 0,
        on_flush: Callable[[list[LifecycleEvent]], object] | None = None,
    ) -> None:
        if max_buffer_size < 0:
            raise ValueError("max_buffer_size must not be negative")
        self.max_buffer_size = max_buffer_size
        self.dropped = 0
        self._on_flush = on_flush
        self._lock = threading.Lock()
        self._events: deque[LifecycleEvent] = deque()

    def record(self, event: LifecycleEvent) -> None:
        with self._lock:
            self._events.append(event)
            if not self.max_buffer_size or len(self._events) < self.max_buffer_size:
                return
            if self._on_flush is None:
                if len(self._events) > self.max_buffer_size:
                    self._events.popleft()
                    self.dropped += 1
                return
        self.flush()

    def flush(self) -> list[LifecycleEvent]:
        """Empty the buffer: hand its events to `on_flush` and return them, oldest first."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        if events and self._on_flush is not None:
            self._on_flush(events)
        return events

    def __len__(self) -> int:
        return len(self._events)

    def __repr__(self) -> str:
        return f"<BufferedCollector {len(self)} events, {self.dropped} dropped>"


class _InFlight:
    """The requests of one connection that have no response yet.

    Events of HTTP/2 do not say which stream they belong to. So the path is known only while
    there was never more than one request at a time since the connection was last idle.
    """

    __slots__ = ("count", "path")

    def __init__(self, path: str) -> None:
        self.count = 1
        self.path: str | None = path


class LoggingCollector:
    """Writes events to the logger `pounce.lifecycle`.

    A response is logged at INFO, a slow one and one with status 5xx at WARNING; a client that
    goes away, and a connection that ends by timeout, error or back-pressure at INFO; all else
    at DEBUG.

    Args:
        slow_request_threshold_ms: a response that took at least this long is slow.
        log_format: `"json"`: the message is one JSON object, whatever handler writes it;
            `"text"`: the message is for people, and the fields travel as `extra`.
        health_check_path: requests for this path are logged only when slow or failed.

    Raises:
        ValueError: `log_format` is neither `"json"` nor `"text"`.
    """

    def __init__(
        self,
        slow_request_threshold_ms: float = 5000,
        log_format: Literal["json", "text"] = "json",
        health_check_path: str | None = None,
    ) -> None:
        if log_format not in ("json", "text"):
            raise ValueError(f'log_format must be "json" or "text", not {log_format!r}')
        self.slow_request_threshold_ms = slow_request_threshold_ms
        self.log_format = log_format
        self.health_check_path = health_check_path
        self._in_flight: dict[tuple[int, int], _InFlight] = {}

    def record(self, event: LifecycleEvent) -> None:
        path = self._follow(event)
        name, level = self._classify(event)
        if level < logging.WARNING and path is not None and path == self.health_check_path:
            return
        if not _lifecycle_logger.isEnabledFor(level):
            return
        fields: dict[str, Any] = {"event": name, **asdict(event)}
        if path is not None:
            fields["path"] = path
        if self.log_format == "json":
            _lifecycle_logger.log(level, "%s", json.dumps(fields))
            return
        # ascii() of the values, so that a client's line end cannot begin a line of the log.
        details = " ".join(
            f"{key}={ascii(value) if isinstance(value, str) else value}"
            for key, value in fields.items()
            if key not in ("event", "timestamp_ns")
        )
        _lifecycle_logger.log(level, "%s %s", name, details, extra=fields)

    def _follow(self, event: LifecycleEvent) -> str | None:
        """Remember which path is in flight on which connection; return the one of `event`."""
        key = (event.worker_id, event.connection_id)
        if isinstance(event, RequestStarted):
            in_flight = self._in_flight.get(key)
            if in_flight is None:
                self._in_flight[key] = _InFlight(event.path)
            else:
                in_flight.count += 1
                in_flight.path = None
            return event.path
        if isinstance(event, StreamOpened):
            return event.path
        if isinstance(event, ResponseCompleted):
            in_flight = self._in_flight.get(key)
            if in_flight is None:
                return None
            in_flight.count -= 1
            if in_flight.count == 0:
                del self._in_flight[key]
            return in_flight.path
        if isinstance(event, ConnectionCompleted):
            self._in_flight.pop(key, None)
        return None

    def _classify(self, event: LifecycleEvent) -> tuple[str, int]:
        match event:
            case ResponseCompleted():
                if event.duration_ms >= self.slow_request_threshold_ms:
                    return "slow_request", logging.WARNING
                failed = event.status >= 500
                return "response_completed", logging.WARNING if failed else logging.INFO
            case ClientDisconnected():
                return "client_disconnected", logging.INFO
            case ConnectionCompleted():
                usual = event.reason in ("complete", "client_disconnect")
                return "connection_completed", logging.DEBUG if usual else logging.INFO
            case ConnectionOpened():
                return "connection_opened", logging.DEBUG
            case RequestStarted():
                return "request_started", logging.DEBUG
            case StreamOpened():
                return "stream_opened", logging.DEBUG
            case StreamClosed():
                return "stream_closed", logging.DEBUG
