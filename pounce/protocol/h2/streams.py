"""What the native engine knows of a stream."""

from __future__ import annotations

from collections import deque
from typing import Final

from pounce.protocol.h2 import frames
from pounce.protocol.h2.interface import RequestHead
from pounce.protocol.h2.stream_states import StreamState

LARGEST_DATA: Final = frames.SMALLEST_FRAME_LIMIT
"""Content in one DATA frame, also where the peer takes more: others get their turn."""


class Outgoing:
    """The content of a response that has not been sent."""

    __slots__ = (
        "ended",
        "full",
        "is_serial",
        "is_waiting",
        "parts",
        "size",
        "stream",
        "stream_id",
        "trailers",
        "urgency",
    )

    def __init__(self, stream_id: int, stream: Stream) -> None:
        self.stream_id = stream_id
        self.stream = stream
        self.parts: deque[bytes | memoryview] = deque()
        self.size = 0
        self.ended = False
        """Whether nothing follows what is queued."""
        self.trailers: bytes | None = None
        """The header block that ends the stream behind it."""
        self.full = False
        """Whether the server waits for `SendReady`."""
        self.is_waiting = False
        """Whether the scheduler has it, among those that have a window."""
        self.urgency, self.is_serial = stream.turn()

    def take_frames(self, size: int, is_last: bool, out: list[bytes | memoryview]) -> int:
        """Moves the next `size` bytes, of which there are so many, into DATA frames.

        Args:
            is_last: The last of them ends the stream.

        Returns:
            The size of the frames.
        """
        self.size -= size
        total = size
        if size > LARGEST_DATA:
            header = frames.HEADER.pack(LARGEST_DATA << 8, 0, self.stream_id)
            while size > LARGEST_DATA:
                out.append(header)
                self._take(LARGEST_DATA, out)
                size -= LARGEST_DATA
                total += frames.HEADER_SIZE
        out.append(
            frames.HEADER.pack(size << 8, frames.END_STREAM if is_last else 0, self.stream_id)
        )
        self._take(size, out)
        return total + frames.HEADER_SIZE

    def _take(self, size: int, out: list[bytes | memoryview]) -> None:
        """Moves bytes without copying them."""
        parts = self.parts
        while size:
            part = parts[0]
            if len(part) <= size:
                out.append(part)
                parts.popleft()
                size -= len(part)
            else:
                view = part if type(part) is memoryview else memoryview(part)
                out.append(view[:size])
                parts[0] = view[size:]
                return


class Stream:
    """A stream that is not closed.

    The attributes of the class are what most streams never change: a request without a body whose
    response leaves at once. So making one costs as little as an object can.
    """

    head: RequestHead
    remote_ended = True
    local_ended = False
    send_credit = 0
    """The send window, without the peer's SETTINGS_INITIAL_WINDOW_SIZE: a change of that applies
    to all streams at once (RFC 9113 section 6.9.2)."""
    receive_credit = 0
    """Likewise of the receive window."""
    unconsumed = 0
    """Bytes that the server has not said `consumed` of."""
    unreturned = 0
    """Bytes consumed that no WINDOW_UPDATE has returned."""
    left = -1
    """Bytes of content to come; -1: not known."""
    outgoing: Outgoing | None = None
    """Since the head of the response was sent, where that did not end the stream."""
    priority: tuple[int, bool] | None = None
    """From PRIORITY_UPDATE, which overrides the field (RFC 9218 section 7)."""

    @property
    def state(self) -> StreamState:
        """The state of RFC 9113 section 5.1."""
        if self.remote_ended:
            return StreamState.HALF_CLOSED_REMOTE
        return StreamState.HALF_CLOSED_LOCAL if self.local_ended else StreamState.OPEN

    def turn(self) -> tuple[int, bool]:
        """Urgency, and whether it is sent to its end before others of the same urgency.

        Only who says so is sent one after the other: of a client that gives no priorities nothing
        is known, and one large response shall not hold up all others (RFC 9218 section 10).
        """
        if self.priority is not None:
            urgency, incremental = self.priority
            return urgency, not incremental
        head = self.head
        signalled = any(name == b"priority" for name, _ in head.pairs)
        return head.urgency, signalled and not head.incremental
