"""An HTTP/2 client on a blocking socket, for servers that run for real."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

from tests.protocol.h2_client import Fields, RawClient, Stream
from tests.waiting import PATIENCE


class H2Socket:
    """One connection.

    Args:
        sock: Connected, to a server without TLS.
        context: To speak TLS; HTTP/2 is asked for.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        if context is not None:
            context.set_alpn_protocols(["h2"])
            tls = context.wrap_socket(sock, server_hostname="localhost")
            assert tls.selected_alpn_protocol() == "h2"
            sock = tls
        self.sock = sock
        self.client = RawClient()
        self.ended = False
        """Whether the server has closed the connection."""

    def __enter__(self) -> H2Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def ask(self, path: str = "/", fields: Fields = (), **more: Any) -> Stream:
        """What came of a request, at its end."""
        return self.finish([self.client.request(path.encode(), fields, **more)])[0]

    def finish(self, stream_ids: Iterable[int], patience: float = PATIENCE) -> list[Stream]:
        """Passes on what there is until these streams have ended, or the connection has."""
        streams = [self.client.streams[stream_id] for stream_id in stream_ids]
        deadline = time.monotonic() + patience
        while not self.ended and not all(s.ended or s.reset is not None for s in streams):
            self.exchange(deadline - time.monotonic())
        return streams

    def exchange(self, patience: float = PATIENCE) -> None:
        """Sends what is to be sent, and receives something."""
        self.flush()
        self.sock.settimeout(max(0.01, patience))
        try:
            data = self.sock.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            data = b""
        if not data:
            self.ended = True
        self.client.receive(data)

    def flush(self) -> None:
        """Sends what is to be sent."""
        data = self.client.take()
        if data:
            try:
                self.sock.sendall(data)
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                self.ended = True
