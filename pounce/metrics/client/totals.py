"""Adding up series of several workers, and what comes of them in an exposition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from math import inf
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from pounce.metrics.client.series import (
    AUTO,
    TIME,
    Identity,
    Part,
    Series,
    Vector,
    exact_sum,
    exact_terms,
)


class Entry(NamedTuple):
    """A series with what it is at."""

    series: Series
    vector: Vector
    pid: int
    """0, unless every process has a sample of its own."""


class Plan:
    """Series one after the other. Equal ones are one object, as workers have mostly the same."""

    __slots__ = ("__weakref__", "families", "series")

    def __init__(self, series: tuple[Series, ...]) -> None:
        self.series = series
        self.families = {each.name: each for each in series}
        """The last one of each name."""


def plan_of(series: Iterable[Series]) -> Plan:
    """The plan of these series."""
    series = tuple(series)
    plan = _plans.get(series)
    if plan is None:
        # Of two threads at once each may have its own, which only takes longer to read.
        plan = _plans[series] = Plan(series)
    return plan


_plans: WeakValueDictionary[tuple[Series, ...], Plan] = WeakValueDictionary()


class Totals:
    """The series of all workers, combined. They are added from the oldest worker to the youngest,
    so that after a deployment the new code decides on a metric's type and help."""

    def __init__(self) -> None:
        self._alike: dict[Plan, list[Sequence[float]]] = {}
        self._others: dict[tuple[Identity, int], Entry] = {}
        self._newest: dict[str, Series] = {}
        self._defined: Mapping[str, Series] = {}
        """What was said last of that."""
        self._exemplars: dict[tuple[object, str, str | None], Exemplar] = {}

    def define(self, newest: Mapping[str, Series]) -> None:
        """Say what a worker's metric families are, by name."""
        if newest is not self._defined:
            self._newest.update(newest)
            self._defined = newest

    def add_alike(self, plan: Plan, vector: Sequence[float]) -> None:
        """Add the vectors of several series, one after the other, for all of which one function
        is enough. As workers have mostly the same series, this is much faster than one by one."""
        vectors = self._alike.get(plan)
        if vectors is None:
            self._alike[plan] = [vector]
        else:
            vectors.append(vector)

    def add(self, series: Series, vector: Vector, pid: int) -> None:
        """Add a worker's vector, or one of all that have ended.

        Args:
            series: What it is of.
            vector: Not the numbers as they are written, but `series.vector()` or
                `series.retired()` of them.
            pid: The worker's; for what stays of ended ones as `retired()` said it.
        """
        if series.rule.elementwise is not None:
            self.add_alike(plan_of((series,)), vector)
            return
        key = series.identity, pid if series.rule.is_each else 0
        entry = Entry(series, vector, key[1])
        known = self._others.get(key)
        self._others[key] = entry if known is None else _combine(known, entry)

    def add_exemplar(self, series: Series, place: int, exemplar: Exemplar) -> None:
        """Keep an exemplar of a series' number, if it is the latest."""
        part = series.details[place]
        key = series.labels, part.sample, part.bound
        known = self._exemplars.get(key)
        if known is None or _time_of(known) <= _time_of(exemplar):
            self._exemplars[key] = exemplar

    def entries(self) -> list[Entry]:
        """All of them, each series once, though its help or its details may have changed. A
        histogram whose bounds have changed is still there with both."""
        found = []
        for series, columns in self._columns():
            function = series.rule.elementwise
            assert function is not None
            found.append(Entry(series, [function(column) for column in columns], 0))
        return found + list(self._others.values())

    def retired(self) -> list[Entry]:
        """Entries for later totals. Of sums there may be several, which make the exact one: if
        they were rounded when a worker ends, a total could then be less than before."""
        found = []
        for series, columns in self._columns():
            if series.rule.elementwise is exact_sum:
                terms = [exact_terms(column) for column in columns]
                found += [
                    Entry(series, list(each), 0) for each in zip_longest(*terms, fillvalue=0.0)
                ]
            else:
                function = series.rule.elementwise
                assert function is not None
                found.append(Entry(series, [function(column) for column in columns], 0))
        return found + list(self._others.values())

    def _columns(self) -> Iterable[tuple[Series, Sequence[Sequence[float]]]]:
        """The series for which a function is enough, with what it is to be applied to."""
        found: dict[Identity, tuple[Series, Sequence[Sequence[float]]]] = {}
        for plan, vectors in self._alike.items():
            columns = list(zip(*vectors, strict=True))
            begin = 0
            for series in plan.series:
                end = begin + series.width
                own: Sequence[Sequence[float]] = columns[begin:end]
                begin = end
                known = found.get(series.identity)
                if known is not None:
                    own = [(*one, *other) for one, other in zip(known[1], own, strict=True)]
                found[series.identity] = series, own
        return found.values()

    def families(self) -> list[Metric]:
        """What an exposition says of them. A metric whose type was changed is what the youngest
        worker says it is."""
        families: dict[str, list[Entry]] = {name: [] for name in self._newest}
        for entry in self.entries():
            newest = self._newest[entry.series.name]
            if (newest.kind, newest.mode) == (entry.series.kind, entry.series.mode):
                families[newest.name].append(entry)
        return [self._family(self._newest[name], found) for name, found in families.items()]

    def _family(self, newest: Series, entries: list[Entry]) -> Metric:
        metric = Metric(newest.name, newest.help, newest.kind, newest.unit)
        metric.samples = list(self._samples(newest.kind, entries))
        return metric

    def _samples(self, kind: str, entries: list[Entry]) -> Iterator[Sample]:
        if kind == "histogram":
            yield from self._histograms(entries)
            return
        of_kind: Any = {"gauge": _gauge, "info": _info, "stateset": _states}.get(kind, self._parts)
        for entry in entries:
            yield from of_kind(entry)

    def _parts(self, entry: Entry) -> Iterator[Sample]:
        labels = dict(entry.series.labels)
        for part, value in zip(entry.series.details, entry.vector, strict=True):
            exemplar = self._exemplar(entry.series, part)
            yield Sample(part.sample, labels, value, None, exemplar)

    def _histograms(self, entries: list[Entry]) -> Iterator[Sample]:
        by_labels: dict[object, list[Entry]] = {}
        for entry in entries:
            by_labels.setdefault(entry.series.labels, []).append(entry)
        for found in by_labels.values():
            yield from self._histogram(found)

    def _histogram(self, entries: list[Entry]) -> Iterator[Sample]:
        """The samples of one label set; the bounds of several entries are all there."""
        series = entries[0].series
        name, labels = series.name, dict(series.labels)
        numbers: Iterable[tuple[str | None, float]] = (
            (part.bound, value)
            for entry in entries
            for part, value in zip(entry.series.details, entry.vector, strict=True)
        )
        if len(entries) > 1:
            numbers = _joined(numbers)
        total = count = lowest = 0.0
        bucket = f"{name}_bucket"
        for bound, value in numbers:
            if bound is None:
                total = value
                continue
            count += value
            number, text = _bound_of(bound)
            lowest = min(lowest, number)
            exemplar = self._exemplar(series, Part(bucket, text)) if self._exemplars else None
            yield Sample(bucket, {**labels, "le": text}, count, None, exemplar)
        yield Sample(f"{name}_count", labels, count)
        # With negative observations the sum is no counter.
        if lowest >= 0:
            yield Sample(f"{name}_sum", labels, total)

    def _exemplar(self, series: Series, part: Part) -> Exemplar | None:
        if not self._exemplars:
            return None
        return self._exemplars.get((series.labels, part.sample, part.bound))


