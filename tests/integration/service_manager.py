"""What systemd is for a service that tells it its state: a socket that datagrams come to."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.waiting import wait_until


class Manager:
    """The socket of a service manager, and what it was told."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.setblocking(False)
        self.path = path
        self.messages: list[dict[str, str]] = []

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        self.path.unlink()

    def read(self) -> list[dict[str, str]]:
        while True:
            try:
                text = self._sock.recv(65536).decode()
            except BlockingIOError:
                return self.messages
            self.messages.append(dict(line.split("=", 1) for line in text.splitlines()))

    def states(self) -> list[str]:
        """The names of the states in the order in which they were told."""
        return [
            name
            for message in self.read()
            for name in ("READY", "RELOADING", "MAINPID", "STOPPING")
            if name in message
        ]

    def wait_for(self, *states: str) -> None:
        wait_until(lambda: self.states() == list(states), f"the manager was told {states}")
