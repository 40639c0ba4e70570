"""Durations and sizes with units."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.units import (
    MAX_DURATION,
    MAX_SIZE,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (5, 5.0),
        (2.5, 2.5),
        (-0.0, 0.0),
        ("0", 0.0),
        ("30", 30.0),
        ("2.5", 2.5),
        ("30s", 30.0),
        (" 30s ", 30.0),
        ("30 s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5h", 5400.0),
        ("500ms", 0.5),
        ("1s500ms", 1.5),
        ("1d1ms", 86400.001),
        ("0.1ms", 0.0001),
        (str(int(MAX_DURATION)), MAX_DURATION),
        ("3650d", MAX_DURATION),
    ],
)
def test_duration_is_read(value: object, seconds: float) -> None:
    result = parse_duration(value)
    assert result == seconds
    assert math.copysign(1, result) == 1
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "s", "30x", "-1", "-1s", "+1", "1e3", "1_000", "0x10", ".5", "1.", "1,5s"),
        *("30m1h", "1h1h", "1h30", "1hm", "1ms1s", "1s m", "30S", "5 min", "٣s", "inf", "nan"),
        *("3651d", "9" * 19 + "d", "9" * 4000, "1" + "0" * 400),
        *(-1, -0.1, math.inf, -math.inf, math.nan, 10**400, MAX_DURATION * 2),
        *(True, False, None, [30], (30,), b"30s", {"s": 30}, 3j),
    ],
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (2.5, "2s500ms"),
        (90.0, "1m30s"),
        (3600.0, "1h"),
        (90061.0, "1d1h1m1s"),
        (0.0001, "0.0001s"),
        (1e-07, "0.0000001s"),
    ],
)
def test_duration_is_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, MAX_DURATION))
def test_every_duration_survives_its_own_text(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
    assert parse_duration(parse_duration(seconds)) == seconds


@given(
    st.integers(0, 3000),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
    st.integers(0, 999),
)
def test_the_parts_of_a_duration_add_up(d: int, h: int, m: int, s: int, ms: int) -> None:
    exact = ((d * 24 + h) * 60 + m) * 60 + s + Fraction(ms, 1000)
    assert parse_duration(f"{d}d{h}h{m}m{s}s{ms}ms") == float(exact)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (8190, 8190),
        ("8190", 8190),
        ("8190B", 8190),
        ("16KiB", 16384),
        ("16 kib", 16384),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1MB", 1_000_000),
        ("1MiB", 1024**2),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 * 1024**4),
        ("0.5KiB", 512),
        (MAX_SIZE, MAX_SIZE),
        (str(MAX_SIZE), MAX_SIZE),
    ],
)
def test_size_is_read(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "B", "KiB", "16K", "16M", "16kbit", "16 K iB", "-1", "+1", "1e3", "1_000"),
        *("0.5", "0.3B", "1.0001kB", "٣KiB", "16PiB", "0x10", "9999999999999999999TiB"),
        *(-1, 1.0, 16384.0, math.nan, MAX_SIZE + 1, str(MAX_SIZE + 1), "9" * 4000),
        *(True, False, None, [1], b"16KiB"),
    ],
)
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (8190, "8190B"),
        (65536, "64KiB"),
        (1024**2, "1MiB"),
        (1536 * 1024, "1536KiB"),
        (3 * 1024**3, "3GiB"),
        (1024**4, "1TiB"),
        (1000, "1000B"),
    ],
)
def test_size_is_written(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, MAX_SIZE))
def test_every_size_survives_its_own_text(size: int) -> None:
    assert parse_size(format_size(size)) == size
    assert parse_size(str(size)) == size


def _outcome(parse: Callable[[object], float], text: str) -> float | str:
    try:
        return parse(text)
    except ValueError as error:
        return str(error)


@given(st.text() | st.from_regex(r"[0-9. ]{0,5}([dhmskKMGTiB]{0,3}[0-9. ]{0,3}){0,3}"))
def test_junk_gives_a_value_in_range_or_a_message(text: str) -> None:
    duration = _outcome(parse_duration, text)
    if isinstance(duration, str):
        assert duration.startswith("expected a duration")
    else:
        assert 0 <= duration <= MAX_DURATION
    size = _outcome(parse_size, text)
    if isinstance(size, str):
        assert size.startswith("expected a size")
    else:
        assert 0 <= size <= MAX_SIZE
