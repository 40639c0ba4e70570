"""Any bytes as frames of a client: read, or failed with a close code, however they are cut.

The first byte says how the rest is cut, and whether messages may be compressed. Messages and
control frames must be the same whole and in pieces. No exception is allowed.
"""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["pounce.protocol"]):
    from pounce.protocol.ws.deflate import Inflater
    from pounce.protocol.ws.reader import MessageReader

from tests.protocol.ws_frames import read

MAX_SIZE = 2_000


def one_input(data: bytes) -> None:
    rng, data = random.Random(data[:1]), data[1:]
    bits = rng.choice([None, 9, 15])

    def reader() -> MessageReader:
        inflater = None if bits is None else Inflater(bits, True)
        return MessageReader(MAX_SIZE, max_queue=4, inflater=inflater)

    whole = read(reader(), [data])
    places = sorted(rng.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    in_pieces = read(reader(), pieces)
    # In one read messages come before control frames.
    assert sorted(map(repr, whole)) == sorted(map(repr, in_pieces)), (whole, in_pieces)
    for found in whole:
        assert not isinstance(found, (str, bytes)) or len(found) <= MAX_SIZE
        assert not isinstance(found, int) or found in (1002, 1007, 1009)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
