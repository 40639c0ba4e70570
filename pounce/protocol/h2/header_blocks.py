"""Header blocks of the peer: HPACK (RFC 7541) to field sections and request heads.

Clients send the same block again and again, once what they say is in the dynamic table. A block
that does not change the table means the same for as long as the table stays as it is: so the head
that was made of it is found by the raw bytes, until the table changes.
"""

from __future__ import annotations

from typing import Final

from pounce.protocol.h1_head import Pair
from pounce.protocol.h2.frames import DEFAULT_TABLE_SIZE
from pounce.protocol.h2.hpack_decoder import HpackDecoder, HpackError, HpackOverflow
from pounce.protocol.h2.interface import ErrorCode, H2Limits, RequestHead
from pounce.protocol.h2.request_head import Refusal, read_request_head

CACHED_HEADS: Final = 128
"""How many heads a connection remembers. A full table is emptied."""

CACHED_BYTES: Final = 1024
"""Longer blocks are decoded each time."""

CACHED_FIELDS: Final = 64
"""Heads with more fields are made each time."""

SEEN_BLOCKS: Final = 512
"""How many blocks are known to have come once. A full set is emptied."""


class BlockError(Exception):
    """A header block cannot be decoded: the connection is over, as the tables of both sides have
    parted (RFC 9113 section 4.3)."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class HeaderBlocks:
    """Decodes the header blocks of a connection, in their order."""

    __slots__ = ("_decoder", "_limits", "_seen_once", "known")

    def __init__(self, limits: H2Limits) -> None:
        self._limits = limits
        self._decoder = HpackDecoder(limits.header_list_size)
        # Until our SETTINGS are acknowledged, the size that the peer knows counts as well.
        self._decoder.allowed_size = max(limits.header_table_size, DEFAULT_TABLE_SIZE)
        self._seen_once: set[int] = set()
        self.known: dict[bytes, RequestHead] = {}
        """Heads that are served, by blocks that leave the table as it is now."""

    def settings_acknowledged(self) -> None:
        """From now on the peer keeps to our SETTINGS_HEADER_TABLE_SIZE."""
        self._decoder.allowed_size = self._limits.header_table_size
        self._forget()

    def head(self, block: bytes) -> tuple[RequestHead, Refusal | None]:
        """The request that a block is the head of; see `read_request_head`.

        Raises:
            BlockError: The block cannot be decoded.
            MalformedHead: The stream is to be reset.
        """
        generation = self._decoder.generation
        pairs, size = self._decode(block)
        head, refusal = read_request_head(pairs, self._limits, size)
        is_lasting = generation == self._decoder.generation
        if is_lasting and refusal is None and len(pairs) <= CACHED_FIELDS:
            self._remember(block, head)
        return head, refusal

    def fields(self, block: bytes) -> list[Pair]:
        """The field section of a block.

        Raises:
            BlockError: It cannot be decoded.
        """
        return self._decode(block)[0]

    def _decode(self, block: bytes) -> tuple[list[Pair], int]:
        decoder = self._decoder
        generation = decoder.generation
        try:
            decoded = decoder.decode(block)
        except HpackOverflow as exc:
            raise BlockError(ErrorCode.ENHANCE_YOUR_CALM, str(exc)) from exc
        except HpackError as exc:
            raise BlockError(ErrorCode.COMPRESSION_ERROR, str(exc)) from exc
        if generation != decoder.generation:
            self._forget()
        return decoded

    def _forget(self) -> None:
        self.known.clear()
        self._seen_once.clear()

    def _remember(self, block: bytes, head: RequestHead) -> None:
        """Keeps a head from the second time on: what never comes again costs no room."""
        if len(block) > CACHED_BYTES:
            return
        mark = hash(block)
        if mark in self._seen_once:
            if len(self.known) >= CACHED_HEADS:
                self.known.clear()
            self.known[block] = head
        else:
            if len(self._seen_once) >= SEEN_BLOCKS:
                self._seen_once.clear()
            self._seen_once.add(mark)
