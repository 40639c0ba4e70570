"""Header blocks of responses as ready bytes (RFC 7541 section 6).

A block refers to the static table only, never to the dynamic one: so it means the same at any time
and on all connections, and is made once for a status and its fields. Repeating the fields costs
some bytes on the wire; keeping a table for each connection costs more time than these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from hpack.table import HeaderTable

from pounce.protocol.h1_head import Pair
from pounce.protocol.h1_response import BODILESS
from pounce.protocol.h2.frames import END_HEADERS, HEADERS, SMALLEST_FRAME_LIMIT
from pounce.protocol.h2.interface import PreparedHead
from pounce.protocol.h2.response_fields import DefaultFields, checked, plain_fields

CACHED_HEADS: Final = 512
"""How many heads, and how many fields, are remembered. A full table is emptied."""

CACHED_FIELDS: Final = 32
"""Heads with more fields are encoded each time."""

CACHED_BYTES: Final = 4096
"""Longer heads and fields are encoded each time, which bounds the tables."""

# RFC 7541 section 6.2: literals without indexing, or never indexed on the way either.
_WITHOUT_INDEXING: Final = 0x00
_NEVER_INDEXED: Final = 0x10
# RFC 7541 section 7.1.3: what is worth guessing is kept out of everybody's tables.
SENSITIVE: Final = frozenset({b"set-cookie", b"authorization", b"proxy-authorization"})

EMPTY_TABLE: Final = b"\x20"
"""A dynamic table size update to 0 (RFC 7541 section 6.3)."""

_NAMES: Final = {
    name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))
}
_PAIRS: Final = {pair: index for index, pair in enumerate(HeaderTable.STATIC_TABLE, 1) if pair[1]}


class ResponseBlock(PreparedHead):
    """An encoded head."""

    __slots__ = ("block", "prefix")

    def __init__(self, block: bytes, *, has_content: bool, content_length: int) -> None:
        PreparedHead.__init__(self, has_content=has_content, content_length=content_length)
        self.block = block
        self.prefix = b""
        """The beginning of a HEADERS frame with this block, up to the stream; b"" where content
        does not simply follow it: the block needs more than one frame, or there may be none."""
        length = len(block)
        if has_content and length <= SMALLEST_FRAME_LIMIT:
            self.prefix = (length << 8 | HEADERS).to_bytes(4, "big") + bytes([END_HEADERS])


class ResponseBlocks:
    """Encodes response heads. Holds the tables that all connections of a worker share."""

    __slots__ = ("_defaults", "_fields", "known")

    def __init__(self) -> None:
        self._defaults = DefaultFields()
        self._fields: dict[Pair, bytes] = {}
        self.known: dict[tuple[object, ...], ResponseBlock] = {}
        """By (status, *fields), with the default fields of now."""

    def set_default_fields(
        self, date: bytes | None, server: bytes | None, extra: Sequence[Pair]
    ) -> None:
        """See `Engines.set_default_fields`."""
        self._defaults.set(date, server, extra)
        self.known.clear()

    def prepare(self, status: int, fields: Iterable[Sequence[bytes]]) -> ResponseBlock:
        """The head of a final response.

        Raises:
            TypeError, ValueError: It is malformed.
        """
        key: tuple[Any, ...] = (status, *fields)
        try:
            head = self.known.get(key)
        except TypeError:  # fields given as lists, or with values that cannot be remembered
            key = (status, *[(name, value) for name, value in key[1:]])
            for pair in key[1:]:
                checked(*pair)
            head = self.known.get(key)
        return self._prepare_new(status, key[1:]) if head is None else head

    def _prepare_new(self, status: int, given: Sequence[Pair]) -> ResponseBlock:
        pairs, content_length = self._defaults.complete(status, given)
        encoded = self._encode(pairs)
        block = ResponseBlock(
            encoded, has_content=status not in BODILESS, content_length=content_length
        )
        if len(given) <= CACHED_FIELDS and len(encoded) <= CACHED_BYTES:
            if len(self.known) >= CACHED_HEADS:
                self.known.clear()
            self.known[(status, *given)] = block
        return block

    def informational(self, status: int, fields: Iterable[Sequence[bytes]]) -> bytes:
        """The block of a 1xx response.

        Raises:
            TypeError, ValueError: It is malformed. 101 is none of HTTP/2 (RFC 9113 section 8.6).
        """
        if not isinstance(status, int) or not 100 <= status <= 199 or status == 101:
            raise ValueError(f"{status!r} is not an informational status code")
        return self._encode([(b":status", b"%d" % status), *plain_fields(fields)])

    def trailers(self, fields: Iterable[Sequence[bytes]]) -> bytes:
        """The block of a trailer section, b"" when nothing is in it.

        Raises:
            TypeError, ValueError: It is malformed.
        """
        return self._encode(plain_fields(fields))

    def _encode(self, pairs: Iterable[Pair]) -> bytes:
        known = self._fields
        parts = []
        for pair in pairs:
            encoded = known.get(pair)
            if encoded is None:
                encoded = encode_field(*pair)
                if len(encoded) <= CACHED_BYTES:
                    if len(known) >= CACHED_HEADS:
                        known.clear()
                    known[pair] = encoded
            parts.append(encoded)
        return b"".join(parts)


def encode_field(name: bytes, value: bytes) -> bytes:
    """A field in the shortest representation that leaves the dynamic table alone."""
    index = _PAIRS.get((name, value))
    if index is not None:
        return _integer(index, 7, 0x80)
    kind = _NEVER_INDEXED if name in SENSITIVE else _WITHOUT_INDEXING
    index = _NAMES.get(name)
    begin = bytes([kind]) + _string(name) if index is None else _integer(index, 4, kind)
    return begin + _string(value)


def _string(value: bytes) -> bytes:
    """RFC 7541 section 5.2, without the Huffman code: decoding it costs the peer as well."""
    return _integer(len(value), 7, 0) + value


def _integer(value: int, prefix_bits: int, pattern: int) -> bytes:
    """RFC 7541 section 5.1."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([pattern | value])
    encoded = bytearray([pattern | most])
    value -= most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
