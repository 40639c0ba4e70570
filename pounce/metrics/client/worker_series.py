"""The series of one worker, as others read them."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pounce.metrics.client.blocks import ExemplarBlock, SeriesBlock, read_block
from pounce.metrics.client.series import Series, Vector
from pounce.metrics.client.totals import Plan, Totals, plan_of
from pounce.shm.chain import Block, ChainReader
from pounce.shm.fence import fence


class WorkerSeries:
    """Reads the chain of a worker. What is there is parsed once, however often it is read."""

    def __init__(self, chain_name: str) -> None:
        self._chain = ChainReader(chain_name)
        self._blocks: list[Block] = []
        self._read: dict[Block, SeriesBlock | ExemplarBlock | None] = {}
        self._all = _NOTHING
        self._families: dict[str, _Selection] = {}
        self._exemplars: list[ExemplarBlock] = []

    def add_to(
        self, totals: Totals, pid: int, *, has_ended: bool = False, family: str | None = None
    ) -> None:
        """Add the worker's series, or those of one family.

        Args:
            totals: What they are added to.
            pid: The worker's.
            has_ended: Whether to add only what stays of it.
            family: The name of a metric family.
        """
        self._refresh()
        selection = self._all if family is None else self._of_family(family)
        alike, one_by_one = selection.read()
        if has_ended or not self._chain.is_current():
            one_by_one = selection.read_one_by_one()  # some may be freed
        else:
            for plan, vector in alike:
                totals.add_alike(plan, vector)
        for series, values in one_by_one:
            kept = series.retired(values) if has_ended else series.vector(values)
            if kept is not None:
                totals.add(series, kept, pid)
        totals.define(selection.plan.families)
        if self._exemplars and not has_ended:
            self._add_exemplars(totals, selection)

    def close(self) -> None:
        """Stop reading."""
        self._blocks = []
        self._read.clear()
        self._all = _NOTHING
        self._families.clear()
        self._exemplars.clear()
        self._chain.close()

    def _refresh(self) -> None:
        blocks = self._chain.blocks()
        if blocks is self._blocks:
            return
        self._read = {block: self._read.get(block) or read_block(block) for block in blocks}
        self._blocks = blocks
        self._families.clear()
        read = self._read.values()
        self._exemplars = [each for each in read if isinstance(each, ExemplarBlock)]
        self._all = _Selection(each for each in read if isinstance(each, SeriesBlock))

    def _of_family(self, name: str) -> _Selection:
        selection = self._families.get(name)
        if selection is None:
            found = [block for block in self._all if block.series.name == name]
            selection = self._families[name] = _Selection(found)
        return selection

    def _add_exemplars(self, totals: Totals, selection: _Selection) -> None:
        blocks = {block.own: block for block in selection}
        for read in self._exemplars:
            block = blocks.get(read.series_number)
            exemplar = read.exemplar() if block is not None else None
            if block is not None and exemplar is not None:
                totals.add_exemplar(block.series, read.place, exemplar)


_Alike = list[tuple[Plan, Sequence[float]]]
_OneByOne = list[tuple[Series, Vector]]


class _Numbers:
    """The numbers of several blocks of one segment, unpacked in one go."""

    def __init__(self, blocks: Sequence[SeriesBlock]) -> None:
        self.plan = plan_of(block.series for block in blocks)
        self._segment = blocks[0].segment
        self._first = blocks[0].start
        place = self._first
        parts = []
        for block in blocks:
            parts.append(f"{block.start - place}x{len(block.numbers)}d")
            place = block.start + block.numbers.nbytes
        # Offsets are aligned, so that nothing is inserted; each number is copied by itself.
        self._struct = struct.Struct("".join(parts))

    def read(self) -> Sequence[float]:
        return self._struct.unpack_from(self._segment, self._first)


class _Selection:
    """Series that are read together."""

    def __init__(self, blocks: Iterable[SeriesBlock]) -> None:
        self._blocks = tuple(blocks)
        self.plan = plan_of(block.series for block in self._blocks)
        self._one_by_one = []
        alike: defaultdict[object, list[SeriesBlock]] = defaultdict(list)
        for block in self._blocks:
            function = block.series.rule.elementwise
            if function is None:
                self._one_by_one.append(block)
            else:
                alike[function, id(block.segment)].append(block)
        self._alike = [_Numbers(found) for found in alike.values()]

    def __iter__(self) -> Iterator[SeriesBlock]:
        return iter(self._blocks)

    def read(self) -> tuple[_Alike, _OneByOne]:
        """All numbers, which hold if no block was freed meanwhile."""
        alike = [(numbers.plan, numbers.read()) for numbers in self._alike]
        return alike, [(block.series, list(block.numbers)) for block in self._one_by_one]

    def read_one_by_one(self) -> _OneByOne:
        """The numbers of all those that are still there."""
        read = [(block, list(block.numbers)) for block in self._blocks]
        fence()
        return [(block.series, values) for block, values in read if block.is_valid()]


_NOTHING: Final = _Selection(())
