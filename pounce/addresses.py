"""Where to listen, as people write it: `127.0.0.1:8000`, `[::1]:8000`, `unix:/run/app.sock`, `fd://3`.

This is the grammar alone; `pounce.net` does the listening.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

DEFAULT_PORT: Final = 8000

_FORMS: Final = "HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, unix:@NAME or fd://NUMBER"


@dataclass(frozen=True, slots=True)
class TCPAddress:
    """A host name or address, and a port."""

    host: str
    """Without brackets; empty for every address of the machine."""
    port: int
    """0 for any free one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket: its path, or `@` and its name in Linux's abstract namespace."""

    path: str

    @property
    def is_abstract(self) -> bool:
        return self.path.startswith("@")

    def __str__(self) -> str:
        # Two slashes after the colon are taken for part of the prefix.
        return f"unix://{self.path}" if self.path.startswith("//") else f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class InheritedAddress:
    """A socket that whoever started this process has left open for it."""

    fd: int
    name: str = field(default="", compare=False)
    """The name that systemd gave it (`FileDescriptorName=`); empty when it is not systemd's."""

    def __str__(self) -> str:
        return f"fd://{self.fd}"


Address: TypeAlias = TCPAddress | UnixAddress | InheritedAddress


def bound_address(bound: tuple[str, int]) -> Address:
    """An address that is bound; no TCP port is 0 then.

    Args:
        bound: Host and port; path and 0 for a Unix socket.
    """
    host, port = bound
    return TCPAddress(host, port) if port else UnixAddress(host)


def parse_address(text: str, *, default_port: int = DEFAULT_PORT) -> Address:
    """The address that `text` names. `str` of the result is its normal form.

    Takes what gunicorn and hypercorn take for `--bind`. The prefixes `tcp://` and `unix://` are
    accepted, a port may be left out.

    Raises:
        ValueError: It names none; one line that says what was expected.
    """
    text = text.strip()
    scheme, colon, rest = text.partition(":")
    match scheme.lower() if colon else "":
        case "unix":
            return _parse_unix(rest.removeprefix("//"))
        case "fd":
            return _parse_descriptor(rest)
        case "tcp" if rest.startswith("//"):
            return _parse_tcp(rest[2:], default_port)
    return _parse_tcp(text, default_port)


def _parse_unix(path: str) -> UnixAddress:
    if path in ("", "@") or "\0" in path:
        raise ValueError("expected the path of a Unix socket, or @ and a name, after unix:")
    return UnixAddress(path)


def _parse_descriptor(text: str) -> InheritedAddress:
    number = text.removeprefix("//")
    if not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise ValueError("expected the number of a file descriptor after fd://")
    return InheritedAddress(int(number))


def _parse_tcp(text: str, default_port: int) -> TCPAddress:
    if "://" in text:
        raise ValueError(f"expected {_FORMS}, without a scheme")
    if "/" in text:
        raise ValueError("expected unix: before the path of a Unix socket")
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not _is_ipv6(host) or (port and not port.startswith(":")):
            raise ValueError("expected an IPv6 address in brackets, then a colon and the port")
    elif text.count(":") > 1:
        raise ValueError("expected brackets around an IPv6 address: [::1]:8000")
    else:
        host, colon, port = text.partition(":")
        port = colon + port
        if any(character.isspace() or character in "]@\0" for character in host):
            raise ValueError(f"expected {_FORMS}")
    if not host and not port:
        raise ValueError(f"expected {_FORMS}")
    return TCPAddress(host, _parse_port(port[1:]) if port else default_port)


def _parse_port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535:
        return int(text)
    raise ValueError("expected a port from 0 to 65535 after the colon")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
