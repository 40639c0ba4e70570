"""The opening handshake: what is asked for, and what is refused with what."""

from __future__ import annotations

import pytest

from pounce.errors import ParseError, ProtocolError
from pounce.protocol.ws.deflate import DeflateSettings, DeflateTerms, negotiate, parse_extensions
from pounce.protocol.ws.handshake import (
    HandshakeError,
    accept_value,
    asks_for_websocket,
    read_opening,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = [(b"sec-websocket-key", KEY), (b"sec-websocket-version", b"13")]


def test_the_example_of_the_rfc() -> None:
    assert accept_value(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("upgrade", "connection", "expected"),
    [
        (b"websocket", b"Upgrade", True),
        (b"WebSocket", b"keep-alive, upgrade", True),
        (b"h2c, websocket", b"upgrade", True),
        (b"websockets", b"upgrade", False),
        (b"h2c", b"upgrade", False),
        (b"websocket", b"keep-alive", False),
    ],
)
def test_who_asks_for_a_websocket(upgrade: bytes, connection: bytes, expected: bool) -> None:
    pairs = [(b"host", b"a"), (b"connection", connection), (b"upgrade", upgrade)]
    assert asks_for_websocket(upgrade, pairs) is expected
    assert not asks_for_websocket(upgrade, pairs[::2])


def test_what_is_asked_for() -> None:
    opening = read_opening(
        "GET",
        [
            *GOOD,
            (b"sec-websocket-protocol", b"chat, superchat"),
            (b"sec-websocket-protocol", b"v2"),
            (b"sec-websocket-extensions", b"x-a"),
            (b"sec-websocket-extensions", b"x-b; c=1"),
        ],
    )
    assert opening.accept == accept_value(KEY)
    assert opening.subprotocols == ["chat", "superchat", "v2"]
    assert opening.extensions == [("x-a", []), ("x-b", [("c", "1")])]


def test_no_key_is_needed_over_http_2() -> None:
    opening = read_opening("CONNECT", GOOD[1:], over_http_1=False)
    assert opening == (b"", [], [])


@pytest.mark.parametrize(
    ("method", "pairs", "status", "fields"),
    [
        ("POST", GOOD, 405, ((b"allow", b"GET"),)),
        ("GET", GOOD[:1], 400, ((b"sec-websocket-version", b"13"),)),
        (
            "GET",
            [GOOD[0], (b"sec-websocket-version", b"12")],
            426,
            ((b"sec-websocket-version", b"13"),),
        ),
        ("GET", [*GOOD, GOOD[1]], 400, ((b"sec-websocket-version", b"13"),)),
        ("GET", GOOD[1:], 400, ()),
        ("GET", [*GOOD, GOOD[0]], 400, ()),
        *[
            ("GET", [(b"sec-websocket-key", key), GOOD[1]], 400, ())
            for key in (b"", b"AAAA", KEY[:-1], b"!" + KEY[1:], KEY + b"AAAA")
        ],
    ],
)
def test_what_is_refused(
    method: str,
    pairs: list[tuple[bytes, bytes]],
    status: int,
    fields: tuple[tuple[bytes, bytes], ...],
) -> None:
    with pytest.raises(HandshakeError) as caught:
        read_opening(method, pairs)
    assert (caught.value.status, caught.value.fields) == (status, fields)


@pytest.mark.parametrize(
    "pair",
    [
        (b"sec-websocket-protocol", b"a b"),
        (b"sec-websocket-protocol", b"a, (b)"),
        (b"sec-websocket-extensions", b"a b"),
        (b"sec-websocket-extensions", b"a; =1"),
        (b"sec-websocket-extensions", b'a; b="c d"'),
        (b"sec-websocket-extensions", b"a;"),
        (b"sec-websocket-extensions", b"\xff"),
    ],
)
def test_malformed_lists(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ParseError) as caught:
        read_opening("GET", [*GOOD, pair])
    assert isinstance(caught.value, ProtocolError)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("a", [("a", [])]),
        (",a , b,", [("a", []), ("b", [])]),
        ('a; b=1;c ; d = "2"', [("a", [("b", "1"), ("c", None), ("d", "2")])]),
    ],
)
def test_lists_of_extensions(
    value: str, expected: list[tuple[str, list[tuple[str, str | None]]]]
) -> None:
    assert parse_extensions(value) == expected


def agree(offer: str, **wishes: object) -> tuple[DeflateTerms, str] | None:
    settings = DeflateSettings(**wishes)  # type: ignore[arg-type]
    return negotiate(parse_extensions(offer), settings)


@pytest.mark.parametrize(
    ("offer", "wishes", "terms", "answer"),
    [
        ("", {}, (12, 15, True, True), "; server_max_window_bits=12"),
        ("", {"window_bits": 15}, (15, 15, True, True), ""),
        (
            "; client_max_window_bits",
            {},
            (12, 12, True, True),
            "; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            "; client_max_window_bits=10; server_max_window_bits=9",
            {},
            (9, 10, True, True),
            "; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            "; client_max_window_bits=8; server_max_window_bits=15",
            {"window_bits": 15},
            (15, 8, True, True),
            "; server_max_window_bits=15; client_max_window_bits=8",
        ),
        (
            "; server_no_context_takeover; client_no_context_takeover",
            {"window_bits": 15},
            (15, 15, False, False),
            "; server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "",
            {"window_bits": 15, "context_takeover": False},
            (15, 15, False, False),
            "; server_no_context_takeover; client_no_context_takeover",
        ),
    ],
)
def test_offers_that_are_accepted(
    offer: str, wishes: dict[str, object], terms: tuple[int, int, bool, bool], answer: str
) -> None:
    agreed = agree("permessage-deflate" + offer, **wishes)
    assert agreed == (DeflateTerms(*terms), "permessage-deflate" + answer)


@pytest.mark.parametrize(
    "offer",
    [
        "; server_max_window_bits",
        "; server_max_window_bits=8",  # zlib cannot
        "; server_max_window_bits=16",
        "; server_max_window_bits=010",
        "; client_max_window_bits=7",
        "; client_max_window_bits=12x",
        "; server_no_context_takeover=1",
        "; client_no_context_takeover=true",
        "; server_max_window_bits=10; server_max_window_bits=10",
        "; unknown",
    ],
)
def test_offers_that_are_not_the_next_may_be(offer: str) -> None:
    bad = "permessage-deflate" + offer
    assert agree(bad) is None
    agreed = agree(bad + ", permessage-deflate; server_max_window_bits=9")
    assert agreed is not None
    assert agreed[0].server_bits == 9


def test_other_extensions_are_passed_over() -> None:
    assert agree("x-webkit-deflate-frame, bbf-usp-protocol") is None
    assert agree("x-other, permessage-deflate") is not None
