"""Histograms in cells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pounce.shm.histogram import observer, read_distribution
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
