"""Gauges that a function of the application answers for, in the process that is asked."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics import Gauge, MetricWrapperBase
from prometheus_client.metrics_core import Metric


def has_callback(metric: MetricWrapperBase) -> bool:
    """Whether `Gauge.set_function()` was called."""
    return isinstance(metric, Gauge) and "_child_samples" in vars(metric)


def add_callbacks(metric: MetricWrapperBase, family: Metric) -> None:
    """Add what the functions of a gauge and its label sets say now."""
    for gauge in _with_callbacks(metric):
        labels = dict(zip(gauge._labelnames, gauge._labelvalues, strict=False))
        for sample in gauge._child_samples():
            family.add_sample(metric._name, labels, sample.value)


def _with_callbacks(metric: MetricWrapperBase) -> Iterator[Gauge]:
    if not isinstance(metric, Gauge):
        return
    candidates = [metric, *vars(metric).get("_metrics", {}).copy().values()]
    for gauge in candidates:
        if has_callback(gauge):
            yield gauge