@lru_cache(1024)
def _bound_of(text: str) -> tuple[float, str]:
    """The bound of a bucket, and how an exposition writes it."""
    bound = float(text)
    return bound, floatToGoString(bound)  # type: ignore[no-untyped-call]


def _joined(numbers: Iterable[tuple[str | None, float]]) -> list[tuple[str | None, float]]:
    """The sums and buckets of several histograms as those of one, in ascending order."""
    joined: dict[str | None, float] = {}
    for bound, value in numbers:
        key = None if bound is None else _bound_of(bound)[1]
        joined[key] = joined.get(key, 0.0) + value
    return sorted(joined.items(), key=lambda each: -inf if each[0] is None else float(each[0]))


def _combine(one: Entry, other: Entry) -> Entry:
    combine = other.series.rule.combine
    assert combine is not None
    vector = combine(one.vector, other.vector)
    # The details of infos and states are part of what the latest one said.
    is_stated = other.series.kind in ("info", "stateset")
    series = one.series if is_stated and vector is one.vector else other.series
    return Entry(series, vector, other.pid)


def _gauge(entry: Entry) -> Iterator[Sample]:
    series, vector, pid = entry
    labels = dict(series.labels)
    value = vector[0]
    if series.rule.is_each:
        labels["pid"] = str(pid)
    elif series.mode == AUTO:
        _, time, is_incremented, latest, live = vector
        if time and not is_incremented:
            value = latest
        elif not live:
            return
    elif series.mode.endswith("mostrecent") and not vector[TIME]:
        return
    yield Sample(series.name, labels, value)


def _info(entry: Entry) -> Iterator[Sample]:
    series = entry.series
    labels = {key: value or "" for key, value in (*series.labels, *series.details)}
    yield Sample(f"{series.name}_info", labels, 1.0)


def _states(entry: Entry) -> Iterator[Sample]:
    series = entry.series
    for place, (state, _) in enumerate(series.details):
        labels = {**dict(series.labels), series.name: state}
        yield Sample(series.name, labels, 1.0 if place == entry.vector[0] else 0.0)


def _time_of(exemplar: Exemplar) -> float:
    return float(exemplar.timestamp or 0.0)
