"""Any bytes as a stream of requests: the same requests come of it however it arrives.

The first byte says how the rest is cut. Allowed: `ProtocolError`, which ends the stream.
"""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["pounce.protocol"]):
    from pounce.protocol.h1_head import HeadParser

from tests.protocol.heads import facts
from tests.protocol.streams import Outcome, read

shared = HeadParser()


def requests(outcome: Outcome) -> list[object]:
    return [(facts(message.head), message.content) for message in outcome.messages]


def one_input(data: bytes) -> None:
    rng, data = random.Random(data[:1]), data[1:]
    whole = read([data])
    size = rng.randrange(1, 40)
    pieces = [data[begin : begin + size] for begin in range(0, len(data), size)]
    in_pieces = read(pieces, shared)
    assert requests(in_pieces) == requests(whole)
    assert in_pieces.status == whole.status
    if whole.status is None:
        assert (in_pieces.content, in_pieces.rest) == (whole.content, whole.rest)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
