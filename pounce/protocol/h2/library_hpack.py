"""HPACK for the `h2` library: that of `hpack`, which is spared what it has done before.

A block means the same, and fields have the same block, as long as the dynamic table does not change
(RFC 7541 section 2.2). So what left the table as it was is remembered until something changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hpack.struct import HeaderTuple
from hpack.table import HeaderTable

from pounce.protocol.h1_head import Pair
from pounce.protocol.h2.response_blocks import SENSITIVE

KNOWN_BLOCKS: Final = 64
"""How many blocks of a connection are remembered each way. A full table is emptied."""

KNOWN_SIZE: Final = 1024
"""Bytes of a block that is."""


class _Table(HeaderTable):
    """Counts its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined]


class RememberingDecoder(Decoder):
    """The receiving side of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self._table = self.header_table = _Table()
        self._known: dict[bytes, Sequence[HeaderTuple]] = {}
        self._known_at = 0
        """The changes of the table when these were decoded."""

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        table, known = self._table, self._known
        headers = known.get(data)
        if headers is not None and raw and self.header_table_size <= self.max_allowed_table_size:
            return list(headers)
        decoded = list(super().decode(data, raw))
        if table.changes != self._known_at:
            self._known_at = table.changes
            known.clear()
        elif raw and len(data) <= KNOWN_SIZE:
            if len(known) >= KNOWN_BLOCKS:
                known.clear()
            known[data] = tuple(decoded)
        return decoded


class RememberingEncoder(Encoder):
    """The sending side of a connection. The same fields must always be as secret."""

    def __init__(self) -> None:
        super().__init__()
        self._table = self.header_table = _Table()
        self._known: dict[Any, bytes] = {}
        self._known_at = 0

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        table, known = self._table, self._known
        key = tuple(headers)
        if table.changes == self._known_at:  # what the peer says may change its size at any time
            block = known.get(key)
            if block is not None:
                return block
        block = super().encode(key, huffman)
        if table.changes != self._known_at:
            self._known_at = table.changes
            known.clear()
        elif len(block) <= KNOWN_SIZE:
            if len(known) >= KNOWN_BLOCKS:
                known.clear()
            known[key] = block
        return block


def with_secrets(pairs: Iterable[Pair]) -> list[Pair]:
    """Has what is worth guessing kept out of everybody's tables (section 7.1.3)."""
    return [NeverIndexedHeaderTuple(*pair) if pair[0] in SENSITIVE else pair for pair in pairs]
