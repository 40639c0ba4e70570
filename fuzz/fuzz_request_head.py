"""Any bytes as a request head: refused, or accepted by h11 as well and with the same result.

Allowed: `ProtocolError` with one of the statuses that `HeadParser.parse` documents.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pounce.protocol"]):
    from pounce.protocol.h1_head import HeadParser

from tests.protocol.heads import as_head, ask_h11, disagreement, parse, verdict

STATUSES = {400, 414, 417, 431, 501, 505}

shared = HeadParser()


def one_input(data: bytes) -> None:
    head = as_head(data)
    expected = verdict(head)
    for _ in range(3):  # judged, seen again, remembered
        assert verdict(head, shared) == expected
    if isinstance(expected, int):
        assert expected in STATUSES, expected
        return
    found = disagreement(parse(head, shared), ask_h11(head))
    assert found is None, found


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
