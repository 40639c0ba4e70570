"""The kinds of values: text, TOML and Python in, one normal form out."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.config.checks import HeaderField, SNICertificate
from pounce.config.kinds import (
    Choice,
    Duration,
    Either,
    FileMode,
    Flag,
    Integer,
    Kind,
    Optional,
    Repeated,
    Size,
    Text,
)

KINDS: dict[str, Kind] = {
    "text": Text(),
    "path": Text(path=True),
    "flag": Flag(),
    "port": Integer(0, 65535),
    "mode": FileMode(),
    "duration": Duration(),
    "duration or never": Duration(zero="never"),
    "size": Size(),
    "size or no limit": Size(100, zero="no limit"),
    "choice": Choice("none", "optional", "required", aliases={"0": "none", "2": "required"}),
    "version": Choice("1.2", "1.3"),
    "workers": Either("auto", Integer(1, 8)),
    "count": Optional(Integer(1), none="none"),
    "maybe": Optional(Text(), none=""),
    "colors": Optional(Flag(), none="auto"),
    "names": Repeated(Text(), separator=","),
    "headers": Repeated(HeaderField(), separator="\n"),
    "sni": Repeated(SNICertificate(), separator="\n"),
}


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", "", ""),
        ("text", "ümläut", "ümläut"),
        ("path", Path("a/b"), "a/b"),
        ("flag", True, True),
        ("flag", "YES", True),
        ("flag", " on ", True),
        ("flag", "1", True),
        ("flag", "0", False),
        ("flag", "no", False),
        ("flag", "False", False),
        ("port", 0, 0),
        ("port", "65535", 65535),
        ("port", " +80 ", 80),
        ("mode", 0o600, 0o600),
        ("mode", "660", 0o660),
        ("mode", "0o660", 0o660),
        ("mode", "0660", 0o660),
        ("duration", "1m", 60.0),
        ("duration or never", "0", 0.0),
        ("size", "1KiB", 1024),
        ("size or no limit", 0, 0),
        ("choice", "Required", "required"),
        ("choice", ssl.CERT_REQUIRED, "required"),
        ("choice", 0, "none"),
        ("choice", "2", "required"),
        ("version", 1.2, "1.2"),
        ("workers", "AUTO", "auto"),
        ("workers", "3", 3),
        ("count", None, None),
        ("count", "none", None),
        ("count", "7", 7),
        ("maybe", "", None),
        ("maybe", "x", "x"),
        ("colors", "auto", None),
        ("colors", "off", False),
        ("names", "a,b", ("a", "b")),
        ("names", "", ()),
        ("names", ["a", "b"], ("a", "b")),
        ("headers", {"X-A": "1"}, (("X-A", "1"),)),
        ("headers", "X-A: 1\nX-B:2, 3", (("X-A", "1"), ("X-B", "2, 3"))),
        ("headers", [("X-A", " 1\t"), ["X-B", ""]], (("X-A", "1"), ("X-B", ""))),
        ("headers", ["X-A: caf\xe9: b"], (("X-A", "caf\xe9: b"),)),
        ("sni", "a.org=c.pem\n*.B.org=d.pem,d.key", ("a.org=c.pem", "*.b.org=d.pem,d.key")),
        ("sni", {"a.org": "c.pem , c.key"}, ("a.org=c.pem,c.key",)),
        ("sni", ["localhost=with=sign.pem"], ("localhost=with=sign.pem",)),
    ],
)
def test_value_is_read(kind: str, value: object, expected: object) -> None:
    result = KINDS[kind].parse(value)
    assert result == expected
    assert type(result) is type(expected)
    assert KINDS[kind].parse(result) == expected
    assert KINDS[kind].parse(KINDS[kind].format(result)) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", 1),
        ("text", None),
        ("text", Path("a")),
        ("text", "a\0b"),
        ("path", Path("a\0b")),
        ("path", b"a"),
        ("flag", 1),
        ("flag", "maybe"),
        ("flag", ""),
        ("flag", None),
        ("port", -1),
        ("port", 65536),
        ("port", True),
        ("port", 80.0),
        ("port", "80.0"),
        ("port", "0x50"),
        ("port", "٣"),
        ("port", "9" * 5000),
        ("mode", 0o1000),
        ("mode", -1),
        ("mode", "888"),
        ("mode", "rw-rw-rw-"),
        ("mode", True),
        ("duration", "0"),
        ("duration or never", "-1"),
        ("size", 0),
        ("size or no limit", 99),
        ("choice", "1"),
        ("choice", True),
        ("choice", None),
        ("choice", ["none"]),
        ("workers", 0),
        ("workers", 9),
        ("workers", "many"),
        ("count", 0),
        ("count", ""),
        ("colors", "none"),
        ("names", 3),
        ("names", None),
        ("names", [1]),
        ("headers", "X-A"),
        ("headers", ": 1"),
        ("headers", ["X A: 1"]),
        ("headers", ["X-A : 1"]),
        ("headers", [("X-A", "1\r\nX-B: 2")]),
        ("headers", [("X-A", "1\x00")]),
        ("headers", [("X-A", "\u20ac")]),
        ("headers", [("X-A", 1)]),
        ("headers", [("X-A", "1", "2")]),
        ("headers", ["Content-Length: 0"]),
        ("headers", ["transfer-encoding: chunked"]),
        ("headers", ["Connection: close"]),
        ("sni", ["a.org"]),
        ("sni", ["=c.pem"]),
        ("sni", ["a.org="]),
        ("sni", ["a.org=c.pem,"]),
        ("sni", ["a.org=c.pem,k.pem,x"]),
        ("sni", ["a.*.org=c.pem"]),
        ("sni", ["*=c.pem"]),
        ("sni", ["-a.org=c.pem"]),
        ("sni", [f"{'a' * 64}.org=c.pem"]),
        ("sni", [1]),
    ],
)
def test_value_of_another_kind_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        KINDS[kind].parse(value)


def test_items_of_a_list_may_hold_what_separates_them_in_one_text() -> None:
    assert KINDS["names"].parse(["a", "b,c"]) == ("a", "b,c")


def test_file_mode_in_toml_must_be_text_because_a_number_would_be_decimal() -> None:
    assert KINDS["mode"].parse_toml("660") == 0o660
    with pytest.raises(ValueError, match='"660"'):
        KINDS["mode"].parse_toml(440)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@given(
    st.text()
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.text() | st.tuples(st.text(), st.text()))
    | st.dictionaries(st.text(), st.text())
)
def test_whatever_is_given_is_read_stably_or_refused(kind: Kind, value: object) -> None:
    try:
        result = kind.parse(value)
    except ValueError:
        return
    assert kind.parse(result) == result
    assert isinstance(kind.format(result), str)
    hash(result)
