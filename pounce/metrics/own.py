"""The application's metrics where all workers are in one process: its registry has everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def own_metrics() -> Iterable[Metric]:
    """What the application has counted in this process."""
    # Imported when they are asked for: a server without metrics does without prometheus_client.
    from prometheus_client import REGISTRY

    from pounce.metrics.client.collector import ClientCollector

    return ClientCollector(None, REGISTRY).collect()
