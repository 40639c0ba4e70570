"""What ended workers had: two copies in shared memory, of which the fold word makes one valid."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Final
from zlib import crc32

from pounce.metrics.client.series import Series, decode
from pounce.metrics.client.totals import Entry, Plan, Totals, plan_of
from pounce.shm import names
from pounce.shm.layout import CELL
from pounce.shm.segment import Segment, SegmentNotFoundError, unlink

_HEADER_SIZE: Final = 3 * CELL


class RetiredSeries:
    """Writes the copies, and reads the valid one. What was read last is kept parsed.

    A copy is a segment of its own, as large as it has to be: serial number, checksum, length,
    and then the entries in JSON, which keeps doubles as they are.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self._serial = 0
        self._entries = _Entries([])

    def add_to(self, totals: Totals, serial: int, family: str | None = None) -> None:
        """Add the entries of a copy, or those of one family; 0 is the one without any.

        Raises:
            SegmentNotFoundError: The copy was replaced.
        """
        if serial != self._serial:
            self._entries = _Entries(self._read(serial) if serial else [])
            self._serial = serial
        self._entries.add_to(totals, family)

    def write(
        self, serial: int, entries: Sequence[Entry], share_with: tuple[int, int] | None
    ) -> None:
        """Write a copy, in the place of the one before the last.

        Raises:
            SharedMemoryError: There is not enough shared memory.
        """
        content = [(entry.series.text.decode("utf-8"), *entry[1:]) for entry in entries]
        text = json.dumps(content).encode()
        unlink(self._name(serial))
        size = _HEADER_SIZE + len(text)
        segment = Segment.create(size, self._name(serial), share_with=share_with)
        header = segment.content[:_HEADER_SIZE].cast("q")
        header[0], header[1], header[2] = serial, crc32(text), len(text)
        segment.content[_HEADER_SIZE:] = text
        header.release()
        segment.close(keep_name=True)

    def _name(self, serial: int) -> str:
        return names.further_name(self._base, serial & 1)

    def _read(self, serial: int) -> list[Entry]:
        with Segment.attach(self._name(serial)) as segment:
            stored_serial, checksum, length = segment.content[:_HEADER_SIZE].cast("q")
            text = bytes(segment.content[_HEADER_SIZE : _HEADER_SIZE + length])
        if stored_serial != serial or crc32(text) != checksum:
            raise SegmentNotFoundError(f"shared memory {self._name(serial)} was replaced")
        return [
            Entry(decode(series.encode("utf-8")), vector, pid)
            for series, vector, pid in json.loads(text)
        ]


class _Entries:
    """The content of a copy."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._families = {entry.series.name: entry.series for entry in entries}
        self._others = [entry for entry in entries if entry.series.rule.elementwise is None]
        alike: defaultdict[object, list[Entry]] = defaultdict(list)
        terms: Counter[Series] = Counter()
        for entry in entries:
            series = entry.series
            if series.rule.elementwise is not None:
                alike[series.rule.elementwise, terms[series]].append(entry)
                terms[series] += 1
        self._alike = [_joined(found) for found in alike.values()]

    def add_to(self, totals: Totals, family: str | None) -> None:
        if family is None:
            for plan, vector in self._alike:
                totals.add_alike(plan, vector)
            for entry in self._others:
                totals.add(*entry)
            totals.define(self._families)
        elif family in self._families:
            for entry in self._entries:
                if entry.series.name == family:
                    totals.add(*entry)
            totals.define({family: self._families[family]})


def _joined(entries: Sequence[Entry]) -> tuple[Plan, Sequence[float]]:
    plan = plan_of(entry.series for entry in entries)
    return plan, tuple(chain.from_iterable(entry.vector for entry in entries))
