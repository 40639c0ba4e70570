"""A synchronous fast lane beside the ASGI application.

A `SyncApp` is asked first for plain requests: those whose body, if any, is small and framed by
Content-Length. It answers in one call, without a task and without messages, or returns None to
leave the request to the ASGI application.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

MAX_SYNC_BODY: Final = 65536
"""Requests with a larger body go to the ASGI application, which can stream it."""


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A whole request.

    `path` is percent-decoded, `query_string` is as sent, header names are lower-case bytes.
    """

    method: str
    path: str
    query_string: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    http_version: str


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A whole response. Content-Length, Date and Server are added where they are missing."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@runtime_checkable
class SyncApp(Protocol):
    """Answers requests in the event loop's own thread, so it must never wait for anything. Where
    workers are threads, each of them calls it, at the same time."""

    def handle_sync(self, request: RawRequest) -> RawResponse | None:
        """The response, or None to let the ASGI application answer.

        An exception is logged and answered 500.
        """
        ...
