"""permessage-deflate: its negotiation and both directions (RFC 7692).

Contexts are made when they are first needed, and cost memory for as long as they are kept: for
compression 4 << bits and as much again for its table, for decompression 1 << bits and 10 KiB.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pounce.errors import ParseError

NAME: Final = "permessage-deflate"
MAX_BITS: Final = 15
MIN_BITS: Final = 9
"""zlib compresses with no smaller window (RFC 7692 would allow 8)."""

SMALLEST: Final = 32
"""Shorter messages are sent as they are: there is nothing to gain."""

MAX_ENDS: Final = 8
"""Blocks of a message that may say that they are the last. Each costs a context."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""Ends every flush, and is not sent (RFC 7692 section 7.2.1)."""

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER: Final = re.compile(
    rf'[ \t]*;[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*(?:({_TOKEN})|"({_TOKEN})"))?'
)
_NAME: Final = re.compile(rf"[ \t]*({_TOKEN})")
_COMMA: Final = re.compile(r"[ \t]*(?:,|$)")
_BITS: Final = re.compile(r"8|9|1[0-5]")

Parameters = list[tuple[str, str | None]]


class MessageTooBig(Exception):
    """A message inflates to more than it may."""


class DeflateSettings(NamedTuple):
    """What the server is willing to do."""

    window_bits: int = 12
    """The largest window in both directions, from 9 to 15."""
    context_takeover: bool = True
    """Whether a message may refer to those before it."""


class DeflateTerms(NamedTuple):
    """What server and client have agreed on."""

    server_bits: int
    client_bits: int
    server_takeover: bool
    client_takeover: bool

    def inflater(self) -> Inflater:
        """For what the client sends."""
        return Inflater(self.client_bits, self.client_takeover)

    def deflater(self) -> Deflater:
        """For what is sent to it."""
        return Deflater(self.server_bits, self.server_takeover)


def parse_extensions(value: str) -> list[tuple[str, Parameters]]:
    """The offers in Sec-WebSocket-Extensions, in their order (RFC 6455 section 9.1).

    Raises:
        ParseError: It is malformed.
    """
    offers = []
    at = 0
    while at < len(value):
        comma = _COMMA.match(value, at)
        if comma is not None and comma.end() > at:  # an empty element (RFC 9110 section 5.6.1)
            at = comma.end()
            continue
        name = _NAME.match(value, at)
        if name is None:
            raise ParseError("malformed Sec-WebSocket-Extensions")
        at = name.end()
        parameters: Parameters = []
        while (parameter := _PARAMETER.match(value, at)) is not None:
            parameters.append((parameter[1], parameter[2] or parameter[3]))
            at = parameter.end()
        offers.append((name[1], parameters))
        comma = _COMMA.match(value, at)
        if comma is None:
            raise ParseError("malformed Sec-WebSocket-Extensions")
        at = comma.end()
    return offers


def negotiate(
    offers: Iterable[tuple[str, Parameters]], settings: DeflateSettings
) -> tuple[DeflateTerms, str] | None:
    """The terms of the first offer that can be accepted, and the answer to it; None without one."""
    for name, parameters in offers:
        if name == NAME:
            accepted = _accept(parameters, settings)
            if accepted is not None:
                return accepted
    return None


def _accept(parameters: Parameters, settings: DeflateSettings) -> tuple[DeflateTerms, str] | None:
    offer = dict(parameters)
    if len(offer) < len(parameters):
        return None
    server_bits = client_bits = settings.window_bits
    answers_client_bits = False
    for name, value in offer.items():
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            if value is None or not _BITS.fullmatch(value) or int(value) < MIN_BITS:
                return None
            server_bits = min(server_bits, int(value))
        elif name == "client_max_window_bits":
            if value is not None and not _BITS.fullmatch(value):
                return None
            client_bits = min(client_bits, int(value or MAX_BITS))
            answers_client_bits = True
        else:
            return None
    if not answers_client_bits:
        client_bits = MAX_BITS  # it does not understand to be told (section 7.1.2.2)
    server_takeover = settings.context_takeover and "server_no_context_takeover" not in offer
    client_takeover = settings.context_takeover and "client_no_context_takeover" not in offer
    answer = [NAME]
    if not server_takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    if server_bits < MAX_BITS or "server_max_window_bits" in offer:
        answer.append(f"server_max_window_bits={server_bits}")
    if answers_client_bits:
        answer.append(f"client_max_window_bits={client_bits}")
    terms = DeflateTerms(server_bits, client_bits, server_takeover, client_takeover)
    return terms, "; ".join(answer)


class Deflater:
    """Compresses whole messages."""

    __slots__ = ("_bits", "_context", "_takeover")

    def __init__(self, bits: int, takeover: bool) -> None:
        self._bits = bits
        self._takeover = takeover
        self._context: Any = None

    def deflate(self, payload: bytes) -> bytes:
        """The payload of the message as it is sent, with RSV1 set."""
        context = self._context
        if context is None:
            level = zlib.Z_DEFAULT_COMPRESSION
            # The table as large as the window is.
            context = zlib.compressobj(level, zlib.DEFLATED, -self._bits, self._bits - 7)
            if self._takeover:
                self._context = context
        compressed: bytes = context.compress(payload) + context.flush(zlib.Z_SYNC_FLUSH)
        return compressed[:-4]


class Inflater:
    """Decompresses messages part by part, never further than they may go."""

    __slots__ = ("_bits", "_context", "_ends", "_takeover")

    def __init__(self, bits: int, takeover: bool) -> None:
        self._bits = bits
        self._takeover = takeover
        self._context: Any = None
        self._ends = 0

    def inflate(self, data: Any, limit: int) -> bytes:
        """What a part of a message stands for.

        Args:
            limit: Bytes that the message may still have.

        Raises:
            MessageTooBig: It has more.
            zlib.error: The data is damaged, or has more ends than it needs.
        """
        context = self._context
        if context is None:
            context = self._context = zlib.decompressobj(-self._bits)
        content: bytes = context.decompress(data, limit + 1)
        while context.eof:
            # A block says that it is the last (section 7.2.3.4). What follows begins anew, and may
            # refer to what there was.
            self._ends += 1
            if self._ends > MAX_ENDS:
                raise zlib.error("too many last blocks")
            rest = context.unused_data
            window = content[-(1 << self._bits) :]
            context = self._context = zlib.decompressobj(-self._bits, zdict=window)
            if not rest:
                break
            content += context.decompress(rest, limit + 1 - len(content))
        if len(content) > limit:
            raise MessageTooBig
        return content

    def finish(self, limit: int) -> bytes:
        """What the end of the message stands for; raises as `inflate`."""
        content = self.inflate(_TAIL, limit)
        self._ends = 0
        if not self._takeover:
            self._context = None
        return content
