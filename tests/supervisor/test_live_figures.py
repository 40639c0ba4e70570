from __future__ import annotations

import pytest

from pounce.metrics import catalogue
from pounce.metrics.catalogue import DURATION_BOUNDS, METHODS, REJECTIONS, STATUSES
from pounce.shm.arena import Arena
from pounce.supervisor.live_figures import CountsReader, LiveFigures, quantile

BOUNDS = (1_000_000_000, 2_000_000_000, 4_000_000_000)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([50, 0, 50, 0], 0.99, 3.96),
        ([1, 0, 0, 99], 0.99, 4.0),
        ([99, 1, 0, 0], 0.99, 1.0),
    ],
)
def test_quantiles(counts: list[int], share: float, expected: float | None) -> None:
    found = quantile(BOUNDS, counts, share)
    assert found == (None if expected is None else pytest.approx(expected))


def test_errors_are_those_of_the_application() -> None:
    layout = catalogue.layout(1)
    with Arena.anonymous(layout) as arena:
        slot = arena.acquire(1, 1)
        reader = CountsReader(layout)

        def count(name: str, method: str, status: str, number: int) -> None:
            field = layout[f"requests_{name}_content"]
            slot.cells[field.index(METHODS.index(method), STATUSES.index(status))] += number

        count("without", "GET", "200", 5)
        count("with", "POST", "500", 3)
        count("without", "GET", "5xx", 2)
        count("without", "other", "503", 4)
        rejections = layout["rejections"]
        slot.cells[rejections.index(REJECTIONS.index("overloaded"))] = 3
        counts = reader.read(slot)
        assert (counts.answers, counts.errors) == (14, 6)


def test_figures_are_of_the_last_moments() -> None:
    layout = catalogue.layout(1)
    with Arena.anonymous(layout) as arena:
        slot = arena.acquire(1, 1)
        reader = CountsReader(layout)
        live = LiveFigures(reader)
        request = layout["requests_without_content"].start
        durations = layout["duration_whole"].start
        assert live.read(1, slot, 100.0)["requests_per_second"] is None
        for second in range(100, 200):
            busy = second >= 190
            live.note(1, reader.read(slot), second)
            slot.cells[request] += 20 if busy else 1
            # Slow ones at first, which are forgotten after a minute.
            slot.cells[durations + (len(DURATION_BOUNDS) if second < 120 else 0)] += 1
        found = live.read(1, slot, 200.0)
        assert found["requests_per_second"] == pytest.approx(20)
        assert found["duration_p99"] <= DURATION_BOUNDS[0] / 1e9
        assert found["heartbeat_age"] is None
        slot.start()
        assert 0 <= live.read(1, slot, 200.0)["heartbeat_age"] < 60
        live.forget_all_but([])
        assert live.read(1, slot, 200.0)["duration_p50"] is None
