"""HPACK for requests (RFC 7541), made to decode a head in a few microseconds.

The Huffman code, which is a table of its own, is `hpack`'s. A property test holds the rest to that
library. What is added is that a field section which is too large is decoded to its end, so that the
table stays in step and the request can be answered, but is not kept.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Final

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from pounce.protocol.h1_head import Pair
from pounce.protocol.h2.frames import DEFAULT_TABLE_SIZE

ENTRY_OVERHEAD: Final = 32
"""What an entry counts beyond its name and value (RFC 7541 section 4.1)."""

LONGEST_INTEGER: Final = 5
"""Bytes beyond the prefix; 35 bits are more than any length or index needs (section 5.1)."""

CACHED_STRINGS: Final = 1024
"""How many Huffman-coded strings are remembered, of all connections: many clients say the same."""

CACHED_BYTES: Final = 128
"""Longer ones are decoded each time."""

_decode_again = lru_cache(CACHED_STRINGS)(decode_huffman)

_STATIC_TABLE: Final = HeaderTable.STATIC_TABLE
_STATIC_SIZE: Final = len(_STATIC_TABLE)


ALWAYS_KEPT: Final = 8
"""Fields at the beginning of a section that are kept whatever their size: a request without its
pseudo-fields is none that could be answered."""

TOO_MUCH: Final = 4
"""Times `most`: where decoding ends for good. It would cost more than the request is worth."""


class HpackError(Exception):
    """A block that cannot be decoded (RFC 7541; RFC 9113 section 4.3)."""


class HpackOverflow(Exception):
    """A block says far more than anybody would ask."""


class HpackDecoder:
    """The decoding side of a connection.

    Args:
        most: Bytes of a field section, as SETTINGS_MAX_HEADER_LIST_SIZE counts them, that are
            kept; see `decode`.
    """

    __slots__ = (
        "_entries",
        "_most",
        "_size",
        "allowed_size",
        "generation",
        "table_size",
    )

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: deque[Pair] = deque()
        """The newest first."""
        self._size = 0
        self.table_size = DEFAULT_TABLE_SIZE
        """What the peer's encoder keeps to."""
        self.allowed_size = DEFAULT_TABLE_SIZE
        """What the peer's encoder may use."""
        self.generation = 0
        """Changes whenever the table does."""

    def decode(self, block: bytes) -> tuple[list[Pair], int]:
        """The field section of a block, and its size.

        When the size is greater than `most`, fields are missing at the end.

        Raises:
            HpackError: The table is no longer that of the peer.
            HpackOverflow: Likewise, because the section is not decoded to its end.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("the block ends early, or an index is beyond the tables") from None
        except HPACKDecodingError as exc:
            raise HpackError(str(exc)) from exc

    def _decode(self, block: bytes) -> tuple[list[Pair], int]:
        pairs: list[Pair] = []
        entries = self._entries
        at, end, size = 0, len(block), 0
        while at < end:
            first = block[at]
            at += 1
            if first & 0x80:  # section 6.1: indexed
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, 0x7F)
                # `_entry`, here without a call: most fields are indexed.
                if index > _STATIC_SIZE:
                    pair = entries[index - _STATIC_SIZE - 1]
                elif index:
                    pair = _STATIC_TABLE[index - 1]
                else:
                    raise HpackError("an index of 0")
            elif first & 0xE0 == 0x20:  # section 6.3: the size of the table
                if pairs or size:
                    raise HpackError("a table size update behind a field")
                new_size = first & 0x1F
                if new_size == 0x1F:
                    new_size, at = _integer(block, at, 0x1F)
                self._resize(new_size)
                continue
            else:  # section 6.2: literal
                most = 0x3F if first & 0x40 else 0x0F
                index = first & most
                if index == most:
                    index, at = _integer(block, at, most)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = self._string(block, at)
                value, at = self._string(block, at)
                pair = (name, value)
                if first & 0x40:
                    self._insert(pair)
            size += len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD
            if size <= self._most or len(pairs) < ALWAYS_KEPT:
                pairs.append(pair)
            elif size > self._most * TOO_MUCH:
                raise HpackOverflow("far too many header fields")
        if self.table_size > self.allowed_size:
            # Section 4.2: the peer has acknowledged less, and must say so in this block.
            raise HpackError("the table was not made smaller")
        return pairs, size

    def _entry(self, index: int) -> Pair:
        if 0 < index <= _STATIC_SIZE:
            return _STATIC_TABLE[index - 1]
        index -= _STATIC_SIZE + 1
        if not 0 <= index < len(self._entries):
            raise HpackError("an index beyond the tables")
        return self._entries[index]

    def _string(self, block: bytes, at: int) -> tuple[bytes, int]:
        """Section 5.2: the string, and where it ends."""
        first = block[at]
        length = first & 0x7F
        at += 1
        if length == 0x7F:
            length, at = _integer(block, at, 0x7F)
        end = at + length
        if end > len(block):
            raise HpackError("a string ends early")
        coded = block[at:end]
        if not first & 0x80:
            return coded, end
        decode = _decode_again if length <= CACHED_BYTES else decode_huffman
        return decode(coded), end

    def _insert(self, pair: Pair) -> None:
        """Section 4.4: an entry larger than the table empties it."""
        self.generation += 1
        self._size += len(pair[0]) + len(pair[1]) + ENTRY_OVERHEAD
        self._entries.appendleft(pair)
        if self._size > self.table_size:
            self._evict()

    def _evict(self) -> None:
        entries, size = self._entries, self._size
        while size > self.table_size:
            name, value = entries.pop()
            size -= len(name) + len(value) + ENTRY_OVERHEAD
        self._size = size

    def _resize(self, size: int) -> None:
        if size > self.allowed_size:
            raise HpackError("the table is larger than allowed")
        if size != self.table_size:
            self.generation += 1
            self.table_size = size
            self._evict()


def _integer(block: bytes, at: int, value: int) -> tuple[int, int]:
    """Section 5.1, where the prefix was full: the integer, and where it ends."""
    shift = 0
    for _ in range(LONGEST_INTEGER):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise HpackError("an integer is too long")
