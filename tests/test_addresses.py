from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.addresses import (
    Address,
    InheritedAddress,
    TCPAddress,
    UnixAddress,
    bound_address,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TCPAddress("127.0.0.1", 8000)),
        ("localhost:0", TCPAddress("localhost", 0)),
        ("example.org", TCPAddress("example.org", 8000)),
        (":8080", TCPAddress("", 8080)),
        ("[::1]:443", TCPAddress("::1", 443)),
        ("[::]", TCPAddress("::", 8000)),
        ("[fe80::1%eth0]:80", TCPAddress("fe80::1%eth0", 80)),
        ("tcp://0.0.0.0:65535", TCPAddress("0.0.0.0", 65535)),
        (" 127.0.0.1:1\n", TCPAddress("127.0.0.1", 1)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:app.sock", UnixAddress("app.sock")),
        ("unix:///run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:////run/app.sock", UnixAddress("//run/app.sock")),
        ("unix:@app", UnixAddress("@app")),
        ("fd://3", InheritedAddress(3)),
        ("fd:3", InheritedAddress(3)),
        ("unix:8000", UnixAddress("8000")),
    ],
)
def test_the_forms_that_other_servers_take_are_understood(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected HOST:PORT"),
        ("   ", "expected HOST:PORT"),
        ("127.0.0.1:", "a port from 0 to 65535"),
        ("127.0.0.1:65536", "a port from 0 to 65535"),
        ("127.0.0.1:-1", "a port from 0 to 65535"),
        ("127.0.0.1:80a", "a port from 0 to 65535"),
        ("127.0.0.1:٣", "a port from 0 to 65535"),
        ("[::1]:", "a port from 0 to 65535"),
        ("::1", "brackets around an IPv6 address"),
        ("::1:8000", "brackets around an IPv6 address"),
        ("[::1", "an IPv6 address in brackets"),
        ("[::1]8000", "an IPv6 address in brackets"),
        ("[127.0.0.1]:80", "an IPv6 address in brackets"),
        ("[]:80", "an IPv6 address in brackets"),
        ("/run/app.sock", "unix: before the path"),
        ("./app.sock", "unix: before the path"),
        ("http://127.0.0.1:8000", "without a scheme"),
        ("a b:80", "expected HOST:PORT"),
        ("user@host:80", "expected HOST:PORT"),
        ("unix:", "the path of a Unix socket"),
        ("unix:@", "the path of a Unix socket"),
        ("unix:a\0b", "the path of a Unix socket"),
        ("fd://", "the number of a file descriptor"),
        ("fd://-1", "the number of a file descriptor"),
        ("fd://x", "the number of a file descriptor"),
    ],
)
def test_what_names_no_address_is_refused_with_a_hint(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_address(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_default_port_can_be_another() -> None:
    assert parse_address("[::1]", default_port=9) == TCPAddress("::1", 9)


def test_an_abstract_name_is_told_from_a_path() -> None:
    assert UnixAddress("@app").is_abstract
    assert not UnixAddress("/run/@app").is_abstract


@given(
    st.text(alphabet="[]:@/.1ax %\0", max_size=12)
    | st.text(alphabet="/@ x").map("unix:".__add__)
    | st.text(max_size=20)
)
def test_the_normal_form_means_the_same_and_nothing_else_escapes(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("bound", "text"),
    [
        (("127.0.0.1", 8000), "127.0.0.1:8000"),
        (("::1", 8000), "[::1]:8000"),
        (("/run/app.sock", 0), "unix:/run/app.sock"),
        (("@app", 0), "unix:@app"),
    ],
)
def test_bound_addresses(bound: tuple[str, int], text: str) -> None:
    assert str(bound_address(bound)) == text
