"""Any bytes behind the greeting: whatever comes, the native HTTP/2 engine keeps its promises.

The first byte says how the rest is cut. Between two reads the server answers what it has. Allowed:
nothing is raised. Judged by the uncut bytes, and by what must hold between two calls.
"""

from __future__ import annotations

import random
import sys

import atheris

with atheris.instrument_imports(include=["pounce.protocol"]):
    from pounce.protocol.h2.native import NativeEngines

from tests.protocol.h2.conversations import LIMITS, Answer, Server, read
from tests.protocol.h2.test_conversations import GREETING, check

KINDS = ["respond", "parts", "trailers", "reset", "consume"]


def converse(data: bytes, size: int) -> Server:
    server = Server(NativeEngines(LIMITS).connect())
    server.receive(GREETING)
    for begin in range(0, len(data), size):
        server.receive(data[begin : begin + size])
        check(server)
        server.flush()
        check(server)
    return server


def one_input(data: bytes) -> None:
    rng, data = random.Random(data[:1]), data[1:]
    whole = converse(data, max(1, len(data)))
    in_pieces = converse(data, rng.randrange(1, 40))
    assert in_pieces.record.events == whole.record.events
    assert in_pieces.record.data == whole.record.data
    assert in_pieces.record.sent == whole.record.sent
    for server in (whole, in_pieces):
        for _ in range(8):
            stream_id = rng.choice([1, 3, 5, 7])
            server.answer(Answer(stream_id, rng.choice(KINDS), rng.choice([0, 10, 70_000])))
            check(server)
            server.flush(rng.choice([100, 1 << 20]))
            check(server)
        read(server.record.sent)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
