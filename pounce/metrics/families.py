"""Metric families as numbers beside prepared samples, and as objects of prometheus_client.

Most of what a scrape says is the same every time: names, labels, help. A `Series` is that part,
made once; the numbers come anew with every reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import INF, floatToGoString

Kind = Literal["counter", "gauge", "histogram", "info"]
Labels = Mapping[str, str]
NO_LABELS: Final[Labels] = {}


@lru_cache(maxsize=4096)
def format_value(value: float) -> str:
    """A number as prometheus_client writes it. Remembered: many values are 0, and many have not
    changed since the last scrape."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """A metric without its values. Names are OpenMetrics's: `_total` and `_info` are left out."""

    name: str
    kind: Kind
    help: str
    unit: str = ""

    def metric(self) -> Metric:
        """An object of prometheus_client, without samples."""
        # OpenMetrics 1.0: a unit is the end of the name.
        unit = self.unit if self.name.endswith(f"_{self.unit}") else ""
        return Metric(self.name, self.help, self.kind, unit)

    def series(self, labels: Labels = NO_LABELS, *more: Labels) -> Series:
        """One sample for each set of labels, of any kind but histograms."""
        suffix = {"counter": "_total", "gauge": "", "info": "_info"}[self.kind]
        return Series(self, tuple((self.name + suffix, each) for each in (labels, *more)))

    def histogram_series(self, bounds: Iterable[float], labels: Labels = NO_LABELS) -> Series:
        """The samples of a histogram: cumulated buckets, the infinite one last; count; sum."""
        edges = [format_value(bound) for bound in (*bounds, INF)]
        buckets = tuple((f"{self.name}_bucket", {**labels, "le": edge}) for edge in edges)
        ends = ((f"{self.name}_count", labels), (f"{self.name}_sum", labels))
        return Series(self, buckets + ends)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Samples of a family that always come together, without their values."""

    family: Family
    samples: tuple[tuple[str, Labels], ...]
    templates: dict[str, str] = field(default_factory=dict, repr=False)
    """By content type: their lines, with a place for each value. The encoder's."""


Values = tuple[Series, Sequence[float]]


class Reading(NamedTuple):
    """A family with its values now."""

    family: Family
    values: Sequence[Values]

    def metric(self) -> Metric:
        """The same as an object of prometheus_client."""
        metric = self.family.metric()
        metric.samples = [
            Sample(name, dict(labels), value)
            for series, values in self.values
            for (name, labels), value in zip(series.samples, values, strict=True)
        ]
        return metric
