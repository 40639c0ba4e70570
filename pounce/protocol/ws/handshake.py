"""The opening handshake, as far as it is the same over all versions of HTTP (RFC 6455 section 4.2,
RFC 8441 section 5)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pounce.errors import ParseError, ProtocolError
from pounce.protocol.ws.deflate import Parameters, parse_extensions

VERSION: Final = b"13"

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PROTOCOLS: Final = re.compile(rb"[ \t,]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*(?:,|$)[ \t,]*")

Pair = tuple[bytes, bytes]


class HandshakeError(ProtocolError):
    """The handshake is refused with `status` and `fields`."""

    def __init__(self, message: str, status: int = 400, fields: tuple[Pair, ...] = ()) -> None:
        super().__init__(message, status)
        self.fields = fields


class Opening(NamedTuple):
    """What a client asks for that wants to open a WebSocket."""

    accept: bytes
    """The value of Sec-WebSocket-Accept; empty over HTTP/2 and HTTP/3."""
    subprotocols: list[str]
    extensions: list[tuple[str, Parameters]]


def asks_for_websocket(upgrade: bytes, pairs: Iterable[Pair]) -> bool:
    """Whether a request of HTTP/1.1 with this Upgrade field asks for a WebSocket.

    Without the connection option it does not: a proxy has passed on what was not for us (RFC 9110
    section 7.8).
    """
    if b"websocket" not in _tokens(upgrade):
        return False
    return any(name == b"connection" and b"upgrade" in _tokens(value) for name, value in pairs)


def read_opening(method: str, pairs: Sequence[Pair], *, over_http_1: bool = True) -> Opening:
    """The opening handshake in a request with these fields.

    Raises:
        HandshakeError: 400, 405 or 426.
        ParseError: 400.
    """
    if over_http_1 and method != "GET":
        raise HandshakeError("a WebSocket is opened with GET", 405, ((b"allow", b"GET"),))
    keys, versions, protocols, extensions = [], [], [], []
    for name, value in pairs:
        if name == b"sec-websocket-key":
            keys.append(value)
        elif name == b"sec-websocket-version":
            versions.append(value)
        elif name == b"sec-websocket-protocol":
            protocols.append(value)
        elif name == b"sec-websocket-extensions":
            extensions.append(value)
    if versions != [VERSION]:
        # Without a version it is no version of the protocol at all.
        status = 426 if len(versions) == 1 else 400
        raise HandshakeError(
            "exactly one Sec-WebSocket-Version, 13, is needed",
            status,
            ((b"sec-websocket-version", VERSION),),
        )
    accept = b""
    if over_http_1:
        if len(keys) != 1 or not _is_key(keys[0]):
            raise HandshakeError("exactly one Sec-WebSocket-Key of 16 bytes is needed")
        accept = accept_value(keys[0])
    return Opening(
        accept,
        _parse_protocols(b", ".join(protocols)),
        parse_extensions(b", ".join(extensions).decode("latin-1")),
    )


def accept_value(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _parse_protocols(value: bytes) -> list[str]:
    found = []
    at = 0
    while at < len(value):
        match = _PROTOCOLS.match(value, at)
        if match is None:
            raise ParseError("malformed Sec-WebSocket-Protocol")
        found.append(match[1].decode("ascii"))
        at = match.end()
    return found


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t") for token in value.lower().split(b",")]
