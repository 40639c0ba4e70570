"""Lifecycle events on their way from a worker to its master: records of the ring in its slot.

A record is marshalled, as quick as that gets: the number of the kind, and the values of its fields.
Both sides run the same Python; the ring checks that a record is whole.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from pounce.lifecycle import (
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleEvent,
    RequestStarted,
    ResponseCompleted,
    StreamClosed,
    StreamOpened,
)
from pounce.shm.ring import RingWriter

_KINDS: Final[tuple[type[Any], ...]] = (
    ConnectionOpened,
    RequestStarted,
    ResponseCompleted,
    StreamOpened,
    StreamClosed,
    ClientDisconnected,
    ConnectionCompleted,
)
_NAMES: Final = tuple(tuple(field.name for field in fields(kind)) for kind in _KINDS)
_VALUES: Final[dict[type[Any], tuple[int, Callable[[Any], tuple[Any, ...]]]]] = {
    kind: (number, attrgetter(*names))
    for number, (kind, names) in enumerate(zip(_KINDS, _NAMES, strict=True))
}
_CUT: Final = "…"


class RingCollector:
    """A collector that leaves the events in a ring. One that does not fit has its texts cut.

    Args:
        ring: The worker's.
        size: Longest payload of a record.
    """

    def __init__(self, ring: RingWriter, size: int) -> None:
        self._write = ring.write
        self._size = size

    def record(self, event: LifecycleEvent) -> None:
        number, values_of = _VALUES[type(event)]
        values = values_of(event)
        payload = marshal.dumps((number, values))
        if len(payload) > self._size:
            payload = self._shortened(number, values, len(payload) - self._size)
        self._write(payload)

    def _shortened(self, number: int, values: tuple[Any, ...], surplus: int) -> bytes:
        longest = max((v for v in values if isinstance(v, str)), key=len)
        # A character takes up to four bytes, and what marks the cut takes three.
        keep = max(0, (len(longest.encode("utf-8", "surrogatepass")) - surplus - 3) // 4)
        kept = longest[:keep] if not longest.isascii() else longest[: len(longest) - surplus - 8]
        short = tuple(kept + _CUT if v is longest else v for v in values)
        return marshal.dumps((number, short))


def event_of(payload: bytes) -> LifecycleEvent:
    """The event in a record.

    Raises:
        ValueError: There is none, as it is another program's.
    """
    try:
        number, values = marshal.loads(payload)
        event: LifecycleEvent = _KINDS[number](**dict(zip(_NAMES[number], values, strict=True)))
    except (EOFError, IndexError, TypeError, ValueError) as error:
        raise ValueError("the record holds no event") from error
    return event
