"""Priorities of responses (RFC 9218): the Priority field and the payload of PRIORITY_UPDATE."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DEFAULT_URGENCY: Final = 3

# RFC 8941 section 3.2, as far as a dictionary can say `u` or `i`: a member is a key with a value,
# or without one, which means true; parameters follow. A member that is of another type than it
# should be is ignored, as if it were not there (RFC 9218 section 4).
_KEY: Final = rb"[a-z*][a-z0-9_\-.*]*"
_ITEM: Final = (
    rb"(?:-?[0-9]+(?:\.[0-9]+)?|\?[01]|\"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\"\\])*\"|"
    rb":[A-Za-z0-9+/=]*:|[A-Za-z*][\x21\x23-\x27*+\-.^_`|~:/0-9A-Za-z]*)"
)
_PARAMETERS: Final = rb"(?:;[ ]*" + _KEY + rb"(?:=" + _ITEM + rb")?)*"
_INNER_LIST: Final = rb"\([ ]*(?:" + _ITEM + _PARAMETERS + rb"[ ]*)*\)"
_MEMBER: Final = re.compile(
    rb"(" + _KEY + rb")(?:=(" + _ITEM + rb"|" + _INNER_LIST + rb"))?" + _PARAMETERS
)
_BETWEEN: Final = re.compile(rb"[ \t]*,[ \t]*")

_LONGEST: Final = 256
"""Bytes; nobody has so much to say, and what is longer is ignored."""


@lru_cache(maxsize=256)
def parse_priority(value: bytes) -> tuple[int, bool]:
    """Urgency (0 first, 7 last) and whether incremental; the defaults where `value` does not parse
    (RFC 8941 section 4.2: a dictionary with a fault is none)."""
    urgency, incremental = DEFAULT_URGENCY, False
    value = value.strip(b" ")
    if not value or len(value) > _LONGEST:
        return urgency, incremental
    at = 0
    while True:
        match = _MEMBER.match(value, at)
        if match is None:
            return DEFAULT_URGENCY, False
        key, said = match[1], match[2]
        if key == b"u":
            urgency = said[0] - 48 if said and said in _URGENCIES else DEFAULT_URGENCY
        elif key == b"i":
            incremental = said in (None, b"?1")
        at = match.end()
        if at == len(value):
            return urgency, incremental
        between = _BETWEEN.match(value, at)
        if between is None:
            return DEFAULT_URGENCY, False
        at = between.end()


_URGENCIES: Final = frozenset(b"%d" % urgency for urgency in range(8))
