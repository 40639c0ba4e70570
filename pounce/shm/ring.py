"""A ring of records from one writer to readers that never hold it up.

Record number `n`, counted from 0 for as long as the arena lives, is in place `n % places`:

| offset | size | content |
| --- | --- | --- |
| 0 | 4 | CRC-32 of all that follows, up to the end of the payload |
| 4 | 4 | length of the payload |
| 8 | 8 | `n + 1` |
| 16 | | payload |

The writer stores the record, then the number of records written. A new record overwrites the
oldest one, and a reader counts what it has missed. A record that was overwritten while it was
read, or half of which a processor shows before the rest, has a wrong checksum or number.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from pounce.shm.layout import RING_HEADER_SIZE

_CHECKSUM: Final = struct.Struct("=I")
_NUMBER: Final = struct.Struct("=IQ")
_RECORD: Final = struct.Struct("=IIQ")
_ATTEMPTS: Final = 3


class RingWriter:
    """The writing side; there is one at a time, and a later one goes on where it ended.

    Args:
        memory: The bytes of the ring; their number is a multiple of the stride.
        stride: Bytes of a record with its header.
        size: Longest payload.
        written: A view whose first cell has the number of records written.
    """

    def __init__(self, memory: memoryview, stride: int, size: int, written: memoryview) -> None:
        self._memory = memory
        self._stride = stride
        self._size = size
        self._places = len(memory) // stride if stride else 0
        self._written = written

    def write(self, payload: bytes) -> None:
        """Append a record.

        Raises:
            ValueError: It is longer than a record can be.
        """
        length = len(payload)
        if length > self._size or not self._places:
            raise ValueError(f"{length} bytes do not fit into a record of {self._size}")
        number = self._written[0]
        numbered = _NUMBER.pack(length, number + 1) + payload
        begin = number % self._places * self._stride
        # One copy, so that little is torn by a kill; what is torn anyway is not counted.
        end = begin + RING_HEADER_SIZE + length
        self._memory[begin:end] = _CHECKSUM.pack(crc32(numbered)) + numbered
        self._written[0] = number + 1


class RingReader:
    """A reading side, at `position`: the number of records that were read or missed.

    Any number of readers may exist. The arguments are those of the writer.
    """

    def __init__(
        self, memory: memoryview, stride: int, size: int, written: memoryview, position: int = 0
    ) -> None:
        self._memory = memory
        self._stride = stride
        self._size = size
        self._places = len(memory) // stride if stride else 0
        self._written = written
        self.position = position
        self.missed = 0
        """Records that were overwritten before they were read."""

    def read(self, limit: int | None = None) -> list[bytes]:
        """The payloads that were written since the last call, in order; at most `limit`."""
        payloads: list[bytes] = []
        written = self._written[0]
        while self.position < written and (limit is None or len(payloads) < limit):
            oldest = self._written[0] - self._places
            if self.position < oldest:
                self.missed += oldest - self.position
                self.position = oldest
                continue
            payload = self._payload(self.position)
            self.position += 1
            if payload is None:
                self.missed += 1
            else:
                payloads.append(payload)
        return payloads

    def _payload(self, number: int) -> bytes | None:
        """None: it is being overwritten, or damaged."""
        begin = number % self._places * self._stride
        for _ in range(_ATTEMPTS):
            record = bytes(self._memory[begin : begin + self._stride])
            checksum, length, following = _RECORD.unpack_from(record)
            end = RING_HEADER_SIZE + length
            if (
                following == number + 1
                and length <= self._size
                and crc32(memoryview(record)[_CHECKSUM.size : end]) == checksum
            ):
                return record[RING_HEADER_SIZE:end]
        return None
