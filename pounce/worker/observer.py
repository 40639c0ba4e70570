"""Who wants to know what a worker does: the access log and the lifecycle collector.

A worker without either has no observer, and pays nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pounce.errors import ProtocolError
from pounce.lifecycle import (
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleEvent,
    RequestStarted,
    ResponseCompleted,
    StreamClosed,
    StreamCloseReason,
    StreamOpened,
)
from pounce.logs.access_log import AccessLog

if TYPE_CHECKING:
    from pounce.worker.connection import Connection
    from pounce.worker.request_cycle import RequestCycle


class Observer:
    """Turns what happens on connections into access log entries and lifecycle events.

    Args:
        access_log: Gets an entry for each response, after it is complete.
        record: Gets each lifecycle event; must not raise.
        worker_id: Goes into each event.
    """

    __slots__ = ("_access_log", "_record", "_worker_id")

    def __init__(
        self,
        access_log: AccessLog | None,
        record: Callable[[LifecycleEvent], None] | None,
        worker_id: int = 0,
    ) -> None:
        self._access_log = access_log
        self._record = record
        self._worker_id = worker_id

    def connection_opened(self, connection: Connection) -> None:
        connection.opened_ns = now = time.monotonic_ns()
        if self._record is not None:
            client = connection.client or ("", 0)
            server = connection.server or ("", 0)
            self._record(
                ConnectionOpened(
                    connection_id=connection.id,
                    worker_id=self._worker_id,
                    timestamp_ns=now,
                    client_addr=client[0],
                    client_port=client[1],
                    server_addr=server[0],
                    server_port=server[1] or 0,
                    protocol=connection.protocol,
                )
            )

    def connection_closed(self, connection: Connection, exc: Exception | None) -> None:
        if self._record is not None:
            now = time.monotonic_ns()
            self._record(
                ConnectionCompleted(
                    connection_id=connection.id,
                    worker_id=self._worker_id,
                    timestamp_ns=now,
                    requests_served=connection.requests,
                    total_bytes_sent=connection.sent_bytes,
                    duration_ms=(now - connection.opened_ns) / 1e6,
                    reason=connection.close_reason
                    or ("client_disconnect" if exc is None else "error"),
                )
            )

    def request_started(self, cycle: RequestCycle) -> None:
        cycle.started_ns = now = time.monotonic_ns()
        if self._record is not None:
            self._started(cycle, now)

    def _started(self, cycle: RequestCycle, now: int) -> None:
        assert self._record is not None
        self._record(
            RequestStarted(
                connection_id=cycle.connection.id,
                worker_id=self._worker_id,
                timestamp_ns=now,
                method=cycle.line.method,
                path=cycle.scope["path"],
                http_version=cycle.line.http_version,
            )
        )

    def stream_opened(self, cycle: RequestCycle) -> None:
        """The response is sent in parts."""
        if self._record is not None:
            scope = cycle.scope
            self._record(
                StreamOpened(
                    connection_id=cycle.connection.id,
                    worker_id=self._worker_id,
                    timestamp_ns=time.monotonic_ns(),
                    method=cycle.line.method,
                    path=scope["path"],
                )
            )

    def websocket_opened(self, cycle: RequestCycle) -> None:
        """The handshake is answered, with `cycle.status`; the request is over with that."""
        self._log(cycle, time.monotonic_ns() - cycle.started_ns)
        if self._record is not None:
            Observer.stream_opened(self, cycle)

    def websocket_closed(self, cycle: RequestCycle, reason: StreamCloseReason, code: int) -> None:
        """What `websocket_opened` was told of has ended."""
        if self._record is not None:
            self._stream_closed(cycle, time.monotonic_ns(), reason)

    def request_completed(self, cycle: RequestCycle) -> None:
        """The response has been written, to its end or as far as it went."""
        self._completed(cycle, time.monotonic_ns())

    def _completed(self, cycle: RequestCycle, now: int) -> None:
        elapsed = now - cycle.started_ns
        self._log(cycle, elapsed)
        if self._record is not None:
            connection = cycle.connection
            connection.sent_bytes += cycle.sent_bytes
            self._record(
                ResponseCompleted(
                    connection_id=connection.id,
                    worker_id=self._worker_id,
                    timestamp_ns=now,
                    status=cycle.status,
                    bytes_sent=cycle.sent_bytes,
                    duration_ms=elapsed / 1e6,
                    method=cycle.line.method,
                    streaming=cycle.streamed,
                )
            )
            if cycle.streamed:
                self._stream_closed(cycle, now, "complete")

    def request_aborted(self, cycle: RequestCycle) -> None:
        """The response did not come to its end: the client went away, the application failed, or
        the client was too slow."""
        now = time.monotonic_ns()
        self._log(cycle, now - cycle.started_ns)
        if self._record is not None:
            connection = cycle.connection
            connection.sent_bytes += cycle.sent_bytes
            gone = cycle.disconnected and connection.close_reason is None
            if gone:
                self._record(
                    ClientDisconnected(
                        connection_id=connection.id,
                        worker_id=self._worker_id,
                        timestamp_ns=now,
                        during_streaming=cycle.streamed,
                    )
                )
            if cycle.streamed:
                reason: StreamCloseReason = "drain" if connection.worker.abandoning else "error"
                self._stream_closed(cycle, now, "client_disconnect" if gone else reason)

    def request_refused(
        self, connection: Connection, exc: ProtocolError, cycle: RequestCycle | None, size: int
    ) -> None:
        """The server answered instead of the application, with `size` bytes of content."""
        if cycle is not None:
            cycle.status = exc.status
            cycle.sent_bytes = size
            self.request_completed(cycle)
            return
        connection.sent_bytes += size
        if self._access_log is not None:
            self._access_log.entries.append(
                (time.time(), 0.0, connection.client, "-", b"", "", exc.status, size, (), (), "")
            )

    def tick(self) -> None:
        if self._access_log is not None:
            self._access_log.flush()

    def _log(self, cycle: RequestCycle, elapsed_ns: int) -> None:
        log = self._access_log
        if log is not None:
            scope, line = cycle.scope, cycle.line
            entries = log.entries
            entries.append(
                (
                    time.time(),
                    elapsed_ns / 1e9,
                    scope["client"],
                    line.method,
                    line.target,
                    line.http_version,
                    cycle.status,
                    cycle.sent_bytes,
                    scope["headers"],
                    cycle.fields,
                    scope["scheme"],
                )
            )
            if len(entries) >= log.BATCH:
                log.flush()

    def _stream_closed(self, cycle: RequestCycle, now: int, reason: StreamCloseReason) -> None:
        assert self._record is not None
        self._record(
            StreamClosed(
                connection_id=cycle.connection.id,
                worker_id=self._worker_id,
                timestamp_ns=now,
                duration_ms=(now - cycle.started_ns) / 1e6,
                reason=reason,
            )
        )
