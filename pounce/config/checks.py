"""The rules for single values that are more than a number or a word."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from pounce.addresses import parse_address
from pounce.config.kinds import Kind
from pounce.errors import ConfigError
from pounce.logs.access_format import validate_format

# RFC 9110 section 5.6.2.
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
# RFC 9110 section 5.5; obs-text is taken because header values are latin-1 on the wire.
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# These decide where a message ends (RFC 9112 section 6) or what becomes of the connection.
_FRAMING_FIELDS: Final = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
# RFC 1123 section 2.1 with the underscore that private names use; the wildcard is one whole label.
_LABEL: Final = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_SNI_NAME: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*", re.ASCII | re.IGNORECASE)


def check_host(host: str) -> str:
    """A name or an address; the brackets of an IPv6 address are taken off."""
    host = host.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or "/" in host or " " in host:
        raise ValueError("expected a name or an address ('0.0.0.0' or '::' for all)")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(
                "expected a name or an address without a port, which has its own option"
            ) from None
    return host


def check_address(text: str) -> str:
    """An address to listen on, in its normal form."""
    return str(parse_address(text))


def check_root_path(path: str) -> str:
    """A path from the root, without the slash at its end; a bare slash is no prefix at all."""
    if path and not path.startswith("/"):
        raise ValueError("expected a path that begins with a slash")
    return path.rstrip("/")


def check_metrics_path(path: str) -> str:
    """A path as it is after decoding, without a query."""
    if not path.startswith("/") or "?" in path or "#" in path:
        raise ValueError("expected a path that begins with a slash, without a query")
    return path


def check_not_empty(text: str) -> str:
    """Text that is more than blanks."""
    if not text.strip():
        raise ValueError("expected text that is not empty")
    return text


def check_access_log_format(text: str) -> str:
    """`json`, or a format of the Apache atoms."""
    try:
        validate_format(text)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("access_log_format: ")) from None
    return text


def check_networks(text: str) -> str:
    """A comma-separated list of addresses, networks, `unix` and `*`; an empty one is nobody."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    for entry in entries:
        if entry.lower() in ("*", "unix"):
            continue
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError:
            raise ValueError(
                f"expected a comma-separated list of addresses, networks (10.0.0.0/8), 'unix' "
                f"and '*', but {entry!r} is none of them"
            ) from None
    return ",".join(entry.lower() for entry in entries)


class HeaderField(Kind):
    """A response header: a pair in Python, `NAME:VALUE` in text."""

    metavar = "NAME:VALUE"
    label = "header NAME:VALUE"

    def parse(self, value: object) -> tuple[str, str]:
        match value:
            case str() if ":" in value:
                name, _, content = value.partition(":")
            case (str(name), str(content)):
                pass
            case _:
                raise ValueError("expected a header as NAME:VALUE")
        content = content.strip(" \t")
        if not _TOKEN.fullmatch(name):
            raise ValueError("expected a header as NAME:VALUE with a token as its name")
        if not _FIELD_VALUE.fullmatch(content):
            raise ValueError("expected a header value without line ends, NUL or other controls")
        if name.lower() in _FRAMING_FIELDS:
            raise ValueError(f"expected a header other than {name}, which the server itself sets")
        return name, content

    def format(self, value: object) -> str:
        assert isinstance(value, tuple)
        return ": ".join(value)


class SNICertificate(Kind):
    """A certificate for one host name: `hostname=certfile[,keyfile]`."""

    metavar = "HOST=CERT[,KEY]"
    label = "certificate HOST=CERT[,KEY]"

    def parse(self, value: object) -> str:
        if isinstance(value, (tuple, list)) and len(value) == 2:  # an item of a TOML table
            value = "=".join(str(part) for part in value)
        if isinstance(value, str) and "\0" not in value:
            name, _, files = (part.strip() for part in value.partition("="))
            paths = [path.strip() for path in files.split(",")]
            if _SNI_NAME.fullmatch(name) and len(paths) <= 2 and all(paths):
                return f"{name.lower()}={','.join(paths)}"
        raise ValueError(
            "expected hostname=certfile or hostname=certfile,keyfile; "
            "the host name may begin with '*.'"
        )
