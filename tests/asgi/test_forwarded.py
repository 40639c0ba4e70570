from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.asgi.forwarded import MAX_ADDRESS, Address, TrustedProxies, forwarded, split_address

PEER = ("10.0.0.9", 40000)


def client_of(*values: str, allowed: str = "10.0.0.0/8, 2001:db8::/32") -> Address | None:
    """The client where a trusted peer sends these X-Forwarded-For fields."""
    pairs = [(b"host", b"a"), *[(b"x-forwarded-for", value.encode("latin-1")) for value in values]]
    scheme, client = forwarded(pairs, TrustedProxies(allowed), "http", PEER)
    assert scheme == "http"
    return client


def scheme_of(*values: str, scheme: str = "http") -> str:
    pairs = [(b"x-forwarded-proto", value.encode("latin-1")) for value in values]
    found, client = forwarded(pairs, TrustedProxies("*"), scheme, PEER)
    assert client == PEER
    return found


# Who is trusted


@pytest.mark.parametrize(
    ("allowed", "members", "strangers"),
    [
        (
            "127.0.0.1,::1",
            ["127.0.0.1", "::1", "::ffff:127.0.0.1"],
            ["127.0.0.2", "::2", "", "a", None],
        ),
        (" 10.0.0.0/8 , ", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0", "::", "::a00:0", None]),
        ("10.1.2.3/8", ["10.9.9.9"], ["11.0.0.1"]),
        ("2001:db8::/32", ["2001:db8::1", "2001:DB8:0::1"], ["2001:db9::1", "32.1.13.184"]),
        ("fe80::/10", ["fe80::1", "fe80::1%eth0"], ["fec0::1%eth0", "%eth0"]),
        ("unix", [None], ["127.0.0.1", "unix", ""]),
        ("unix,10.0.0.1", [None, "10.0.0.1"], ["10.0.0.2"]),
        ("*", ["127.0.0.1", "::1", "", "a", None], []),
        ("10.0.0.1, *", ["192.0.2.1", None], []),
        ("", [], ["127.0.0.1", None]),
        (",,", [], ["127.0.0.1", None]),
        ("::ffff:10.0.0.0/104", ["::ffff:10.1.2.3"], ["::ffff:11.0.0.0"]),
    ],
)
def test_who_is_trusted(
    allowed: str, members: list[str | None], strangers: list[str | None]
) -> None:
    trusted = TrustedProxies(allowed)
    for _ in range(2):  # judged, and remembered
        assert [host for host in members if host not in trusted] == []
        assert [host for host in strangers if host in trusted] == []


@pytest.mark.parametrize(
    "allowed", ["a", "10.0.0.256", "10.0.0.0/33", "::1/129", "127.0.0.1:80", "**", "UNIX"]
)
def test_what_is_no_address_is_refused(allowed: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        TrustedProxies(f"127.0.0.1,{allowed}")


def test_what_is_remembered_is_bounded() -> None:
    trusted = TrustedProxies("10.0.0.0/8")
    for number in range(5000):
        assert f"10.0.{number // 256}.{number % 256}" in trusted
        assert trusted.client("x" * (MAX_ADDRESS + 1) + str(number)) is None
    assert 0 < len(trusted._known) <= 1024
    assert max(map(len, trusted._known)) <= MAX_ADDRESS


# X-Forwarded-For


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.1"], ("192.0.2.1", 0)),
        (["192.0.2.1:5000"], ("192.0.2.1", 5000)),
        (["2001:DB9::1"], ("2001:DB9::1", 0)),
        (["[2001:db9::1]:5000"], ("2001:db9::1", 5000)),
        (["[2001:db9::1]"], ("2001:db9::1", 0)),
        # Only what trusted proxies appended counts.
        (["198.51.100.7, 192.0.2.1"], ("192.0.2.1", 0)),
        (["198.51.100.7, 192.0.2.1, 10.0.0.1, 10.0.0.2"], ("192.0.2.1", 0)),
        (["198.51.100.7, 192.0.2.1, 10.0.0.1, 192.0.2.2"], ("192.0.2.2", 0)),
        (["10.0.0.1, 192.0.2.1, 2001:db8::7"], ("192.0.2.1", 0)),
        (["10.0.0.66, 192.0.2.1, [2001:db8::7]:80, 10.0.0.1:9"], ("192.0.2.1", 0)),
        # Repeated fields are one list.
        (["192.0.2.1", "10.0.0.1"], ("192.0.2.1", 0)),
        (["192.0.2.1", "192.0.2.2"], ("192.0.2.2", 0)),
        (["192.0.2.1, 10.0.0.1", "10.0.0.2, 10.0.0.3"], ("192.0.2.1", 0)),
        # All are trusted: the first.
        (["10.0.0.1, 10.0.0.2"], ("10.0.0.1", 0)),
        (["10.0.0.1:8"], ("10.0.0.1", 8)),
        # Empty elements are no elements.
        (["192.0.2.1,,\t,"], ("192.0.2.1", 0)),
        ([",192.0.2.1", ""], ("192.0.2.1", 0)),
        # What makes no sense is not the client, and nothing before it counts.
        ([""], PEER),
        ([" , ,"], PEER),
        (["unknown"], PEER),
        (["192.0.2.1, unknown"], PEER),
        (["192.0.2.1, unknown, 10.0.0.1"], PEER),
        (["unknown, 192.0.2.1"], ("192.0.2.1", 0)),
        (["_hidden, 10.0.0.1"], PEER),
        (["192.0.2.256"], PEER),
        (["2001:db9::1%eth0"], PEER),
        (["192.0.2.1 192.0.2.2"], PEER),
        (['"192.0.2.1"'], PEER),
        (["for=192.0.2.1"], PEER),
        (["\xb9.2.3.4"], PEER),
        (["[::1"], ("::1", 0)),
        (["]:80"], PEER),
    ],
)
def test_the_client_behind_proxies(values: list[str], client: Address) -> None:
    assert client_of(*values) == client


