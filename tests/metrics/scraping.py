"""Reading an exposition as Prometheus does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

from pounce.metrics.exposition import Exposition

OPEN_METRICS = "application/openmetrics-text;version=1.0.0"

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]


def samples_of(metrics: Iterable[Metric]) -> dict[tuple[str, Labels], float]:
    """Values by name and labels; each sample must be there only once."""
    found: dict[tuple[str, Labels], float] = {}
    for metric in metrics:
        for sample in metric.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def parse_text(content: bytes) -> dict[tuple[str, Labels], float]:
    """What is in a text of any version but OpenMetrics."""
    return samples_of(parser.text_string_to_metric_families(content.decode()))


def parse_open_metrics(content: bytes) -> dict[tuple[str, Labels], float]:
    """What is in an OpenMetrics text; the parser checks a lot."""
    families = openmetrics_parser.text_string_to_metric_families(content.decode())  # type: ignore[no-untyped-call]
    return samples_of(families)


def scrape(exposition: Exposition) -> dict[tuple[str, Labels], float]:
    return parse_text(exposition.page().content)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def count(samples: Samples, name: str, **labels: str) -> float:
    """A counter, which may not be there before there is something to count."""
    return samples.get((name, frozenset(labels.items())), 0.0)


def values(samples: Samples, name: str) -> dict[Labels, float]:
    """All samples of one name, by their labels."""
    return {labels: number for (each, labels), number in samples.items() if each == name}
