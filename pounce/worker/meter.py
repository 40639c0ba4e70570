"""Counts what a worker does, in shared memory.

What is rare is stored when it happens. Requests come by the hundred in one turn of the event loop,
and are stored when the turn is over, all at once; until then the black box has them as answered but
not counted, so that it can be said of each what became of it when the worker is killed.

The clock is read twice for a turn, not for each request: all requests that begin in a turn begin
when it does, and all that are answered in it are answered when it is over. That is how clients see
it: their requests were there when the turn began, as the operating system had said so, and what was
written has been sent when it is over. So a duration is never too short, and too long by no more
than the turns in which the request begins and ends.
"""

from __future__ import annotations

import asyncio
import struct
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pounce.errors import ProtocolError
from pounce.lifecycle import LifecycleEvent, StreamCloseReason
from pounce.logs.access_log import AccessLog
from pounce.metrics import catalogue
from pounce.shm.histogram import observer
from pounce.shm.layout import CELL, Layout
from pounce.shm.slot import BLACK_BOX_SETTLED, Slot
from pounce.worker.observer import Observer
from pounce.worker.tally import NOTHING, Tally, Turn

if TYPE_CHECKING:
    from pounce.protocol.h1_head import RequestLine
    from pounce.worker.connection import Connection
    from pounce.worker.lane import Lane
    from pounce.worker.request_cycle import RequestCycle

_clock: Final = time.monotonic_ns
_SUMS: Final = struct.Struct("@qqq")
_DURATION_BOUNDS: Final = catalogue.DURATION_BOUNDS
_SIZE_BOUNDS: Final = catalogue.SIZE_BOUNDS
_KNOWN: Final = 1024
"""Tallies that are remembered. A full table is emptied."""
_BEFORE, _DURING = range(2)
_APPLICATION, _TIMEOUT, _DRAIN = range(3)