def test_where_everyone_is_trusted_the_first_is_the_client() -> None:
    assert client_of("192.0.2.1, 198.51.100.7", "192.0.2.2", allowed="*") == ("192.0.2.1", 0)
    assert client_of(", 192.0.2.1:7, x", allowed="*") == ("192.0.2.1", 7)
    assert client_of("unknown, 192.0.2.1", allowed="*") == PEER


def test_without_the_fields_nothing_changes() -> None:
    pairs = [(b"host", b"a"), (b"x-real-ip", b"192.0.2.1"), (b"forwarded", b"for=192.0.2.1")]
    for client in (PEER, None):
        assert forwarded(pairs, TrustedProxies("*"), "https", client) == ("https", client)


def test_the_peer_may_be_a_unix_socket() -> None:
    pairs = [(b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-proto", b"https")]
    trusted = TrustedProxies("unix")
    assert forwarded(pairs, trusted, "http", None) == ("https", ("192.0.2.1", 0))
    assert forwarded([(b"x-forwarded-for", b"x")], trusted, "http", None) == ("http", None)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        *[("a", ("a", 0)), ("a:1", ("a", 1)), ("a:65535", ("a", 65535)), ("a:65536", ("a", 0))],
        *[("a:", ("a", 0)), ("a:x", ("a", 0)), ("a:-1", ("a", 0)), ("a:1_0", ("a", 0))],
        *[
            ("a:\xb2", ("a", 0)),
            ("a:100000", ("a", 0)),
            ("", ("", 0)),
            (":", ("", 0)),
            (":1", ("", 1)),
        ],
        *[
            ("::1", ("::1", 0)),
            ("[::1]", ("::1", 0)),
            ("[::1]:1", ("::1", 1)),
            ("[::1]1", ("::1", 1)),
        ],
        *[("[", ("", 0)), ("[]", ("", 0)), ("[::1:2", ("::1:2", 0)), ("[::1]:x", ("::1", 0))],
    ],
)
def test_host_and_port(value: str, address: Address) -> None:
    assert split_address(value) == address


# X-Forwarded-Proto


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["wss"], "https"),
        (["http"], "http"),
        (["ws"], "http"),
        (["http, https"], "https"),
        (["https, http"], "http"),
        (["http", "https"], "https"),
        (["https", "http"], "http"),
        ([" https ,"], "https"),
        # What makes no sense is ignored, and so is what stands before it.
        ([""], "http"),
        (["ftp"], "http"),
        (["https", "ftp"], "http"),
        (["https; x"], "http"),
        (["https\xa0"], "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(values: list[str], scheme: str) -> None:
    assert scheme_of(*values) == scheme
    kept = {"http": "ws", "https": "wss"}
    assert scheme_of(*values, scheme="ws") == kept[scheme]


def test_a_proxy_may_say_that_it_was_reached_in_the_clear() -> None:
    assert scheme_of("http", scheme="https") == "http"
    assert scheme_of("http", scheme="wss") == "ws"
    assert scheme_of("x", scheme="https") == "https"
    assert scheme_of("https", scheme="wss") == "wss"


# Properties

texts = st.text(st.characters(max_codepoint=255), max_size=30)
elements = st.one_of(
    texts, st.ip_addresses().map(str), st.sampled_from(["10.0.0.1", "unknown", ""])
)


@given(st.lists(elements, max_size=5).map(", ".join), st.sampled_from(["10.0.0.0/8", "*", "unix"]))
def test_whatever_is_forwarded_gives_an_address(value: str, allowed: str) -> None:
    client = client_of(value, allowed=allowed)
    assert client is not None
    assert TrustedProxies("unix").client(client[0]) == (client[0], 0)  # an address
    assert 0 <= client[1] < 65536


@given(st.lists(elements, max_size=4).map(",".join))
def test_what_a_client_sends_cannot_hide_its_address(forged: str) -> None:
    """The proxy appends the address of its peer to whatever that sent."""
    assert client_of(f"{forged}, 192.0.2.1") == ("192.0.2.1", 0)
    assert client_of(forged, "192.0.2.1, 10.0.0.1") == ("192.0.2.1", 0)
