"""Response fields: what the application gives and the server adds, as HTTP/2 has them (RFC 9113
section 8.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pounce.protocol import grammar
from pounce.protocol.h1_head import Pair

# RFC 9113 section 8.2.2: these are of HTTP/1.1 connections, and an application that serves those
# too may well send them.
_DROPPED: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)


class DefaultFields:
    """What every response gets that does not have it."""

    __slots__ = ("_date", "_extra", "_server")

    def __init__(self) -> None:
        self._date: Pair | None = None
        self._server: Pair | None = None
        self._extra: tuple[Pair, ...] = ()

    def set(self, date: bytes | None, server: bytes | None, extra: Sequence[Pair]) -> None:
        """Takes new values; see `Engines.set_default_fields`."""
        self._date = None if date is None else (b"date", date)
        self._server = None if server is None else (b"server", server)
        self._extra = tuple((name.lower(), value) for name, value in extra)

    def complete(self, status: int, fields: Iterable[Sequence[bytes]]) -> tuple[list[Pair], int]:
        """The whole field section of a final response, `:status` first, and the content-length
        that is given, -1 where none is.

        Raises:
            TypeError, ValueError: The head is malformed.
        """
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ValueError(f"{status!r} is not a final status code")
        pairs: list[Pair] = [(b":status", b"%d" % status)]
        has_date = has_server = False
        length: bytes | None = None
        for name, value in fields:
            pair = name, value = checked(name, value)
            if name in _DROPPED:
                continue
            if name == b"content-length":
                if grammar.CONTENT_LENGTH.fullmatch(value) is None:
                    raise ValueError(f"malformed content-length {value!r}")
                if length is not None and int(length) != int(value):
                    raise ValueError("conflicting content-length fields")
                is_repeated, length = length is not None, value
                if is_repeated or status == 204:  # RFC 9110 section 8.6
                    continue
            elif name == b"date":
                has_date = True
            elif name == b"server":
                has_server = True
            pairs.append(pair)
        if self._server is not None and not has_server:
            pairs.append(self._server)
        if self._date is not None and not has_date:
            pairs.append(self._date)
        pairs += self._extra
        return pairs, -1 if length is None else int(length)


def plain_fields(fields: Iterable[Sequence[bytes]]) -> list[Pair]:
    """Fields as they stand: for trailers and 1xx responses.

    Raises:
        TypeError, ValueError: A field is malformed.
    """
    pairs = [checked(name, value) for name, value in fields]
    return [pair for pair in pairs if pair[0] not in _DROPPED]


def checked(name: bytes, value: bytes) -> Pair:
    """A field with its name in lower case and no white space around its value.

    Raises:
        TypeError: Name or value is not bytes.
        ValueError: The name is no token, or the value has a CR, LF or NUL.
    """
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise TypeError(f"header names and values must be bytes, not {name!r}: {value!r}")
    if grammar.RESPONSE_NAME.fullmatch(name) is None:
        raise ValueError(f"malformed header name {name!r}")
    if grammar.RESPONSE_VALUE_BAD.search(value):
        raise ValueError(f"header {name!r} has a CR, LF or NUL in its value")
    return name.lower(), value.strip(b" \t")
