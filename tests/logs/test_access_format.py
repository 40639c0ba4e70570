"""The access log's format: the atoms, and that nothing a client sends can forge a line."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.errors import ConfigError
from pounce.logs.access_format import (
    DEFAULT_FORMAT,
    Entry,
    _BytesCache,
    _TextCache,
    compile_format,
    validate_format,
)

Pairs = Sequence[tuple[bytes, bytes]]

END = datetime(2026, 11, 22, 18, 0, 0, 250_000, UTC).timestamp()


def entry(
    *,
    end: float = END,
    duration: float = 1.234567,
    client: tuple[str, int] | None = ("192.0.2.7", 50000),
    method: str = "GET",
    target: bytes = b"/a%20b?x=1&y",
    version: str = "1.1",
    status: int = 200,
    size: int = 13,
    sent: Pairs = (),
    answered: Pairs = (),
) -> Entry:
    return (
        *(end, duration, client, method, target, version, status, size),
        *(sent, answered, "http"),
    )


def line(fmt: str, one: Entry) -> str:
    (formatted,) = compile_format(fmt)([one])
    return formatted


@contextmanager
def time_zone(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


def basic(credentials: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Basic " + base64.b64encode(credentials)


@pytest.mark.usefixtures("utc")
def test_the_default_format_is_the_combined_log_format_of_apache() -> None:
    one = entry(
        sent=[
            (b"host", b"x"),
            (b"referer", b"http://r/"),
            (b"user-agent", b"curl/8"),
            basic(b"jo:pw"),
        ]
    )
    assert line(DEFAULT_FORMAT, one) == (
        '192.0.2.7 - jo [22/Nov/2026:18:00:00 +0000] "GET /a%20b?x=1&y HTTP/1.1" 200 13'
        ' "http://r/" "curl/8"'
    )


@pytest.mark.usefixtures("utc")
def test_what_is_missing_is_a_dash() -> None:
    assert line(DEFAULT_FORMAT, entry(client=None, size=0)) == (
        '- - - [22/Nov/2026:18:00:00 +0000] "GET /a%20b?x=1&y HTTP/1.1" 200 - "-" "-"'
    )


@pytest.mark.parametrize(
    ("atom", "expected"),
    [
        ("h", "192.0.2.7"),
        ("l", "-"),
        ("u", "-"),
        ("r", "GET /a%20b?x=1&y HTTP/1.1"),
        ("m", "GET"),
        ("U", "/a%20b"),
        ("q", "x=1&y"),
        ("H", "HTTP/1.1"),
        ("s", "200"),
        ("B", "13"),
        ("b", "13"),
        ("f", "-"),
        ("a", "-"),
        ("T", "1"),
        ("M", "1234"),
        ("D", "1234567"),
        ("L", "1.234567"),
        ("{X-Request-Id}i", "r1, r2"),
        ("{cookie}i", "-"),
        ("{CONTENT-TYPE}o", "text/plain"),
        ("{etag}o", "-"),
        ("{Access_Log_Test}e", "value"),
        ("{access_log_test_unset}e", "-"),
    ],
)
def test_atom(monkeypatch: pytest.MonkeyPatch, atom: str, expected: str) -> None:
    monkeypatch.setenv("ACCESS_LOG_TEST", "value")
    one = entry(
        sent=[(b"x-request-id", b"r1"), (b"accept", b"*/*"), (b"x-request-id", b"r2")],
        answered=[(b"Content-Type", b"text/plain")],
    )
    assert line(f"[%({atom})s]", one) == f"[{expected}]"


def test_process_id() -> None:
    assert line("%(p)s", entry()) == f"<{os.getpid()}>"


def test_size_zero() -> None:
    assert line("%(b)s %(B)s", entry(size=0)) == "- 0"


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.0, "0 0 0 0.000000"),
        (0.0000004, "0 0 0 0.000000"),
        (59.9999996, "60 60000 60000000 60.000000"),
    ],
)
def test_durations_agree_with_each_other(duration: float, expected: str) -> None:
    assert line("%(T)s %(M)s %(D)s %(L)s", entry(duration=duration)) == expected


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/a?", "/a", ""),
        (b"/a?b?c", "/a", "b?c"),
        (b"*", "*", ""),
        (b"http://example.org/p/q?x", "/p/q", "x"),
        (b"http://example.org?x", "/", "x"),
        (b"example.org:443", "example.org:443", ""),
        (b"/to/http://example.org", "/to/http://example.org", ""),
    ],
)
def test_path_and_query_of_every_form_of_target(target: bytes, path: str, query: str) -> None:
    one = entry(target=target)
    assert line("%(U)s|%(q)s", one) == f"{path}|{query}"
    fields = json.loads(line("json", one))
    assert (fields["path"], fields["query"]) == (path, query)


@pytest.mark.parametrize(
    ("credentials", "user"),
    [
        (b"Basic " + base64.b64encode(b"ann:secret"), "ann"),
        (b"bAsIc  " + base64.b64encode(b"ann:"), "ann"),
        (b"Basic " + base64.b64encode("jörg:x".encode()), r"j\xc3\xb6rg"),
        (b"Basic " + base64.b64encode(b'a b [1] "GET:x'), r"a\x20b\x20[1]\x20\x22GET"),
        (b"Basic " + base64.b64encode(b":x"), "-"),
        (b"Basic " + base64.b64encode(b"nocolon"), "-"),
        (b"Basic !!!", "-"),
        (b"Basic", "-"),
        (b"Bearer " + base64.b64encode(b"ann:secret"), "-"),
        (b"\xff", "-"),
    ],
)
def test_user_of_basic_credentials(credentials: bytes, user: str) -> None:
    assert line("%(u)s", entry(sent=[(b"authorization", credentials)])) == user


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Asia/Kolkata", "[22/Nov/2026:23:30:00 +0530]"),
        ("America/St_Johns", "[22/Nov/2026:14:30:00 -0330]"),
    ],
)
def test_time_is_local_and_names_its_offset(zone: str, expected: str) -> None:
    with time_zone(zone):
        assert line("%(t)s", entry()) == expected


@pytest.mark.usefixtures("utc")
def test_time_follows_the_entries_also_backwards() -> None:
    entries = [entry(end=END + offset) for offset in (0, 0.5, 0.75, 1, 61, 0)]
    lines = compile_format("%(t)s")(entries)
    assert [text[-15:-7] for text in lines] == [
        "18:00:00",
        "18:00:00",
        "18:00:01",
        "18:00:01",
        "18:01:01",
        "18:00:00",
    ]


def test_widths_and_percent_signs() -> None:
    fmt = "%(m)6s|%(m)-6s|%(s)5d|%(D)010d|100%%"
    assert line(fmt, entry()) == "   GET|GET   |  200|0001234567|100%"


def test_literal_text_stands_as_it_is() -> None:
    fmt = "{client!r} 'a' \"b\" \\n {{}} é\t%(h)s"
    assert line(fmt, entry()) == "{client!r} 'a' \"b\" \\n {{}} é\t192.0.2.7"


def test_a_request_that_could_not_be_read() -> None:
    one = entry(method="-", target=b"", version="", status=400, size=0)
    assert line('"%(r)s" %(m)s %(H)s %(s)s', one) == '"-" - - 400'
    fields = json.loads(line("json", one))
    assert fields["method"] is fields["path"] is fields["protocol"] is None
    assert fields["status"] == 400


@pytest.mark.parametrize(
    ("fmt", "complaint"),
    [
        ("%(x)s", r"unknown atom %\(x\)s"),
        ("%({}i)s", "unknown atom"),
        ("%({a}x)s", "unknown atom"),
        ("%()s", "unknown atom"),
        ("%h %r", "begins no atom"),
        ("%(h", "begins no atom"),
        ("%(h)", "begins no atom"),
        ("%(h)s %", "begins no atom"),
        ("%(h)d", "must end in s"),
        ("%(b)d", "must end in s"),
        ("%(s)x", "must end in s"),
        ("%(h)s\n", "one line"),
        ("%(h)s\x1b[0m", "one line"),
        ("", "no atom"),
        ("JSON", "no atom"),
        ("combined", "no atom"),
    ],
)
def test_a_wrong_format_is_refused(fmt: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as error:
        validate_format(fmt)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError):
        compile_format(fmt)


def test_a_header_name_cannot_bring_code_into_the_formatter() -> None:
    name = "x'] or __import__('os').abort() or text['"
    # No parentheses are possible in the name of an atom.
    with pytest.raises(ConfigError):
        validate_format(f"%({{{name}}}i)s")
    name = "x'] or 1/0 or text['"
    assert line(f"%({{{name}}}i)s", entry(sent=[(name.encode(), b"v")])) == "v"


VALUES = st.binary(max_size=40) | st.sampled_from(
    [
        b'"',
        b"\\",
        b"\n",
        b"\r\n",
        b"\x7f",
        b"\x00",
        b'" 200 1\n1.2.3.4 - -',
        b"\xe2\x80\xa8",
        b"a b",
    ]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"referer", b"user-agent", b"authorization", b"x-a", b"X-A"]), VALUES
    ),
    max_size=6,
)
ENTRIES = st.builds(
    entry,
    end=st.floats(0, 4e9),
    duration=st.floats(0, 1e5),
    client=st.none() | st.tuples(st.text(max_size=20), st.integers(0, 65535)),
    method=st.text(max_size=10),
    target=VALUES,
    version=st.text(max_size=4),
    status=st.integers(100, 999),
    size=st.integers(0, 2**40),
    sent=HEADERS,
    answered=HEADERS,
)
EVERY_ATOM = (
    DEFAULT_FORMAT
    + ' %(m)s "%(U)s" "%(q)s" %(H)s %(B)s %(T)s %(M)s %(D)s %(L)s %(p)s "%({x-a}i)s" "%({X-a}o)s"'
)

APACHE_LINE = re.compile(
    r"(?P<h>\S+) (?P<l>\S+) (?P<u>\S+) \[(?P<t>[^]]+)\] "
    r'"(?P<r>[^"]*)" (?P<s>\d{3}) (?P<b>\d+|-) "(?P<f>[^"]*)" "(?P<a>[^"]*)"'
)


def unescape(text: str) -> bytes:
    return re.sub(rb"\\x([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode("ascii"))


@given(st.lists(ENTRIES, max_size=4))
def test_every_line_is_printable_ascii(entries: list[Entry]) -> None:
    for fmt in (EVERY_ATOM, "json"):
        lines = compile_format(fmt)(entries)
        assert len(lines) == len(entries)
        for text in lines:
            assert text.isascii()
            assert text.isprintable()


@given(ENTRIES)
def test_a_line_has_the_fields_that_it_should_whatever_a_client_sends(one: Entry) -> None:
    parsed = APACHE_LINE.fullmatch(line(DEFAULT_FORMAT, one))
    assert parsed is not None
    assert int(parsed["s"]) == one[6]
    assert parsed["b"] == (str(one[7]) if one[7] else "-")
    for atom, name in (("f", b"referer"), ("a", b"user-agent")):
        values = [value for key, value in one[8] if key == name]
        assert unescape(parsed[atom]) == (b", ".join(values) if values else b"-")
    if one[4]:
        assert one[4] in unescape(parsed["r"])


@given(ENTRIES)
def test_json_lines_hold_what_was_put_in(one: Entry) -> None:
    end, duration, client, method, target, version, status, size, sent, _, _ = one
    text = line("json", one)
    fields = json.loads(text, parse_constant=pytest.fail)
    assert list(fields) == [
        *("time", "client", "method", "path", "query", "protocol", "status", "bytes"),
        *("duration_ms", "referer", "user_agent"),
    ]

    def kept(value: str) -> str | None:
        return value.encode().decode("latin-1") if value not in ("", "-") else None

    parsed_end = datetime.fromisoformat(fields["time"]).timestamp()
    assert end - 0.0011 <= parsed_end <= end + 0.0001
    assert fields["client"] == (kept(client[0]) if client else None)
    assert fields["method"] == kept(method)
    assert fields["protocol"] == (f"HTTP/{kept(version)}" if kept(version) else None)
    assert (fields["status"], fields["bytes"]) == (status, size)
    assert fields["duration_ms"] == pytest.approx(duration * 1000, abs=0.001)
    if target and b"://" not in target:
        rejoined = fields["path"] + ("?" if b"?" in target else "") + fields["query"]
        assert rejoined.encode("latin-1") == target
    for key, name in (("referer", b"referer"), ("user_agent", b"user-agent")):
        values = [value for header, value in sent if header == name]
        assert fields[key] == (b", ".join(values).decode("latin-1") if values else None)


@given(ENTRIES)
def test_a_warm_cache_gives_the_same_line(one: Entry) -> None:
    for fmt in (EVERY_ATOM, "json"):
        format_lines = compile_format(fmt)
        cold, warm = format_lines([one, one])
        assert cold == warm == format_lines([one])[0]


def test_caches_stay_small_under_ever_new_values() -> None:
    values = _BytesCache(bytes.decode, "-")
    texts = _TextCache(bytes.decode, "-")
    for number in range(5000):
        assert values[b"%d" % number] == f"{number}"
        assert texts[f"{number}"] == f"{number}"
        assert values[None] == "-"
    assert len(values) <= _BytesCache.MAX_ENTRIES
    assert len(texts) <= _TextCache.MAX_ENTRIES
    assert values[b"x" * 100_000] == "x" * 100_000
    assert b"x" * 100_000 not in values
    assert texts["x" * 100_000] == "x" * 100_000
    assert "x" * 100_000 not in texts
