"""What is counted of a turn of the event loop when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pounce.worker.meter import Meter


class Turn:
    """A turn of the event loop, as far as what was answered in it is concerned."""

    __slots__ = ("is_counted",)

    def __init__(self) -> None:
        self.is_counted = False


class Tally:
    """Responses of a kind: in which cells they are counted, and those that are not yet."""

    __slots__ = (
        "begun",
        "meter",
        "received",
        "request_cell",
        "sent",
        "size",
        "size_cell",
        "status",
    )

    meter: Meter
    """Whose it is."""

    def __init__(
        self, status: int, size: int, received: int, sent: int, request_cell: int, size_cell: int
    ) -> None:
        self.status = status
        self.size = size
        self.received = received
        """Bytes of the request's content."""
        self.sent = sent
        """Bytes on the wire that nobody else counts."""
        self.request_cell = request_cell
        self.size_cell = size_cell
        self.begun: list[int] = []
        """When each request began whose response is not counted yet."""


NOTHING: Final = Tally(0, -1, 0, 0, 0, 0)
"""No response is of this kind."""
