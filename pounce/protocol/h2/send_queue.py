"""What waits to be sent on the streams of a connection, and whose turn it is (RFC 9218).

The most urgent stream goes first. Among equals, one that is not incremental is sent to its end
before the next, as half of it is of no use; incremental ones take turns, frame by frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from pounce.protocol.h1_head import Pair
from pounce.protocol.h2.priority import DEFAULT_URGENCY

URGENCIES = 8


class StreamQueue:
    """The content of one response that has not been sent."""

    __slots__ = ("ended", "incremental", "is_listed", "parts", "size", "trailers", "urgency")

    def __init__(self, urgency: int = DEFAULT_URGENCY, *, incremental: bool = False) -> None:
        self.urgency = urgency
        self.incremental = incremental
        self.parts: deque[bytes | memoryview] = deque()
        self.size = 0
        self.ended = False
        """Whether nothing follows what is queued."""
        self.trailers: Sequence[Pair] | None = None
        """What ends the stream behind the content."""
        self.is_listed = False

    @property
    def is_empty(self) -> bool:
        """Whether there is neither content nor an end to send."""
        return not self.size and not self.ended

    def put(self, data: bytes, *, ended: bool = False) -> None:
        """Appends content."""
        if data:
            self.parts.append(data)
            self.size += len(data)
        self.ended = self.ended or ended

    def take(self, limit: int) -> bytes:
        """The next content, at most `limit` bytes."""
        parts = self.parts
        if not parts:
            return b""
        first = parts[0]
        if len(first) <= limit and (len(parts) == 1 or len(first) == limit):
            parts.popleft()
            self.size -= len(first)
            return bytes(first)
        taken: list[bytes | memoryview] = []
        left = limit
        while parts and left:
            part = parts[0]
            if len(part) <= left:
                taken.append(part)
                left -= len(part)
                parts.popleft()
            else:
                view = memoryview(part)
                taken.append(view[:left])
                parts[0] = view[left:]
                left = 0
        data = b"".join(taken)
        self.size -= len(data)
        return data


class SendScheduler:
    """The queues of a connection that have something to send, in the order of their urgency."""

    __slots__ = ("_listed",)

    def __init__(self) -> None:
        self._listed: tuple[deque[tuple[int, StreamQueue]], ...] = tuple(
            deque() for _ in range(URGENCIES)
        )

    def add(self, stream_id: int, queue: StreamQueue) -> None:
        """Something was put into a queue."""
        if not queue.is_listed and not queue.is_empty:
            queue.is_listed = True
            self._listed[queue.urgency].append((stream_id, queue))

    def remove(self, stream_id: int, queue: StreamQueue) -> None:
        """The queue is empty or its stream gone."""
        if queue.is_listed:
            queue.is_listed = False
            self._listed[queue.urgency].remove((stream_id, queue))

    def reprioritise(
        self, stream_id: int, queue: StreamQueue, urgency: int, *, incremental: bool
    ) -> None:
        """The peer has changed its mind (RFC 9218 section 7)."""
        was_listed = queue.is_listed
        self.remove(stream_id, queue)
        queue.urgency, queue.incremental = urgency, incremental
        if was_listed:  # what has sent its end has nothing to send again
            self.add(stream_id, queue)

    def next(self, window_of: Callable[[int], int]) -> tuple[int, StreamQueue] | None:
        """Whose turn it is of those that the peer's windows let send something."""
        for listed in self._listed:
            for entry in listed:
                if not entry[1].size or window_of(entry[0]) > 0:
                    return entry
        return None

    def yield_turn(self, stream_id: int, queue: StreamQueue) -> None:
        """A frame of an incremental stream was sent: others of its urgency come before the next."""
        if queue.is_listed and queue.incremental:
            listed = self._listed[queue.urgency]
            listed.remove((stream_id, queue))
            listed.append((stream_id, queue))

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(self._listed)
