"""Any bytes as a chunked body: refused, or read by h11 as well with the same content and end.

The first byte says how the rest is cut: how it arrives must not change what comes of it.
Allowed: `ProtocolError` with status 400, 413 or 431. h11 may refuse what is accepted where white
space stands before a chunk extension, and where it reads a framing field in the trailer section.
"""

from __future__ import annotations

import random
import re
import sys

import atheris

with atheris.instrument_imports(include=["pounce.protocol"]):
    from pounce.protocol.h1_body import ChunkedReader

from tests.protocol.bodies import ask_h11, cut, read

H11_IS_STRICTER = re.compile(rb"[0-9A-F][ \t]+;|\n(content-length|transfer-encoding):", re.I)


def one_input(data: bytes) -> None:
    rng, data = random.Random(data[:1]), data[1:]
    whole = read(ChunkedReader(10_000), data)
    pieces = cut(data, [rng.randrange(len(data) + 1) for _ in range(5)])
    in_pieces = read(ChunkedReader(10_000), *pieces)
    assert whole.status in (None, 400, 413, 431), whole
    assert in_pieces[1:] == whole[1:], (whole, in_pieces)
    if whole.status is not None:
        return
    assert in_pieces.content == whole.content, (whole, in_pieces)
    theirs = ask_h11(b"Transfer-Encoding: chunked", data)
    assert theirs == whole or (theirs.status and H11_IS_STRICTER.search(data)), (whole, theirs)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
