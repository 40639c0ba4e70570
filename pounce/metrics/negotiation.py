"""Accept and Accept-Encoding (RFC 9110 sections 12.4.2, 12.5.1 and 12.5.3)."""

from __future__ import annotations

import re
from typing import Final

# RFC 9110 section 12.4.2.
_WEIGHT: Final = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)

MAX_FIELD: Final = 8192
"""Characters that are looked at; the rest of a longer field is not."""


def preferences(field: str) -> list[tuple[str, dict[str, str]]]:
    """The elements of the field, the weightiest first, then in their order: names in lower case,
    with their parameters. What is not wanted (weight 0) or malformed is left out."""
    weighted = [each for element in field[:MAX_FIELD].split(",") if (each := _element(element))]
    weighted.sort(key=lambda each: -each[0])
    return [(name, parameters) for weight, name, parameters in weighted if weight]


def accepts_gzip(field: str) -> bool:
    """Whether a response may be compressed: gzip by its name, its old name, or by `*`."""
    weights = {}
    for element in field[:MAX_FIELD].split(","):
        if parsed := _element(element):
            weights[parsed[1]] = parsed[0]
    for name in ("gzip", "x-gzip", "*"):
        if name in weights:
            return weights[name] > 0
    return False


def _element(element: str) -> tuple[float, str, dict[str, str]] | None:
    name, *rest = (part.strip(" \t") for part in element.split(";"))
    if not name:
        return None
    parameters = {}
    weight = 1.0
    for part in rest:
        key, _, value = (each.strip(" \t") for each in part.partition("="))
        if key.lower() == "q":
            if not _WEIGHT.fullmatch(value):
                return None
            weight = float(value)
        else:
            parameters[key.lower()] = value.strip('"')
    return weight, name.lower(), parameters
