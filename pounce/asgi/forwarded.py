"""What a trusted proxy says about the client: X-Forwarded-For and X-Forwarded-Proto."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})

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
        self._known: dict[str, bool] = {}

    def __contains__(self, host: str | None) -> bool:
        """Whether the peer at `host` is trusted; None is a peer on a Unix socket."""
        if self._everyone:
            return True
        if host is None:
            return self._unix
        known = self._known.get(host)
        if known is None:
            if len(self._known) >= 1024:
                self._known.clear()
            known = self._known[host] = self._is_member(host)
        return known

    def _is_member(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any(address in net or (mapped and mapped in net) for net in self._networks)

    def client(self, forwarded_for: str) -> str | None:
        """The nearest address in X-Forwarded-For that is not a trusted proxy.

        Each proxy appends the peer that it saw, so only what trusted ones appended counts. Where
        all are trusted the first one is the client.
        """
        hosts = [part.strip() for part in forwarded_for.split(",")]
        for host in reversed(hosts):
            if split_address(host)[0] not in self:
                return host
        return hosts[0]


def split_address(value: str) -> Address:
    """Host and port of "1.2.3.4", "1.2.3.4:5", "::1", "[::1]:5"; 0 when there is no port."""
    if value.startswith("["):
        host, _, port = value[1:].partition("]")
        port = port.removeprefix(":")
    elif value.count(":") == 1:
        host, _, port = value.partition(":")
    else:
        host, port = value, ""
    return host, int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0


def forwarded(
    pairs: Iterable[tuple[bytes, bytes]],
    trusted: TrustedProxies,
    scheme: str,
    client: Address | None,
) -> tuple[str, Address | None]:
    """Scheme and client as the trusted proxy in front of us reports them.

    Repeated fields count as one list (RFC 9110 section 5.3); values that make no sense are
    ignored, as the proxy is trusted but what it passes through need not be.
    """
    hosts: list[bytes] = []
    for name, value in pairs:
        if name == b"x-forwarded-for":
            hosts.append(value)
        elif name == b"x-forwarded-proto":
            proto = value.decode("latin-1").rpartition(",")[2].strip().lower()
            if proto in _SCHEMES:
                scheme = proto
    if hosts:
        found = trusted.client(b",".join(hosts).decode("latin-1"))
        if found:
            client = split_address(found)
    return scheme, client
