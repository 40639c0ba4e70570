"""Request heads written line by line, and sent both ways through the parser."""

from __future__ import annotations

import pytest

from pounce.protocol.h1_head import FieldBlock
from tests.protocol.heads import parse, verdict


def head(line: str = "GET / HTTP/1.1", *fields: str, host: str | None = "Host: a") -> bytes:
    """A head of these lines, with one good Host unless that is given."""
    lines = [line, *([] if host is None else [host]), *fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def fields(*lines: str, line: str = "POST / HTTP/1.1") -> FieldBlock:
    """The verdict on these lines."""
    return parse(head(line, *lines)).block


def status(data: bytes) -> int:
    """The status that refuses `data`."""
    found = verdict(data)
    assert isinstance(found, int), found
    return found


# A field that asks for more than the common case sends the head to h11; the verdict is the same.
both_ways = pytest.mark.parametrize("detour", [None, "Upgrade: x"], ids=["recognised", "delegated"])


def detoured(data: bytes, detour: str | None) -> bytes:
    """`data` with one field more."""
    return data if detour is None else data[:-2] + detour.encode() + b"\r\n\r\n"
