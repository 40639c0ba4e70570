"""What a worker counts: makes the records of its metrics, in its chain of shared memory."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.metrics import Enum, Info, MetricWrapperBase
from prometheus_client.samples import Exemplar

from pounce.errors import SharedMemoryError
from pounce.metrics.client import blocks
from pounce.metrics.client.series import AUTO, GAUGE_NUMBERS, TIME, Part, encode
from pounce.metrics.client.values import (
    AutoGaugeValue,
    GaugeValue,
    Record,
    SharedValue,
    local_cells,
)
from pounce.shm.chain import Block, ChainWriter

logger = logging.getLogger("pounce.error")

Labels = list[tuple[str, str]]


class UnaskedMode(str):
    """The mode of a gauge for which none was named. To `prometheus_client` it is the default."""

    __slots__ = ()


UNASKED: Final = UnaskedMode("all")


@dataclass(slots=True)
class _Draft:
    """A record that is being made."""

    kind: str
    family: str
    help: str
    labels: Labels
    mode: str = ""
    parts: list[Part] = field(default_factory=list)
    record: Record = field(default_factory=lambda: Record(local_cells([])))

    def text(self, unit: str) -> bytes:
        return encode(
            self.family,
            self.kind,
            labels=self.labels,
            details=self.parts,
            unit=unit,
            help=self.help,
            mode=self.mode,
        )


@dataclass(slots=True)
class _Stored:
    """Where a record is."""

    block: Block
    own: int
    text: bytes
    exemplars: dict[int, Block] = field(default_factory=dict)


class Recorder:
    """Makes records for the metrics of this process, and frees them.

    Where shared memory is full, a record is in memory of this process alone, and a line in the
    log says so: the application must not fail for it.

    Args:
        chain_name: Of the chain to write.
    """

    def __init__(self, chain_name: str) -> None:
        self._chain: ChainWriter | None = ChainWriter(chain_name)
        self._lock = threading.RLock()
        self._own = 0
        self._stored: weakref.WeakKeyDictionary[Record, _Stored] = weakref.WeakKeyDictionary()
        self._of_metric: weakref.WeakKeyDictionary[MetricWrapperBase, list[Record]] = (
            weakref.WeakKeyDictionary()
        )
        self._building = threading.local()
        self._has_warned = False
        _recorders.add(self)

    @contextlib.contextmanager
    def building(self, metric: MetricWrapperBase) -> Iterator[None]:
        """While a metric makes its values: they become one record."""
        if getattr(self._building, "drafts", None) is not None:
            yield  # a subclass calls its base
            return
        drafts: list[_Draft] = []
        self._building.drafts = drafts
        try:
            yield
        finally:
            self._building.drafts = None
        for draft in drafts:
            self._store_draft(draft, metric._unit)
        records = [draft.record for draft in drafts]
        if isinstance(metric, Info):
            records.append(Record(local_cells([1.0, 0.0])))
            self._store(records[-1], _info_text(metric, {}))
        self._keep(metric, records)

    def value(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> SharedValue:
        """A new value, as `prometheus_client.values.ValueClass` is called for one."""
        labels = list(zip(labelnames, labelvalues, strict=False))
        bound = labels.pop()[1] if labels and labels[-1][0] == "le" else None
        mode = AUTO if isinstance(multiprocess_mode, UnaskedMode) else multiprocess_mode
        draft = _Draft(typ, metric_name, help_text, labels, mode)
        drafts: list[_Draft] | None = getattr(self._building, "drafts", None)
        if typ == "gauge":
            value_class = AutoGaugeValue if mode == AUTO else GaugeValue
            value: SharedValue = value_class(draft.record, 0)
        else:
            if drafts and _belong_together(drafts[-1], draft):
                draft = drafts[-1]
            draft.parts.append(Part(name, bound))
            value = SharedValue(draft.record, len(draft.parts) - 1)
        if drafts is None:
            self._store_draft(draft, "")
        elif not drafts or drafts[-1] is not draft:
            drafts.append(draft)
        return value

    def enum(self, metric: Enum) -> None:
        """Make the record of an enum, which has no values as others have."""
        record = Record(local_cells([0.0, 0.0]))
        self._store(record, _states_text(metric))
        self._keep(metric, [record])

    def state_info(self, metric: Info, labels: Mapping[str, str]) -> None:
        """Store what an info says now."""
        when = time.time()
        for record in self._records_of(metric):
            text = _info_text(metric, labels)
            with record.lock:
                stored = self._stored.get(record)
                if stored is not None and stored.text == text:
                    record.cells[TIME] = when
                    return
                self._stored.pop(record, None)
                record.cells = local_cells([1.0, when])
                self._store(record, text)
                if stored is not None:
                    self._free(stored)

    def state_enum(self, metric: Enum, place: int) -> None:
        """Store the state that an enum has now."""
        for record in self._records_of(metric):
            with record.lock:
                record.cells[0] = place
                record.cells[TIME] = time.time()

    def release(self, metric: MetricWrapperBase) -> None:
        """Free what a metric has in shared memory, because it was removed. Who still holds it
        goes on counting for himself."""
        with self._lock:
            records = self._of_metric.pop(metric, [])
        for record in records:
            record.detach()
            with self._lock:
                stored = self._stored.pop(record, None)
            if stored is not None:
                self._free(stored)

    def close(self) -> None:
        """Stop writing. What was written stays; the metrics go on in this process alone."""
        with self._lock:
            records = list(self._stored)
            self._stored.clear()
            self._of_metric.clear()
            chain, self._chain = self._chain, None
        for record in records:
            record.detach()
        if chain is not None:
            chain.close()

    def _keep(self, metric: MetricWrapperBase, records: list[Record]) -> None:
        with self._lock:
            self._of_metric[metric] = records

    def _records_of(self, metric: MetricWrapperBase) -> list[Record]:
        with self._lock:
            return self._of_metric.get(metric, [])

    # Shared memory

    def _store_draft(self, draft: _Draft, unit: str) -> None:
        numbers = GAUGE_NUMBERS if draft.kind == "gauge" else len(draft.parts)
        draft.record.cells = local_cells([0.0] * numbers)
        self._store(draft.record, draft.text(unit))

    def _store(self, record: Record, text: bytes) -> None:
        """Put a record, which has its numbers, into shared memory."""
        with self._lock:
            values = record.cells.tolist()
            block = self._allocate(blocks.series_size(len(values), text))
            if self._chain is None or block is None:
                return
            self._own += 1
            own = self._own
            record.cells = blocks.write_series(block, own, values, text)
            self._chain.publish(block)
            self._stored[record] = _Stored(block, own, text)
            reference = weakref.ref(record)

        def write(place: int, exemplar: Exemplar) -> None:
            known = reference()
            if known is not None:
                self._write_exemplar(known, place, exemplar)

        record.write_exemplar = write

    def _allocate(self, size: int) -> Block | None:
        if self._chain is None:
            return None
        try:
            return self._chain.allocate(size)
        except SharedMemoryError as error:
            if not self._has_warned:
                self._has_warned = True
                logger.error("further metrics are left out of the totals: %s", error)
            return None

    def _write_exemplar(self, record: Record, place: int, exemplar: Exemplar) -> None:
        with self._lock:
            stored = self._stored.get(record)
            if stored is None or self._chain is None:
                return
            block = stored.exemplars.get(place)
            if block is None:
                block = self._allocate(blocks.EXEMPLAR_SIZE)
                if block is None:
                    return
                self._own += 1
                blocks.write_exemplar_block(block, self._own, stored.own, place)
                self._chain.publish(block)
                stored.exemplars[place] = block
            blocks.write_exemplar(block, exemplar)

    def _free(self, stored: _Stored) -> None:
        with self._lock:
            if self._chain is not None:
                for block in (stored.block, *stored.exemplars.values()):
                    blocks.disown(block)
                    self._chain.free(block)

    def _detach_in_child(self) -> None:
        """A process that the application forks off must not write what its parent writes."""
        self._lock = threading.RLock()
        self._chain = None
        for record in list(self._stored):
            record.unlock_in_child()
            record.detach()
        self._stored.clear()


def _belong_together(one: _Draft, other: _Draft) -> bool:
    return (one.kind, one.family, one.labels) == (other.kind, other.family, other.labels)


def _info_text(metric: Info, labels: Mapping[str, str]) -> bytes:
    return _text(metric, sorted(labels.items()))


def _states_text(metric: Enum) -> bytes:
    return _text(metric, [(state, None) for state in metric._states])


def _text(metric: MetricWrapperBase, details: Sequence[tuple[str, str | None]]) -> bytes:
    return encode(
        metric._name,
        metric._type or "unknown",
        labels=list(zip(metric._labelnames, metric._labelvalues, strict=False)),
        details=details,
        unit=metric._unit,
        help=metric._documentation,
    )


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._detach_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
