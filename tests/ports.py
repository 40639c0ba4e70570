"""Ports that nobody else is given meanwhile."""

from __future__ import annotations

import random
import socket

_BELOW_EPHEMERAL = range(15000, 32000)
"""What kernels do not draw from for port 0, nor for the client's side of a connection: Linux begins
at 32768, macOS at 49152."""


def quiet_port() -> int:
    """A free TCP port, for a test that needs it to be free again later, or that other programs
    leave it alone while nobody listens there."""
    while True:
        port = random.choice(_BELOW_EPHEMERAL)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
