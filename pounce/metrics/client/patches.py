"""How `prometheus_client` comes to count in shared memory: what is replaced in it, and put back.

It makes its numbers by `values.ValueClass`, which is meant to be chosen when it is imported; this
is where its own multiprocess mode goes. The rest is for what that mode leaves out: units, infos
and states, label sets that are removed, callbacks, and a registry that knows all workers.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

import prometheus_client.values
from prometheus_client import REGISTRY
from prometheus_client.metrics import (
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    MetricWrapperBase,
    Summary,
)
from prometheus_client.metrics_core import Metric

from pounce.metrics.client.callbacks import add_callbacks, has_callback
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.client.recorder import UNASKED, Recorder
from pounce.metrics.client.values import SharedValue

_KINDS: Final = (Counter, Gauge, Summary, Histogram, Info)


def is_left_to_the_user() -> bool:
    """Whether the application's metrics are shared by files, as the environment asks for."""
    return any(
        name in os.environ for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
    )


class Patches:
    """The metrics of this process, recorded for all workers.

    Args:
        recorder: Where they are counted.
        reader: What a registry in this process says of them.
    """

    def __init__(self, recorder: Recorder, reader: StoreReader) -> None:
        self._recorder = recorder
        self._reader = reader
        self._originals: list[tuple[Any, str, Any]] = []

    def apply(self) -> None:
        """Have metrics that are made from now on count in shared memory."""
        self._replace(prometheus_client.values, "ValueClass", lambda _: _ValueClass(self._recorder))
        for kind in _KINDS:
            self._replace(kind, "_metric_init", self._building)
        self._replace(MetricWrapperBase, "collect", self._collecting)
        self._replace(MetricWrapperBase, "remove", self._removing)
        self._replace(MetricWrapperBase, "clear", self._removing_many)
        if hasattr(MetricWrapperBase, "remove_by_labels"):
            self._replace(MetricWrapperBase, "remove_by_labels", self._removing_many)
        self._replace(Gauge, "set_function", self._calling)
        self._replace(Info, "info", self._informing)
        self._replace(Enum, "__init__", self._enumerating)
        self._replace(Enum, "state", self._stating)
        self._replace(Gauge.__init__, "__defaults__", _with_mode_unasked)

    def move_metrics(self, *, is_forked: bool) -> None:
        """Have the metrics that were made before `apply()` count in shared memory as well.

        Args:
            is_forked: Whether they came with the process from the one that it was forked from:
                counters then begin at 0, as otherwise each worker would count the same.
        """
        for metric in _all_metrics():
            self._move(metric, is_forked=is_forked)

    def remove(self) -> None:
        """Put back what was replaced."""
        for owner, name, original in reversed(self._originals):
            setattr(owner, name, original)
        self._originals.clear()

    def _replace(self, owner: Any, name: str, replaced: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        self._originals.append((owner, name, original))
        setattr(owner, name, replaced(original))

    def _move(self, metric: MetricWrapperBase, *, is_forked: bool) -> None:
        """Have a metric that was made before count in shared memory."""
        if isinstance(metric, Gauge) and metric._multiprocess_mode == "all":
            vars(metric)["_multiprocess_mode"] = metric._kwargs["multiprocess_mode"] = UNASKED
        if _is_parent(metric) or has_callback(metric):
            return
        state = {name: vars(metric).get(name) for name in ("_value", "_count", "_sum", "_buckets")}
        created = vars(metric).get("_created")
        metric._metric_init()  # type: ignore[no-untyped-call]
        if created is not None and not is_forked:
            metric._created = created  # type: ignore[attr-defined]
        if isinstance(metric, Enum):
            self._recorder.enum(metric)
            metric.state(metric._states[state["_value"] or 0])
        elif isinstance(metric, Info):
            metric.info(state["_value"] or {})
        elif isinstance(metric, Gauge) or not is_forked:
            for name, old in state.items():
                _copy_values(old, vars(metric).get(name))

    # What takes the place of methods

    def _building(self, original: Callable[..., None]) -> Callable[..., None]:
        def _metric_init(metric: MetricWrapperBase) -> None:
            with self._recorder.building(metric):
                original(metric)

        return _metric_init

    def _collecting(self, original: Callable[..., Any]) -> Callable[..., Iterable[Metric]]:
        def collect(metric: MetricWrapperBase) -> Iterable[Metric]:
            family: Metric = metric._get_metric()  # type: ignore[no-untyped-call]
            for found in self._reader.families(metric._name):
                if found.type == family.type:
                    family.samples = found.samples
            add_callbacks(metric, family)
            return [family]

        return collect

    def _removing(self, original: Callable[..., None]) -> Callable[..., None]:
        def remove(metric: MetricWrapperBase, *labelvalues: Any) -> None:
            removed = vars(metric).get("_metrics", {}).get(tuple(map(str, labelvalues)))
            original(metric, *labelvalues)
            if removed is not None:
                self._recorder.release(removed)

        return remove

    def _removing_many(self, original: Callable[..., None]) -> Callable[..., None]:
        def remove(metric: MetricWrapperBase, *args: Any, **kwargs: Any) -> None:
            held = vars(metric).get("_metrics", {})
            before = held.copy()
            original(metric, *args, **kwargs)
            after = vars(metric).get("_metrics", {})
            # One that is replaced may have got further ones meanwhile.
            for labelvalues, child in (held if after is not held else before).items():
                if after.get(labelvalues) is not child:
                    self._recorder.release(child)

        return remove

    def _calling(self, original: Callable[..., None]) -> Callable[..., None]:
        def set_function(gauge: Gauge, f: Callable[[], float]) -> None:
            original(gauge, f)
            self._recorder.release(gauge)

        return set_function

    def _informing(self, original: Callable[..., None]) -> Callable[..., None]:
        def info(metric: Info, val: dict[str, str]) -> None:
            original(metric, val)
            self._recorder.state_info(metric, val)

        return info

    def _enumerating(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(metric: Enum, *args: Any, **kwargs: Any) -> None:
            original(metric, *args, **kwargs)
            if not _is_parent(metric):
                self._recorder.enum(metric)

        return __init__

    def _stating(self, original: Callable[..., None]) -> Callable[..., None]:
        def state(metric: Enum, state: str) -> None:
            original(metric, state)
            self._recorder.state_enum(metric, metric._states.index(state))

        return state


class _ValueClass:
    """Stands for a class of values: it is called for each."""

    _multiprocess = False

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, *args: Any, **kwargs: Any) -> SharedValue:
        return self._recorder.value(*args, **kwargs)


def _is_parent(metric: MetricWrapperBase) -> bool:
    return bool(metric._labelnames) and not metric._labelvalues


def _with_mode_unasked(defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(UNASKED if default == "all" else default for default in defaults)


def _all_metrics() -> list[MetricWrapperBase]:
    """Every metric that exists, with the children for label sets. Those that the garbage
    collector does not list, because they are frozen, are at least found by the registry."""
    # By type(): isinstance() asks objects for `__class__`, which some answer with code of theirs.
    found = {id(o): o for o in gc.get_objects() if issubclass(type(o), MetricWrapperBase)}
    for collector in list(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            found[id(collector)] = collector
            found |= {id(child): child for child in vars(collector).get("_metrics", {}).values()}
    return [metric for metric in found.values() if "_labelvalues" in vars(metric)]


def _copy_values(old: Any, new: Any) -> None:
    if isinstance(old, list):
        for one, other in zip(old, new, strict=True):
            _copy_values(one, other)
    elif old is not None and old.get():
        new.set(old.get())
