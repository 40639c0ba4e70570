"""Durations and sizes with units: `30s`, `1h30m`, `500ms`, `16KiB`, `1MB`.

A number without a unit is in seconds or in bytes. Decimal prefixes (kB, MB, ...) count in powers of
1000 and binary ones (KiB, MiB, ...) in powers of 1024, as IEC 80000-13 defines them. A bare `K` or
`M` is refused, because servers disagree on which of the two it means.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

DURATION_FORM: Final = "a duration such as 30s, 1h30m, 500ms or 2.5 (seconds)"
SIZE_FORM: Final = "a size such as 16KiB, 1MB or 8190 (bytes)"

MAX_DURATION: Final = 3650 * 86_400.0
"""Ten years in seconds: more is a mistake, and timers of event loops stop being exact."""
MAX_SIZE: Final = 2**63 - 1
"""What file offsets and Content-Length parsers hold."""

# Longest first: a compound duration must name its units in this order, each at most once.
_SECONDS: Final = {
    "d": Fraction(86_400),
    "h": Fraction(3_600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
_BYTES: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
_BINARY_UNITS: Final = (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))

# Bounded, so that no input is worth the time that a huge number takes to compute.
_NUMBER: Final = r"[0-9]{1,19}(?:\.[0-9]{1,324})?"
_PLAIN: Final = re.compile(_NUMBER)
_DURATION: Final = re.compile(
    "".join(rf"(?:(?P<{unit}>{_NUMBER}) ?{unit} ?)?" for unit in _SECONDS), re.ASCII
)
_SIZE: Final = re.compile(rf"({_NUMBER}) ?([a-z]{{0,3}})", re.ASCII | re.IGNORECASE)


def parse_duration(value: object) -> float:
    """Seconds of a duration: a number, or text such as `30s`, `5m`, `1h30m`, `500ms`, `2.5`.

    Units are d, h, m, s and ms, in this order. Raises ValueError for anything else, also for what
    is negative, above `MAX_DURATION`, not a number or a bool.
    """
    seconds: float | None = None
    if isinstance(value, str):
        seconds = _duration_of_text(value.strip())
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    if seconds is None or not 0 <= seconds <= MAX_DURATION:
        raise ValueError(f"expected {DURATION_FORM}")
    return abs(float(seconds))  # -0.0 is 0.0


def _duration_of_text(text: str) -> float | None:
    if _PLAIN.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    if match is None or match.lastindex is None:
        return None
    total = sum(
        Fraction(number) * _SECONDS[unit]
        for unit, number in match.groupdict().items()
        if number is not None
    )
    return float(total)


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` turns into exactly `seconds`."""
    exact = Fraction(Decimal(repr(float(seconds))))
    if exact * 1000 % 1:
        return f"{Decimal(repr(float(seconds))):f}s"
    text = ""
    for unit, length in _SECONDS.items():
        count, exact = divmod(exact, length)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def parse_size(value: object) -> int:
    """Bytes of a size: a whole number, or text such as `16KiB`, `1MB`, `1.5GiB`, `8190`.

    Raises ValueError for anything else, also for what is negative, above `MAX_SIZE`, no whole
    number of bytes or a bool.
    """
    size: int | None = None
    if isinstance(value, str):
        size = _size_of_text(value.strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        size = int(value)
    if size is None or not 0 <= size <= MAX_SIZE:
        raise ValueError(f"expected {SIZE_FORM}")
    return size


def _size_of_text(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    factor = _BYTES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        return None
    size = Fraction(match[1]) * factor
    return size.numerator if size.denominator == 1 else None


def format_size(size: int) -> str:
    """The text in the largest binary unit that `parse_size` turns into exactly `size` bytes."""
    for unit, factor in _BINARY_UNITS:
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
