"""The metrics over all workers, from the cells of an arena."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, compress, product
from operator import add
from typing import Final

from pounce.metrics.catalogue import MASTER_ID, METRICS, Metric
from pounce.metrics.families import Family, Labels, Reading
from pounce.shm.arena import Arena
from pounce.shm.layout import Histogram, Layout
from pounce.shm.slot import STARTED, Slot, SlotState

_NANOSECONDS: Final = 1_000_000_000

Cells = Sequence[int]
"""All cells of a slot, summed over the slots."""


class Totals:
    """Reads what is declared in the catalogue."""

    def __init__(self, layout: Layout) -> None:
        self._summed = layout.summed
        self._gauges = layout.cells - layout.summed
        self._readers = [(metric.of_master, _reader(metric, layout)) for metric in METRICS]
        self._masters_gauges = [
            layout[name].start - layout.summed
            for metric in METRICS
            if metric.of_master and metric.kind == "gauge"
            for name in metric.cells
        ]

    def read(self, arena: Arena, slots: Iterable[Slot]) -> list[Reading]:
        """The metrics now.

        Args:
            slots: Those whose workers live.

        Raises:
            SharedMemoryError: The arena is damaged.
        """
        master = max(
            (slot for slot in slots if slot.worker_id == MASTER_ID),
            key=lambda slot: slot.identity[STARTED],
            default=None,
        )
        cells = arena.totals() + self._sum_gauges(slots, master)
        return [read(cells) for of_master, read in self._readers if master or not of_master]

    def _sum_gauges(self, slots: Iterable[Slot], master: Slot | None) -> list[int]:
        each = [slot.cells[self._summed :].tolist() for slot in slots]
        sums = list(map(sum, zip(*each, strict=True))) or [0] * self._gauges
        for index in self._masters_gauges:
            # While one master hands over to another, both have an opinion.
            sums[index] = master.cells[self._summed + index] if master else 0
        return sums


def live_slots(arena: Arena) -> list[Slot]:
    """The slots whose workers have not ended, as far as is known."""
    return [slot for slot in arena.slots_in_use() if slot.state is not SlotState.EXITED]


def family_of(metric: Metric) -> Family:
    """What Prometheus is told of a metric."""
    return Family(metric.name, metric.kind, metric.help, metric.unit)


def _reader(metric: Metric, layout: Layout) -> Callable[[Cells], Reading]:
    if metric.kind == "histogram":
        return _histogram_reader(metric, layout)
    return _sparse_reader(metric, layout) if metric.sparse else _plain_reader(metric, layout)


def _plain_reader(metric: Metric, layout: Layout) -> Callable[[Cells], Reading]:
    family = family_of(metric)
    series = family.series(*_label_sets(metric))
    (name,) = metric.cells
    start = layout[name].start
    end = start + layout[name].size
    return lambda cells: Reading(family, [(series, cells[start:end])])


def _sparse_reader(metric: Metric, layout: Layout) -> Callable[[Cells], Reading]:
    family = family_of(metric)
    each_series = [family.series(labels) for labels in _label_sets(metric)]
    fields = [layout[name] for name in metric.cells]
    spans = [slice(field.start, field.start + field.size) for field in fields]

    def read(cells: Cells) -> Reading:
        numbers = cells[spans[0]]
        for span in spans[1:]:
            numbers = list(map(add, numbers, cells[span]))
        present = compress(zip(each_series, numbers, strict=True), numbers)
        return Reading(family, [(series, (number,)) for series, number in present])

    return read


def _histogram_reader(metric: Metric, layout: Layout) -> Callable[[Cells], Reading]:
    family = family_of(metric)
    fields = [layout[name] for name in metric.cells]
    declaration = fields[0].declaration
    assert isinstance(declaration, Histogram)
    bounds = declaration.bounds
    unit = _NANOSECONDS if metric.unit == "seconds" else 1
    series = family.histogram_series([bound / unit for bound in bounds])
    buckets = len(bounds) + 1
    starts = [start for field in fields for _, start in field.elements()]
    zeros = slice(0, 0)
    if metric.zeros:
        field = layout[metric.zeros]
        zeros = slice(field.start, field.start + field.size)

    def read(cells: Cells) -> Reading:
        columns = (cells[start : start + buckets] for start in starts)
        counts = list(map(sum, zip(*columns, strict=True)))
        total = sum(cells[start + buckets] for start in starts)
        counts[0] += sum(cells[zeros])
        cumulated = list(accumulate(counts))
        return Reading(family, [(series, (*cumulated, cumulated[-1], total / unit))])

    return read


def _label_sets(metric: Metric) -> list[Labels]:
    """The labels of every element, in the order of their cells."""
    names = [name for name, _ in metric.labels]
    return [
        dict(zip(names, values, strict=True))
        for values in product(*(values for _, values in metric.labels))
    ]
