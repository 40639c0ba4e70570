"""What a trusted proxy says about the client: X-Forwarded-For and X-Forwarded-Proto."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

_INSECURE: Final = frozenset({"http", "ws"})
_SECURE: Final = frozenset({"https", "wss"})

MAX_ADDRESS: Final = 64
"""Characters of the longest address that is remembered: IPv6 with a zone and some room."""

Address = tuple[str, int]


class TrustedProxies:
    """The peers whose X-Forwarded-* fields are believed.

    Args:
        allowed: Comma-separated addresses, networks, "unix" for peers on a Unix socket, or "*".

    Raises:
        ValueError: An entry is none of these.
    """

    __slots__ = ("_everyone", "_known", "_networks", "_unix")

    def __init__(self, allowed: str) -> None:
        entries = [entry.strip() for entry in allowed.split(",") if entry.strip()]
        self._everyone = "*" in entries
        self._unix = "unix" in entries
        self._networks = [
            ipaddress.ip_network(entry, strict=False)
            for entry in entries
            if entry not in ("*", "unix")
        ]
        self._known: dict[str, bool | None] = {}

    def __contains__(self, host: str | None) -> bool:
        """Whether the peer at `host` is trusted; None is a peer on a Unix socket."""
        if self._everyone:
            return True
        return self._unix if host is None else bool(self._judge(host))

    def _judge(self, host: str) -> bool | None:
        """Whether `host` is trusted; None when it is no address."""
        if host in self._known:
            return self._known[host]
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            trusted = None
        else:
            mapped = getattr(address, "ipv4_mapped", None)
            trusted = self._everyone or any(
                address in net or (mapped and mapped in net) for net in self._networks
            )
        if len(host) <= MAX_ADDRESS:
            if len(self._known) >= 1024:
                self._known.clear()
            self._known[host] = trusted
        return trusted

    def client(self, forwarded_for: str) -> Address | None:
        """The nearest address in X-Forwarded-For that is not a trusted proxy.

        Each proxy appends the peer that it saw, so only what trusted ones appended counts. Where
        all are trusted the first one is the client. None when what counts is no address.
        """
        client = None
        elements = _elements(forwarded_for)
        for element in elements[:1] if self._everyone else reversed(elements):
            address = split_address(element)
            trusted = self._judge(address[0])
            if trusted is None or "%" in address[0]:  # a zone means nothing elsewhere
                return None
            client = address
            if not trusted:
                break
        return client


def _elements(value: str) -> list[str]:
    """The elements of a list; empty ones are ignored (RFC 9110 section 5.6.1.2)."""
    return [element for part in value.split(",") if (element := part.strip(" \t"))]


def split_address(value: str) -> Address:
    """Host and port of "1.2.3.4", "1.2.3.4:5", "::1", "[::1]:5"; 0 when there is no port."""
    if value.startswith("["):
        host, _, port = value[1:].partition("]")
        port = port.removeprefix(":")
    elif value.count(":") == 1:
        host, _, port = value.partition(":")
    else:
        host, port = value, ""
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    return host, number if number < 65536 else 0


def forwarded(
    pairs: Iterable[tuple[bytes, bytes]],
    trusted: TrustedProxies,
    scheme: str,
    client: Address | None,
) -> tuple[str, Address | None]:
    """Scheme and client as the trusted proxy in front of us reports them.

    "https" and "wss" say the same, as do "http" and "ws": proxies write either for a WebSocket.
    Repeated fields count as one list (RFC 9110 section 5.3); values that make no sense are
    ignored, as the proxy is trusted but what it passes through need not be.
    """
    hosts: list[bytes] = []
    protos: list[bytes] = []
    for name, value in pairs:
        if name == b"x-forwarded-for":
            hosts.append(value)
        elif name == b"x-forwarded-proto":
            protos.append(value)
    if hosts:
        client = trusted.client(b",".join(hosts).decode("latin-1")) or client
    if protos:
        # The last element is what the proxy in front of us says.
        proto = ["", *_elements(b",".join(protos).decode("latin-1").lower())][-1]
        insecure = "ws" if scheme in ("ws", "wss") else "http"
        if proto in _SECURE:
            scheme = insecure + "s"
        elif proto in _INSECURE:
            scheme = insecure
    return scheme, client
