"""Answers to requests for metrics, in place of the application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pounce.asgi.forwarded import TrustedProxies
from pounce.metrics.exposition import Exposition

Fields = tuple[tuple[bytes, bytes], ...]

ALLOWED_METHODS: Final = ("GET", "HEAD")

_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_NEGOTIATED: Final = (
    (b"vary", b"accept, accept-encoding"),
    (b"cache-control", b"no-store"),
)


class Answer(NamedTuple):
    """A complete response. To HEAD, the same is said without the content."""

    status: int
    fields: Fields
    content: bytes


class Interceptor:
    """Knows who may ask for metrics, and the answer.

    Args:
        exposition: The metrics.
        allow: Comma-separated addresses, networks, "unix" for Unix sockets, or "*".
    """

    def __init__(self, exposition: Exposition, allow: str) -> None:
        self._exposition = exposition
        self._allowed = TrustedProxies(allow)

    def refuse(self, method: str, peer: str | None) -> Answer | None:
        """The answer to those who may not ask, or not like that; None: they may.

        Args:
            method: In upper case, as on the wire.
            peer: The address that the connection comes from, whatever a proxy says of the client;
                None for a Unix socket.
        """
        if peer not in self._allowed:
            return plain_answer(403, "metrics are not for everybody")
        if method not in ALLOWED_METHODS:
            return plain_answer(405, "metrics can only be read", allow_field())
        return None

    def answer(self, accept: str, accept_encoding: str) -> Answer:
        """The metrics. Takes milliseconds, and may be called in any thread, by one at a time.

        Args:
            accept: Accept fields, joined by commas.
            accept_encoding: Accept-Encoding fields, likewise.

        Raises:
            SharedMemoryError: The arena is damaged.
        """
        return page_answer(self._exposition, accept, accept_encoding)


def page_answer(exposition: Exposition, accept: str, accept_encoding: str) -> Answer:
    """An exposition as a response."""
    page = exposition.page(accept, accept_encoding)
    fields: Fields = (
        (b"content-type", page.content_type.encode("latin-1")),
        (b"content-length", b"%d" % len(page.content)),
        *_NEGOTIATED,
    )
    if page.is_gzipped:
        fields += ((b"content-encoding", b"gzip"),)
    return Answer(200, fields, page.content)


def plain_answer(status: int, text: str, *fields: tuple[bytes, bytes]) -> Answer:
    """A line of text."""
    content = f"{text}\n".encode()
    return Answer(status, (_TEXT, (b"content-length", b"%d" % len(content)), *fields), content)


def allow_field() -> tuple[bytes, bytes]:
    """Goes with 405 (RFC 9110 section 15.5.6)."""
    return b"allow", ", ".join(ALLOWED_METHODS).encode()


def joined(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """All values of a field as one list (RFC 9110 section 5.3)."""
    return ",".join(value.decode("latin-1") for each, value in fields if each == name)
