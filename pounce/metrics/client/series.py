"""What a worker has of one metric object, and how that of several workers becomes one.

A series here is what one object of `prometheus_client` holds for one label set: a counter's
number, a histogram's buckets and sum. Its numbers are a vector of doubles:

| type | vector |
| --- | --- |
| counter, summary, histogram | a number for each sample; buckets are not cumulative |
| gauge | value, time when it was set, 1 if it was ever incremented |
| info | 1, time when it was set |
| stateset | place of the state, time when it was set |

A gauge's modes are those of `prometheus_client.multiprocess`, with the same results. `AUTO` is
for a gauge that names none, see `_combine_auto`.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

Vector = list[float]

AUTO: Final = "auto"
"""Not a mode of `prometheus_client`: stands for none."""

TIME: Final = 1
"""Where a gauge, an info and a state have the time when they were set; 0: never."""

GAUGE_NUMBERS: Final = 3
STATE_NUMBERS: Final = 2


class Rule(NamedTuple):
    """How vectors of several workers become one: by one of two functions."""

    combine: Callable[[Vector, Vector], Vector] | None = None
    """Of two vectors, the second one being of the younger worker."""
    elementwise: Callable[[Iterable[float]], float] | None = None
    """Of the numbers that all workers have in one place."""
    is_live: bool = False
    """Whether what an ended worker had is dropped."""
    is_each: bool = False
    """Whether every process has a sample of its own."""


def exact_sum(numbers: Iterable[float]) -> float:
    """The sum, rounded once, so that it never falls when one of the numbers grows."""
    numbers = tuple(numbers)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # infinite
        return sum(numbers)


def exact_terms(numbers: Iterable[float]) -> Vector:
    """A few numbers that have exactly the same sum."""
    left = list(numbers)
    terms = [exact_sum(left)]
    while terms[-1] and math.isfinite(terms[-1]):
        left.append(-terms[-1])
        terms.append(exact_sum(left))
    return terms if len(terms) == 1 or terms[-1] else terms[:-1]


def _latest(one: Vector, other: Vector) -> Vector:
    return other if other[TIME] >= one[TIME] else one


def _last(one: Vector, other: Vector) -> Vector:
    return other


def _combine_auto(one: Vector, other: Vector) -> Vector:
    """A gauge that is incremented counts what its worker has now, so the workers' are added. One
    that is only ever set is a measurement, so the latest holds. The vector therefore is: sum over
    workers that live, time of the latest, whether it was incremented, the latest value, workers
    that live."""
    latest = _latest(one, other)
    return [one[0] + other[0], latest[1], max(one[2], other[2]), latest[3], one[4] + other[4]]


_RULES: Final = {
    "min": Rule(elementwise=min),
    "max": Rule(elementwise=max),
    "sum": Rule(elementwise=exact_sum),
    "mostrecent": Rule(_latest),
    "all": Rule(_last, is_each=True),
    AUTO: Rule(_combine_auto),
}
_ADDED: Final = Rule(elementwise=exact_sum)
_STATED: Final = Rule(_latest)


def _rule(kind: str, mode: str) -> Rule:
    if kind == "gauge":
        rule = _RULES.get(mode.removeprefix("live"), _RULES[AUTO])
        return rule._replace(is_live=mode.startswith("live"))
    return _STATED if kind in ("info", "stateset") else _ADDED


class Part(NamedTuple):
    """One number of a counter, a summary or a histogram."""

    sample: str
    """The sample's whole name."""
    bound: str | None = None
    """The label `le` of a bucket."""


class Identity:
    """Stands for name, type, mode, labels and parts of a series."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Series:
    """What is known of a series besides its numbers. Equal ones are one object."""

    text: bytes
    """What `decode()` makes it of."""
    name: str
    """The metric family's, without `_total`."""
    kind: str
    """The type, as `prometheus_client` calls it."""
    unit: str
    help: str
    mode: str
    labels: tuple[tuple[str, str], ...]
    details: tuple[Part, ...]
    """Of an info: its labels. Of a stateset: its states. Otherwise the parts."""
    identity: Identity
    """The same for those that are one series to a reader of the metrics."""
    rule: Rule

    @property
    def width(self) -> int:
        """How many of a worker's numbers are needed."""
        if self.kind == "gauge":
            return GAUGE_NUMBERS if self.rule.elementwise is None else 1
        return STATE_NUMBERS if self.kind in ("info", "stateset") else len(self.details)

    def vector(self, values: Vector) -> Vector:
        """The numbers as a worker has written them, ready to be combined."""
        if self.mode == AUTO:
            return [*values[:3], values[0], 1.0]
        return values

    def retired(self, values: Vector) -> Vector | None:
        """What stays of a worker's numbers when it has ended; None: nothing."""
        if self.rule.is_live:
            return None
        if self.mode == AUTO:
            return [0.0, *values[1:3], values[0], 0.0]
        return values


def encode(
    name: str,
    kind: str,
    *,
    labels: Sequence[tuple[str, str]],
    details: Sequence[tuple[str, str | None]],
    unit: str = "",
    help: str = "",
    mode: str = "",
) -> bytes:
    """The text that `decode()` takes. Equal series have equal texts."""
    content = (name, kind, unit, help, mode, sorted(labels), details)
    return json.dumps(content).encode()


_identities: WeakValueDictionary[tuple[object, ...], Identity] = WeakValueDictionary()
_decoded: WeakValueDictionary[bytes, Series] = WeakValueDictionary()


_deciding = threading.Lock()
"""Two objects for one series would be told as two series."""


def decode(text: bytes) -> Series:
    """A series from its text; the same object for the same text, so all workers share it."""
    known = _decoded.get(text)
    if known is None:
        with _deciding:
            known = _decoded.get(text)
            if known is None:
                known = _decoded[text] = _decode_new(text)
    return known


def _decode_new(text: bytes) -> Series:
    content = json.loads(text)
    name, kind, unit, help, mode, labels, details = content
    labels = tuple((key, value) for key, value in labels)
    details = tuple(Part(*detail) for detail in details)
    is_stated = kind in ("info", "stateset")
    alike = name, kind, mode, labels, () if is_stated else details
    identity = _identities.get(alike)
    if identity is None:
        identity = _identities[alike] = Identity()
    rule = _rule(kind, mode)
    return Series(text, name, kind, unit, help, mode, labels, details, identity, rule)


def _unlock_in_child() -> None:
    global _deciding
    _deciding = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