class Meter(Observer):
    """An observer that counts, and does what any observer does where that is wanted, too.

    Where nothing else is wanted (`only_counts`), connections may do by themselves what
    `request_started` and `request_completed` do with an ordinary request, the same as the one
    before it on its lane and answered in the same way (`Lane.likely_head`): a call takes as long
    again. `now`, `ticks`, `answered`, `turn` and `box_cells` are there for that.

    Args:
        slot: The worker's, nothing counted in it yet.
        layout: Of the arena, from `catalogue.layout`.
        access_log, record, worker_id: See `Observer`.
    """

    __slots__ = (
        "_box",
        "_bytes_received",
        "_bytes_sent",
        "_cells",
        "_connection_cells",
        "_content",
        "_counts",
        "_dirty",
        "_duration",
        "_duration_sum",
        "_identity",
        "_known",
        "_known_tallies",
        "_last_line",
        "_last_tally",
        "_layout",
        "_lent",
        "_loop",
        "_messages_received_at",
        "_messages_sent_at",
        "_observe",
        "_request_size",
        "_request_size_sum_at",
        "_size",
        "_size_sum",
        "_size_sum_at",
        "_streams",
        "_streams_at",
        "_sums_at",
        "answered",
        "box_cells",
        "now",
        "received",
        "sent",
        "ticks",
        "turn",
    )

    def __init__(
        self,
        slot: Slot,
        layout: Layout,
        access_log: AccessLog | None,
        record: Callable[[LifecycleEvent], None] | None,
        worker_id: int = 0,
    ) -> None:
        Observer.__init__(self, access_log, record, worker_id)
        self._layout = layout
        self._cells = slot.cells
        self._content = slot.cells.cast("B")
        self._identity = slot.identity
        self._box = slot.black_box_writer()
        self.box_cells = self._box.cells
        self._counts = [0] * layout.summed
        """What is in the cells of requests, sizes and durations: reading a list is faster."""
        self._loop = asyncio.get_running_loop()
        self.now = 0
        """When this turn of the event loop, or what was not counted of it, began; 0: not known."""
        self.ticks = 0
        """The same for the black box, in units of `catalogue.BLACK_BOX_TICK`."""
        self.answered = -1
        """The stamp of what is answered since the last `_store`: small, as small integers are
        stored faster."""
        self.turn = Turn()
        """What was answered since the last `_store`."""
        self._dirty: list[Tally] = []
        """The tallies of that."""
        self._lent: list[Lane] = []
        """Lanes that may keep their record no longer than until their request is counted."""
        self._known_tallies: dict[tuple[int, int, int, int], Tally] = {}
        self._known: dict[tuple[str, str, int], int] = {}
        """The cell of each method and status that there was, by the name of the counter."""
        self._last_line: RequestLine | None = None
        self._last_tally = NOTHING
        """How the last response was counted that was unlike the one before it on its lane, and the
        request to it: that of a new connection is often the same."""
        self._duration = layout["duration_whole"].start
        self._sums_at = (layout["bytes_received"].start - 1) * CELL
        assert layout["bytes_sent"].start * CELL == self._sums_at + 2 * CELL
        self._duration_sum = 0
        self._bytes_received = self._bytes_sent = 0
        self.received = 0
        """Bytes from clients since the last `_store`."""
        self.sent = 0
        """Bytes to clients since then, but for those that tallies know of."""
        self._size = layout["response_size"].start
        self._size_sum_at = self._size + len(_SIZE_BOUNDS) + 1
        self._size_sum = 0
        self._request_size = layout["request_size"].start
        self._request_size_sum_at = self._request_size + len(_SIZE_BOUNDS) + 1
        opened, active = layout["connections"].start, layout["connections_active"].start
        self._connection_cells = {
            protocol: (opened + index, active + index)
            for index, protocol in enumerate(catalogue.PROTOCOLS)
        }
        """Where connections are counted, and those that are open, by protocol."""
        self._messages_received_at = layout["messages_received"].start
        self._messages_sent_at = layout["messages_sent"].start
        self._streams = 0
        self._streams_at = layout["streams_active"].start
        self._observe = {
            name: observer(slot.cells, layout[name])
            for name in (
                "duration_streamed",
                "first_byte_streamed",
                "stream_duration",
                "loop_delay",
            )
        }

    @property
    def only_counts(self) -> bool:
        """Whether nobody wants to hear of each request."""
        return self._access_log is None and self._record is None

    def connection_opened(self, connection: Connection) -> None:
        opened, active = self._connection_cells[connection.protocol]
        self._cells[opened] += 1
        self._cells[active] += 1
        if self._record is not None:
            Observer.connection_opened(self, connection)

    def connection_closed(self, connection: Connection, exc: Exception | None) -> None:
        self._cells[self._connection_cells[connection.protocol][1]] -= 1
        for lane in connection.lanes:
            self._forget(lane)
        if self._record is not None:
            Observer.connection_closed(self, connection, exc)

    def websocket_opened(self, cycle: RequestCycle) -> None:
        self._cells[self._connection_cells["ws"][0]] += 1
        self._websocket_moved(cycle, 1)
        # It may stay for days, and thousands may: the records are for requests.
        self._forget(cycle.lane)
        Observer.websocket_opened(self, cycle)

    def websocket_closed(self, cycle: RequestCycle, reason: StreamCloseReason, code: int) -> None:
        self._websocket_moved(cycle, -1)
        self._cells[self._layout["closes"].index(catalogue.close_code_index(code))] += 1
        Observer.websocket_closed(self, cycle, reason, code)

    def messages_received(self, texts: int, number: int) -> None:
        """So many messages came over a WebSocket, so many of them text."""
        at = self._messages_received_at
        self._cells[at] += texts
        self._cells[at + 1] += number - texts

    def message_sent(self, is_text: bool) -> None:
        """A message was sent over a WebSocket."""
        self._cells[self._messages_sent_at + (not is_text)] += 1

    def _websocket_moved(self, cycle: RequestCycle, number: int) -> None:
        cells, where = self._cells, self._connection_cells
        cells[where["ws"][1]] += number
        if cycle.connection.protocol == "h1":
            cells[where["h1"][1]] -= number

    def request_started(self, cycle: RequestCycle) -> None:
        lane = cycle.lane
        if lane.turn is self.turn:
            self._store()
        now = self.now or self._begin_turn()
        cycle.started_ns = now
        if lane.noted_line is cycle.line:
            self.box_cells[lane.stamp] = self.ticks
        else:
            self._note(cycle)
        if self._record is not None:
            self._started(cycle, now)

    def request_completed(self, cycle: RequestCycle) -> None:
        lane = cycle.lane
        tally = lane.tally
        if tally is NOTHING and cycle.line is self._last_line:
            tally = lane.tally = self._last_tally
        if (
            tally.size != cycle.sent_bytes
            or tally.status != cycle.status
            or tally.received != cycle.received_bytes
            or tally.sent != cycle.uncounted
        ):
            tally = self._find_tally(cycle)
        lane.likely_head = None
        if cycle.streamed:
            self._count(tally, 1)
            self._stream_ended(cycle, _clock())
            if lane.stamp:
                self.box_cells[lane.stamp] = 0
        else:
            begun = tally.begun
            if not begun:
                self._dirty.append(tally)
                if not self.now:
                    self._begin_turn()
            begun.append(cycle.started_ns)
            if lane.stamp:
                self.box_cells[lane.stamp] = self.answered
                lane.turn = self.turn
        if self._access_log is not None or self._record is not None:
            self._completed(cycle, _clock())

    def _begin_turn(self) -> int:
        self.now = now = _clock()
        self.ticks = now // catalogue.BLACK_BOX_TICK
        self._loop.call_soon(self._turn_over)
        return now

    def _turn_over(self) -> None:
        if self._dirty:
            self._store()
        self.now = 0

    def _store(self) -> None:
        """Stores what was counted since the last time. What is answered in this turn of the loop
        after that is stored at the end of the turn."""
        now = _clock()
        for tally in self._dirty:
            begun = tally.begun
            number = len(begun)
            self._count(tally, number)
            first = begun[0]
            if begun.count(first) == number:  # as they mostly have begun in one turn
                self._count_durations(now - first, number)
            else:
                for began, number in Counter(begun).items():
                    self._count_durations(now - began, number)
            begun.clear()
        self._dirty.clear()
        self._bytes_received = received = self._bytes_received + self.received
        self._bytes_sent = sent = self._bytes_sent + self.sent
        self.received = self.sent = 0
        _SUMS.pack_into(self._content, self._sums_at, self._duration_sum, received, sent)
        self._identity[BLACK_BOX_SETTLED] = -self.answered
        # What is answered from now on is not settled.
        self.answered -= 1
        if self.now:
            self.now = now
            self.ticks = now // catalogue.BLACK_BOX_TICK
        self.turn.is_counted = True
        self.turn = Turn()
        if self._lent:
            self._take_back()

    def _count_durations(self, duration: int, number: int) -> None:
        at = self._duration + bisect_left(_DURATION_BOUNDS, duration)
        self._counts[at] = count = self._counts[at] + number
        self._cells[at] = count
        self._duration_sum += duration * number

    def _count(self, tally: Tally, number: int) -> None:
        """Stores so many responses, but for their durations."""
        cells, counts = self._cells, self._counts
        at = tally.request_cell
        counts[at] = count = counts[at] + number
        cells[at] = count
        at = tally.size_cell
        counts[at] = count = counts[at] + number
        cells[at] = count
        self._size_sum = total = self._size_sum + tally.size * number
        cells[self._size_sum_at] = total
        self.sent += tally.sent * number
        received = tally.received
        if received:
            cells[self._request_size + bisect_left(_SIZE_BOUNDS, received)] += number
            cells[self._request_size_sum_at] += received * number

    def _take_back(self) -> None:
        """Frees the records of lanes that were lent one, where the request is over."""
        kept = []
        for lane in self._lent:
            if lane.stamp and self.box_cells[lane.stamp] > 0:
                kept.append(lane)
            else:
                self._forget(lane)
        self._lent = kept

    def stream_opened(self, cycle: RequestCycle) -> None:
        cycle.first_byte_ns = now = _clock()
        self._observe["first_byte_streamed"](now - cycle.started_ns)
        self._streams += 1
        self._cells[self._streams_at] = self._streams
        if self._record is not None:
            Observer.stream_opened(self, cycle)

    def request_aborted(self, cycle: RequestCycle) -> None:
        layout, connection = self._layout, cycle.connection
        if cycle.disconnected and connection.close_reason is None:
            when = _DURING if cycle.streamed else _BEFORE
            self._cells[layout["disconnects"].index(when)] += 1
        else:
            late = connection.close_reason in ("timeout", "write_timeout")
            drains = connection.worker.abandoning
            reason = _DRAIN if drains else _TIMEOUT if late else _APPLICATION
            self._cells[layout["cuts"].index(reason)] += 1
        if cycle.streamed:
            self._stream_ended(cycle, _clock())
        self._store()
        self._forget(cycle.lane)
        if self._access_log is not None or self._record is not None:
            Observer.request_aborted(self, cycle)

    def request_refused(
        self, connection: Connection, exc: ProtocolError, cycle: RequestCycle | None, size: int
    ) -> None:
        index = self._layout["rejections"].index(catalogue.rejection_index(exc.status))
        self._cells[index] += 1
        if cycle is None:
            at = self._request_cell("requests_without_content", catalogue.OTHER, exc.status)
            self._counts[at] += 1
            self._cells[at] = self._counts[at]
            self._store()
        # With a cycle this counts it, by `request_completed`.
        Observer.request_refused(self, connection, exc, cycle, size)

    def timed_out(self, what: str) -> None:
        self._cells[self._layout["timeouts"].index(catalogue.TIMEOUTS.index(what))] += 1

    def tick(self) -> None:
        self._store()
        Observer.tick(self)

    def loop_delayed(self, delay_ns: int) -> None:
        """The event loop has come to something so much later than it should have."""
        self._observe["loop_delay"](delay_ns)

    def counted(self, write: Callable[[bytes], None]) -> Callable[[bytes], None]:
        """A `write` that counts."""

        def write_and_count(data: bytes) -> None:
            self.sent += len(data)
            write(data)

        return write_and_count

    def _note(self, cycle: RequestCycle) -> None:
        """Has the black box say what is going on. The lane keeps the record, where there are
        enough: the next request is most likely the same."""
        lane = cycle.lane
        self._forget(lane)
        lane.tally, lane.likely_head = NOTHING, None
        line, client = cycle.line, cycle.connection.client
        text = b"%b %b" % (line.method.encode(), line.target)
        if client is not None:
            who = b" from %b:%d" % (client[0].encode(), client[1])
            text = text[: catalogue.BLACK_BOX_SIZE - len(who)] + who
        box = self._box
        record = box.take(self.ticks, text)
        if record >= 0:
            lane.stamp = record + 1
            lane.noted_line = line
            if box.is_scarce:
                self._lent.append(lane)

    def _forget(self, lane: Lane) -> None:
        """Gives back its record. The request is over, and is counted before that."""
        if lane.turn is self.turn:
            self._store()
        if lane.stamp:
            self._box.release(lane.stamp - 1)
            lane.stamp = 0
            lane.noted_line = lane.likely_head = None

    def _find_tally(self, cycle: RequestCycle) -> Tally:
        """Where a response is counted; that to the same request most likely is, too."""
        status, size, received = cycle.status, cycle.sent_bytes, cycle.received_bytes
        name = "requests_with_content" if received else "requests_without_content"
        request_cell = self._request_cell(name, cycle.line.method, status)
        key = request_cell, size, received, cycle.uncounted
        tally = self._known_tallies.get(key)
        if tally is None:
            size_cell = self._size + bisect_left(_SIZE_BOUNDS, size)
            tally = Tally(status, size, received, cycle.uncounted, request_cell, size_cell)
            tally.meter = self
            if len(self._known_tallies) >= _KNOWN:
                self._known_tallies.clear()
            self._known_tallies[key] = tally
        cycle.lane.tally = self._last_tally = tally
        self._last_line = cycle.line
        return tally

    def _request_cell(self, name: str, method: str, status: int) -> int:
        key = name, method, status
        cell = self._known.get(key)
        if cell is None:
            method_index = catalogue.method_index(method)
            cell = self._layout[name].index(method_index, catalogue.status_index(status))
            # A client that invents methods must not make the table grow.
            if catalogue.METHODS[method_index] == method:
                self._known[key] = cell
        return cell

    def _stream_ended(self, cycle: RequestCycle, now: int) -> None:
        self._streams -= 1
        self._cells[self._streams_at] = self._streams
        self._observe["duration_streamed"](now - cycle.started_ns)
        self._observe["stream_duration"](now - cycle.first_byte_ns)
