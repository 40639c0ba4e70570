"""When HTTP/2 connections and their streams are late, and how connections come to their end."""

from __future__ import annotations

import logging
from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING, Final

from pounce.errors import ProtocolError, RequestTimeoutError
from pounce.protocol.h2.interface import Engine, ErrorCode, GoAwayReceived, PingAcknowledged
from pounce.worker.connection import BODY_RATE_GRACE, FIRST_REQUEST_GRACE
from pounce.worker.h2_cycle import H2Cycle
from pounce.worker.h2_sending import LEAVES, LEFT, STAYS, H2Sending
from pounce.worker.request_cycle import format_client

if TYPE_CHECKING:
    from pounce.lifecycle import ConnectionCloseReason
    from pounce.worker.worker import Worker

logger = logging.getLogger("pounce.error")

GOODBYE_GRACE: Final = 1.0
"""Seconds that requests may still be under way for after the first GOAWAY, where the client does
not say sooner that it has got it."""


class H2Deadlines(H2Sending):
    """The deadlines of a connection, and its goodbye."""

    __slots__ = ("_answer_until", "_final_at", "_heard_at", "_idle_until", "_unread")

    def __init__(
        self,
        worker: Worker,
        engine: Engine,
        server: tuple[str, int | None] | None = None,
        *,
        is_tls: bool = False,
    ) -> None:
        H2Sending.__init__(self, worker, engine, server, is_tls=is_tls)
        self._unread = 0
        """Bytes of request bodies that wait for the application, on all streams."""
        self._final_at = inf
        """When the second GOAWAY is due."""
        self._idle_until = inf
        self._heard_at = 0.0
        self._answer_until = inf
        """When a client that was asked must have said something."""

    @abstractmethod
    def cut(
        self,
        cycle: H2Cycle,
        code: ErrorCode = ErrorCode.INTERNAL_ERROR,
        reason: ConnectionCloseReason = "error",
    ) -> None:
        """Resets a stream in the middle of a response, so that it is seen to be incomplete."""

    @abstractmethod
    def _body_failed(self, cycle: H2Cycle, exc: ProtocolError) -> None:
        """Answers a request whose body is late or too large."""

    # Deadlines

    def allow_body(self, cycle: H2Cycle) -> None:
        """The time for a body begins, anew where this side had made it wait."""
        worker = self.worker
        cycle.late_at = worker.clock + BODY_RATE_GRACE if worker.seconds_per_body_byte else inf
        cycle.deadline = min(worker.clock + worker.timeout_request_body, cycle.late_at)
        if cycle.deadline < self.deadline:
            self.deadline = cycle.deadline

    def _become_idle(self) -> None:
        worker = self.worker
        self._idle_until = worker.clock + worker.timeout_keep_alive
        if self._idle_until < self.deadline:
            self.deadline = self._idle_until
        if worker.closes_idle:
            self._say_goodbye()

    def expire(self, now: float) -> None:
        """A deadline has passed, or may have: called by the sweep."""
        if self.write_deadline <= now:
            self.check_write(now)
        if self.deadline > now or self.lost:
            return
        self.deadline = inf
        if self.closing:
            self._linger_on()
            return
        if self._final_at <= now:
            self._say_final_goodbye()
        self._check_bodies(now)
        if self._stall_at <= now:
            self._check_stalls()
        for carrier in [each for each in self.carriers.values() if each.deadline <= now]:
            carrier.deadline = inf
            carrier.cycle.expire(now)
        if self._is_in_use():
            self._check_life(now)
        elif self._idle_until <= now:
            self._idle_too_long()
        if not self.lost and not self.closing:
            self.deadline = min(self.deadline, self._next_deadline())
        self.send_output()

    def put_off(self, seconds: float) -> None:
        H2Sending.put_off(self, seconds)
        self._final_at += seconds
        self._idle_until += seconds
        self._heard_at += seconds
        self._answer_until += seconds
        self._stall_at += seconds
        for cycle in self.cycles.values():
            cycle.deadline += seconds
            cycle.late_at += seconds
        for carrier in self.carriers.values():
            carrier.deadline += seconds
            carrier.cycle.put_off(seconds)

    def _next_deadline(self) -> float:
        when = min(self._final_at, self._stall_at)
        if not self._is_in_use():
            return min(when, self._idle_until)
        if self._answer_until != inf:
            when = min(when, self._answer_until)
        elif self.worker.h2_ping_interval:
            when = min(when, self._heard_at + self.worker.h2_ping_interval)
        for carrier in self.carriers.values():
            when = min(when, carrier.deadline)
        for cycle in self.cycles.values():
            when = min(when, cycle.deadline)
        return when

    def _check_bodies(self, now: float) -> None:
        for cycle in [cycle for cycle in self.cycles.values() if cycle.deadline <= now]:
            if self._unread >= self.worker.h2_unread:
                # The peer cannot be late while it may not be able to send for our windows.
                self.allow_body(cycle)
            else:
                self.worker.timed_out("request_body")
                self._body_failed(cycle, RequestTimeoutError("the request did not arrive in time"))

    def _check_stalls(self) -> None:
        """Resets the streams of which the peer has taken nothing for too long."""
        for stream_id, before in self._unsent_before.items():
            if not self.engine.queued(stream_id) or self._progress(stream_id) != before:
                continue
            logger.info("%s timed out: write on a stream", format_client(self.client))
            self.worker.timed_out("write")
            cycle = self.cycles.get(stream_id)
            if stream_id in self.carriers:
                self.carriers[stream_id].abort()
            elif cycle is None:
                self.engine.reset(stream_id, ErrorCode.CANCEL)
            else:
                self.cut(cycle, ErrorCode.CANCEL, "write_timeout")
        self._stall_at = inf
        if self.engine.is_blocked():
            self._look_at_unsent()

    def _check_life(self, now: float) -> None:
        """Asks a peer that says nothing whether it is there, and gives up one that is not."""
        interval = self.worker.h2_ping_interval
        if not interval:
            return
        if self._answer_until <= now:
            logger.info("%s timed out: no answer to a ping", format_client(self.client))
            self.close_reason = "timeout"
            self.reset()
        elif self._answer_until == inf and self._heard_at + interval <= now:
            self._answer_until = self.worker.clock + interval
            self.engine.ping()

    def _idle_too_long(self) -> None:
        if self.engine.open_streams:
            # What is answered waits for the peer's windows, whose time is another.
            self._idle_until = self.worker.clock + self.worker.timeout_keep_alive
            return
        self._idle_until = inf
        if self._goodbye == STAYS:
            self.worker.timed_out("keep_alive" if self.requests else "first_byte")
            self.close_reason = self.close_reason or "timeout"
            self._say_goodbye()

    # Goodbye

    def _say_goodbye(self) -> None:
        """Tells the client to open no further stream, and asks for a sign that it knows. Until
        then, what is under way is still served (RFC 9113 section 6.8)."""
        if self._goodbye == STAYS and not self.closing:
            self._goodbye = LEAVES
            self.engine.go_away(final=False)
            self.engine.ping()
            self._final_at = self.worker.clock + GOODBYE_GRACE
            self.deadline = min(self.deadline, self._final_at)
            self.schedule_flush()

    def _say_final_goodbye(self) -> None:
        self._final_at = inf
        if self._goodbye == LEAVES:
            self._goodbye = LEFT
            self.engine.go_away(final=True)
            self.schedule_flush()

    def _ping_acknowledged(self, event: PingAcknowledged) -> None:
        self._say_final_goodbye()

    def _go_away_received(self, event: GoAwayReceived) -> None:
        """The client opens no further stream."""
        self._final_at = inf
        self._goodbye = LEFT

    def shut_down(self, *, gentle: bool = False) -> None:
        """Says goodbye; what is in progress or under way is served. A connection without a request
        yet gets a moment to send one, or (gentle) its ordinary time."""
        for carrier in list(self.carriers.values()):
            carrier.cycle.shut_down()
        if self.requests:
            self._say_goodbye()
        elif not gentle:
            grace = self.worker.clock + FIRST_REQUEST_GRACE
            self._idle_until = min(self._idle_until, grace)
            self.deadline = min(self.deadline, grace)
