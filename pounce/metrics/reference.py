"""The page of the documentation that lists every metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pounce.metrics.catalogue import METRICS
from pounce.metrics.constants import BUILD
from pounce.metrics.exposition import FAMILIES
from pounce.metrics.families import Family
from pounce.metrics.queue_metrics import QUEUE_FAMILIES
from pounce.metrics.workers import WORKER_FAMILIES

_LABELS: Final[dict[str, tuple[str, ...]]] = {
    **{metric.name: tuple(name for name, _ in metric.labels) for metric in METRICS},
    **{family.name: ("worker",) for family in WORKER_FAMILIES},
    **{family.name: ("address", "slot") for family in QUEUE_FAMILIES},
    BUILD.name: ("version", "python", "implementation"),
}

_INTRODUCTION: Final = """\
# Metrics

What a scrape tells; see the [guide](../guides/metrics.md) for how to ask. Of histograms, Prometheus
sees `_bucket`, `_count` and `_sum`. All workers count together, those that have ended included,
except where there is a label `worker`.
"""


def reference_markdown() -> str:
    """The page, in Markdown."""
    return "\n".join((_INTRODUCTION, *_table(), "", *_values())) + "\n"


def _table() -> Iterator[str]:
    yield "| metric | type | labels | |"
    yield "| --- | --- | --- | --- |"
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in labels_of(family))
        yield f"| `{sample_name(family)}` | {family.kind} | {labels} | {family.help} |"


def _values() -> Iterator[str]:
    yield "## Values of labels"
    yield ""
    yield "| metric | label | values |"
    yield "| --- | --- | --- |"
    for metric in METRICS:
        for label, values in metric.labels:
            listed = ", ".join(f"`{value}`" for value in values)
            yield f"| `{sample_name(_FAMILIES[metric.name])}` | `{label}` | {listed} |"


def labels_of(family: Family) -> tuple[str, ...]:
    """The labels of a family's samples, without `le`."""
    return _LABELS.get(family.name, ())


def sample_name(family: Family) -> str:
    """What a family is called in queries; of histograms, without the endings of its parts."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.kind, "")


_FAMILIES: Final = {family.name: family for family in FAMILIES}
