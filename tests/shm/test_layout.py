"""Where an arena keeps what it is declared to hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.shm.layout import CELL, LINE, Counter, Declaration, Gauge, Histogram, Layout

shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
bounds = st.sets(st.integers(1, 1000), max_size=5).map(lambda found: tuple(sorted(found)))


@st.composite
def declarations(draw: st.DrawFn) -> tuple[Declaration, ...]:
    names = draw(st.sets(st.text("abc", min_size=1, max_size=4), max_size=6))
    kinds: list[st.SearchStrategy[Declaration]] = [
        st.one_of(
            st.builds(Counter, st.just(name), shapes),
            st.builds(Gauge, st.just(name), shapes),
            st.builds(Histogram, st.just(name), bounds, shapes),
        )
        for name in sorted(names)
    ]
    return draw(st.tuples(*kinds))


layouts = st.builds(
    Layout,
    declarations(),
    slots=st.integers(1, 5),
    black_box_records=st.integers(0, 4),
    black_box_size=st.integers(0, 50),
    ring_records=st.integers(0, 4),
    ring_size=st.integers(0, 50),
)


@given(layouts)
def test_every_cell_belongs_to_one_element(layout: Layout) -> None:
    cells: list[int] = []
    for field in layout.fields:
        for element, first in field.elements():
            assert field.index(*element) == first
            cells += range(first, first + field.declaration.width)
    assert cells == list(range(layout.cells))


@given(layouts)
def test_gauges_come_after_what_is_summed(layout: Layout) -> None:
    for field in layout.fields:
        is_gauge = isinstance(field.declaration, Gauge)
        assert is_gauge == (field.start >= layout.summed) or field.size == 0


@given(layouts)
def test_parts_do_not_overlap_and_are_aligned(layout: Layout) -> None:
    parts = [(layout.retired_start(copy), layout.retired_size) for copy in (0, 1)]
    parts += [(layout.slot_start(index), layout.slot_size) for index in range(layout.slots)]
    end = 0
    for start, size in parts:
        assert start >= end
        assert start % LINE == size % LINE == 0
        end = start + size
    assert end == layout.size
    assert layout.black_box_start % CELL == layout.ring_start % CELL == 0
    assert layout.black_box_stride % CELL == layout.ring_stride % CELL == 0
    assert layout.ring_start + layout.ring_records * layout.ring_stride <= layout.slot_size


BASE = Layout((Counter("a", (2, 3)), Gauge("b"), Histogram("c", (1, 10))), slots=2)


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, declarations=BASE.declarations[:2]),
        replace(BASE, declarations=BASE.declarations[::-1]),
        replace(BASE, declarations=(Counter("x", (2, 3)), *BASE.declarations[1:])),
        replace(BASE, declarations=(Counter("a", (3, 2)), *BASE.declarations[1:])),
        replace(BASE, declarations=(Gauge("a", (2, 3)), *BASE.declarations[1:])),
        replace(BASE, declarations=(*BASE.declarations[:2], Histogram("c", (1, 11)))),
        replace(BASE, slots=3),
        replace(BASE, black_box_records=1),
        replace(BASE, black_box_size=1),
        replace(BASE, ring_records=1),
        replace(BASE, ring_size=1),
    ],
)
def test_fingerprint_tells_layouts_apart(other: Layout) -> None:
    assert other.fingerprint != BASE.fingerprint
    assert 0 <= other.fingerprint < 2**63


def test_fingerprint_is_that_of_equal_declarations() -> None:
    same = Layout((Counter("a", (2, 3)), Gauge("b"), Histogram("c", (1, 10))), slots=2)
    assert same.fingerprint == BASE.fingerprint


@pytest.mark.parametrize("element", [(), (0,), (2, 0), (0, 3), (-1, 0), (0, 0, 0)])
def test_what_is_not_there_has_no_index(element: tuple[int, ...]) -> None:
    with pytest.raises(IndexError):
        BASE["a"].index(*element)


@pytest.mark.parametrize(
    "change",
    [
        {"declarations": (Counter("a"), Gauge("a"))},
        {"declarations": (Counter("a", (0,)),)},
        {"declarations": (Histogram("a", (2, 1)),)},
        {"declarations": (Histogram("a", (1, 1)),)},
        {"slots": 0},
        {"slots": 1 << 15},
        {"black_box_size": 1 << 16},
        {"ring_records": -1},
    ],
)
def test_nonsense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        replace(BASE, **change)  # type: ignore[arg-type]
