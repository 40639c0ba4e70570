"""Histograms in cells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.shm.histogram import exponential_bounds, observer, read_distribution
from pounce.shm.layout import CELL, Counter, Histogram, Layout


@given(
    bounds=st.sets(st.integers(1, 100), max_size=6).map(lambda found: tuple(sorted(found))),
    values=st.lists(st.integers(0, 120) | st.integers(0, 2**50), max_size=30),
    element=st.integers(0, 2),
)
def test_a_histogram_counts_what_is_within_each_bound(
    bounds: tuple[int, ...], values: list[int], element: int
) -> None:
    layout = Layout((Counter("before"), Histogram("sizes", bounds, (3,)), Counter("after")))
    cells = memoryview(bytearray(layout.cells * CELL)).cast("q")
    observe = observer(cells, layout["sizes"], element)
    for value in values:
        observe(value)
    for other in range(3):
        found = read_distribution(cells, layout["sizes"], other)
        mine = values if other == element else []
        within = [sum(value <= bound for value in mine) for bound in bounds]
        assert found.buckets == (*within, len(mine))
        assert found.count == len(mine)
        assert found.sum == sum(mine)
    assert cells[layout["before"].index()] == cells[layout["after"].index()] == 0


def test_exponential_bounds() -> None:
    assert exponential_bounds(100, 2.5, 4) == (100, 250, 625, 1562)


@pytest.mark.parametrize(("first", "factor"), [(0, 2), (1, 1.1), (10, 0.5), (-1, 2)])
def test_bounds_that_do_not_ascend_are_refused(first: int, factor: float) -> None:
    with pytest.raises(ValueError, match="ascend"):
        exponential_bounds(first, factor, 3)
