"""Histograms in cells: one store for the bucket, one for the sum.

There is no cell for the number of observations: it is the sum over the buckets, so that it can
never contradict them. The sum may differ from them by the observation that is under way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pounce.shm.layout import Field, Histogram


def observer(cells: memoryview, field: Field, *element: int) -> Callable[[int], None]:
    """A function that counts an observation, for one element of a histogram.

    It takes an integer of the unit of the bounds, not negative.
    """
    declaration = field.declaration
    assert isinstance(declaration, Histogram), field.name
    bounds = declaration.bounds
    start = field.index(*element)
    total = start + len(bounds) + 1

    def observe(value: int) -> None:
        cells[start + bisect_left(bounds, value)] += 1
        cells[total] += value

    return observe


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram has counted."""

    buckets: tuple[int, ...]
    """Observations up to each bound, those of the smaller ones included; the last one is all."""
    sum: int

    @property
    def count(self) -> int:
        """The number of observations."""
        return self.buckets[-1]


def read_distribution(
    values: Sequence[int] | memoryview, field: Field, *element: int
) -> Distribution:
    """One element of a histogram, from the cells of a slot or from totals."""
    declaration = field.declaration
    assert isinstance(declaration, Histogram), field.name
    start = field.index(*element)
    total = start + len(declaration.bounds) + 1
    return Distribution(tuple(accumulate(values[start:total])), values[total])
