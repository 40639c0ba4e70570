from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.protocol import grammar

# RFC 9110 section 5.6.2
TCHAR = (string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode()
LONG = 1 << 18
"""Bytes. What takes more than linear time over these does not come to its end."""

every_byte = pytest.mark.parametrize("byte", range(256))


@every_byte
def test_which_bytes_a_token_has(byte: int) -> None:
    char = bytes([byte])
    expected = byte in TCHAR
    for token in (char, b"a" + char, char + b"a"):
        assert bool(grammar.RESPONSE_NAME.fullmatch(token)) is expected
        assert bool(grammar.FIELD_LINE.fullmatch(token + b": x")) is (
            expected or char == b":" != token[:1]
        )
        assert bool(grammar.REQUEST_LINE.fullmatch(token + b" / HTTP/1.1")) is expected
    assert bool(grammar.CHUNK_LINE.fullmatch(b"1;a" + char)) is expected
    assert bool(grammar.CHUNK_LINE.fullmatch(b"1;a=a" + char)) is expected


@every_byte
def test_which_bytes_a_field_value_has(byte: int) -> None:
    char = bytes([byte])
    visible = 0x21 <= byte <= 0x7E or byte >= 0x80
    match = grammar.FIELD_LINE.fullmatch(b"x: a" + char + b"a")
    assert bool(match) is (visible or char in b" \t")
    for value in (char, char + b"a", b"a" + char):
        match = grammar.FIELD_LINE.fullmatch(b"x:" + value)
        assert (match and match[2]) == (
            value if visible else value.strip(b" \t") if char in b" \t" else None
        )


@every_byte
def test_which_bytes_a_target_has(byte: int) -> None:
    char = bytes([byte])
    expected = 0x21 <= byte <= 0x7E and char not in b"#\\"
    assert bool(grammar.ORIGIN_FORM.fullmatch(b"GET /" + char + b" HTTP/1.1")) is expected
    assert bool(grammar.REQUEST_LINE.fullmatch(b"GET " + char + b" HTTP/1.1")) is expected


@every_byte
def test_which_bytes_a_host_name_has(byte: int) -> None:
    char = bytes([byte])
    # RFC 3986 section 3.2.2: unreserved and sub-delims
    expected = byte in (string.ascii_letters + string.digits + "-._~!$&'()*+,;=").encode()
    assert bool(grammar.HOST.fullmatch(b"a" + char + b"a")) is expected
    assert bool(grammar.AUTHORITY_FORM.fullmatch(b"a" + char + b"a:1")) is expected


@every_byte
def test_which_bytes_a_quoted_chunk_extension_has(byte: int) -> None:
    char = bytes([byte])
    text = char in b"\t" or 0x20 <= byte <= 0x7E or byte >= 0x80
    assert bool(grammar.CHUNK_LINE.fullmatch(b'1;a="' + char + b'"')) is (
        text and char not in b'"\\'
    )
    assert bool(grammar.CHUNK_LINE.fullmatch(b'1;a="\\' + char + b'"')) is text


@pytest.mark.parametrize(
    "line",
    [
        *[
            b"0",
            b"00000000000000F0",
            b"fF",
            b"1;a",
            b"1;a=b",
            b'1;a="b"',
            b'1;a="b;c=d\\"e"',
            b"1;a;b;c=d",
        ],
        # RFC 9112 section 7.1.1 has BWS here, which RFC 9110 section 5.6.3 says to take.
        *[b"1 ;a", b"1; a", b"1\t; a = b ; c", b'1;a= ""'],
    ],
)
def test_chunk_size_lines(line: bytes) -> None:
    assert grammar.CHUNK_LINE.fullmatch(line)


@pytest.mark.parametrize(
    "line",
    [
        *[b"", b" 1", b"1 ", b"1\t", b"+1", b"-1", b"0x1", b"1_0", b"1.", b"g", b"\xb2", b"1,1"],
        *[
            b"00000000000000000",
            b"1;",
            b"1;;a",
            b"1;=",
            b"1;=b",
            b"1;a=",
            b"1;a =",
            b"1;a b",
            b"1;a=b c",
        ],
        *[
            b'1;a="',
            b'1;a="b',
            b'1;a="b"c',
            b'1;a="\\"',
            b'1;"a"',
            b"1;a=b ",
            b"1;a\r",
            b"1;\ra",
            b"1\r",
        ],
        *[b"1;a=\r", b'1;a="\r"', b'1;a="\n"', b'1;a="\\\r"', b"1;a\n", b"1;a\x00", b"1 a"],
    ],
)
def test_malformed_chunk_size_lines(line: bytes) -> None:
    assert grammar.CHUNK_LINE.fullmatch(line) is None


@pytest.mark.parametrize(
    "host",
    [
        *[
            b"a",
            b"a.example",
            b"A-1_~!$&'()*+,;=",
            b"127.0.0.1",
            b"%41%20",
            b"a:",
            b"a:0",
            b"a:65535",
        ],
        *[
            b"[::]",
            b"[::1]:8000",
            b"[2001:db8::1]",
            b"[::ffff:192.0.2.1]",
            b"[v1.fe80:a]",
            b"[VF.~]:1",
        ],
    ],
)
def test_hosts(host: bytes) -> None:
    assert grammar.HOST.fullmatch(host)


@pytest.mark.parametrize(
    "host",
    [
        *[
            b"",
            b":",
            b":80",
            b"a:b",
            b"a:-1",
            b"a:123456",
            b"a:1:2",
            b"a b",
            b"a/",
            b"/a",
            b"a?",
            b"a#",
        ],
        *[
            b"a@b",
            b"u:p@a",
            b"@a",
            b"a@",
            b"a\\b",
            b"%",
            b"%4",
            b"%zz",
            b"a\x7f",
            b"\xe9",
            b"a, b",
            b"http://a",
        ],
        *[
            b"[]",
            b"[",
            b"]",
            b"[::1",
            b"::1",
            b"[::1]x",
            b"[::1]]",
            b"[1]",
            b"[:]",
            b"[:::]",
            b"[1::2::3]",
        ],
        *[
            b"[g::]",
            b"[12345::]",
            b"[1:2:3:4:5:6:7:8:9]",
            b"[::1.2.3]",
            b"[::256.0.0.1]",
            b"[::1%25lo]",
        ],
        *[b"[v1]", b"[v.a]", b"[vg.a]", b"[v1.]", b"[fe80::1%lo]"],
    ],
)
def test_malformed_hosts(host: bytes) -> None:
    assert grammar.HOST.fullmatch(host) is None


def is_ipv6_address(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


groups = st.sampled_from(
    ["1", "0", "ffff", "ABC", "1", "1", "1", "", "12345", "g", "1.2.3.4", "1.2.3.256"]
)


@given(st.lists(groups, max_size=10).map(":".join) | st.ip_addresses(v=6).map(str))
def test_ip_literals_are_those_of_the_standard_library(text: str) -> None:
    literal = f"[{text}]".encode()
    assert bool(grammar.HOST.fullmatch(literal)) is is_ipv6_address(text)
    assert bool(grammar.AUTHORITY_FORM.fullmatch(literal + b":1")) is is_ipv6_address(text)


@pytest.mark.parametrize("data", [b"", b"a", b"\r\n", b"a\r\nb\r\n\r\n", b"a\r", b"\r"])
def test_good_line_ends(data: bytes) -> None:
    assert grammar.BAD_LINE_END.search(data) is None


@pytest.mark.parametrize(
    "data", [b"\n", b"a\nb", b"\ra", b"a\rb\r\n", b"\r\r\n", b"\r\n\n", b"\x00", b"a\x00"]
)
def test_bad_line_ends(data: bytes) -> None:
    assert grammar.BAD_LINE_END.search(data)


def test_a_line_end_cut_in_two_is_seen_from_its_second_half() -> None:
    assert grammar.BAD_LINE_END.search(b"a\r\nb", 2) is None
    assert grammar.BAD_LINE_END.search(b"a\n\nb", 2)


request_lines = st.from_regex(grammar.REQUEST_LINE, fullmatch=True)


@given(request_lines, st.data())
def test_no_beginning_of_a_request_line_is_refused(line: bytes, data: st.DataObject) -> None:
    line += b"\r"
    end = data.draw(st.integers(0, len(line)))
    assert grammar.LINE_BEGINNING.match(line[:end])


@pytest.mark.parametrize(
    "line",
    [b"\x16\x03", b"G\x80", b"GET \t", b"GET / http", b"GET / HTTP/1.1 ", b"GET / HTTP/1.10"],
)
def test_what_cannot_become_a_request_line(line: bytes) -> None:
    assert grammar.LINE_BEGINNING.match(line) is None


@pytest.mark.parametrize(
    ("pattern", "data"),
    [
        ("FIELD_LINE", b"a:" + b" " * LONG + b"\x01"),
        ("FIELD_LINE", b"a:" + b" " * LONG + b"b\x01"),
        ("FIELD_LINE", b"a:b" + b" " * LONG + b"\x01"),
        ("FIELD_LINE", b"a:" + b"b " * LONG + b"\x01"),
        ("FIELD_LINE", b"a" * LONG + b" "),
        ("REQUEST_LINE", b"GET /" + b"a" * LONG + b" HTTP/1.\x01"),
        ("REQUEST_LINE", b"G" * LONG + b"\x01"),
        ("ORIGIN_FORM", b"GET /" + b"a" * LONG + b" HTTP/1.0"),
        ("ABSOLUTE_FORM", b"http://" + b"a" * LONG + b"#"),
        ("HOST", b"a" * LONG + b"@"),
        ("HOST", b"[v" + b"1" * LONG + b"@"),
        ("HOST", b"[" + b"1:" * LONG + b"@"),
        ("CHUNK_LINE", b"1" + b" " * LONG + b"\x01"),
        ("CHUNK_LINE", b"1" + b";a" * LONG + b"\x01"),
        ("CHUNK_LINE", b"1;a" + b" " * LONG + b"\x01"),
        ("CHUNK_LINE", b"1" + b" ; a = b" * LONG + b"\x01"),
        ("CHUNK_LINE", b'1;a="' + b"\\a" * LONG),
        ("CHUNK_LINE", b"1" + b';a="b"' * LONG + b"\x01"),
        ("LINE_BEGINNING", b"GET /" + b"a" * LONG + b"\x01"),
        ("LINE_BEGINNING", b"G" * LONG + b"\x01"),
    ],
)
def test_no_input_takes_more_than_linear_time(pattern: str, data: bytes) -> None:
    assert getattr(grammar, pattern).fullmatch(data) is None
