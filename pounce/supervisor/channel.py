"""The line between the master and a worker: small messages of JSON on a pair of sockets.

Its end is a message too: a worker whose master is gone leaves, and a master sees that a worker will
say no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

logger = logging.getLogger("pounce.error")

MAX_LINE: Final = 65536
"""Bytes of a message; a longer one means that the other side is not what it should be."""


_MAX_TEXT: Final = MAX_LINE - 1024


def fitting(text: str) -> str:
    """The end of a text, as much of it as fits into one message."""
    text = text[-_MAX_TEXT:]
    # JSON takes up to twelve bytes for a character.
    while (length := len(json.dumps(text))) > _MAX_TEXT:
        text = text[-(len(text) * _MAX_TEXT // length) :]
    return text


class Channel:
    """One end.

    Args:
        sock: A stream socket, which the channel closes.
        receive: Gets each message.
        ended: Called once, when the other end is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        receive: Callable[[dict[str, Any]], None],
        ended: Callable[[], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._receive = receive
        self._ended = ended
        self._buffer = b""
        self._is_last = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)

    def send(self, kind: str, **fields: Any) -> None:
        """Sends a message; one that the other side does not take, or can no more, is dropped.

        The kernel's buffer holds hundreds of them, so a side that does not read is stuck, and its
        deadlines say so.
        """
        line = json.dumps({"kind": kind, **fields}).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._socket.send(line)

    def close(self) -> None:
        """Closes without a word. A second time is nothing."""
        if self._socket.fileno() != -1:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def read_rest(self) -> None:
        """Reads what the other side said last, now that it says no more."""
        self._is_last = True
        while self._socket.fileno() != -1:
            self._read()

    def _read(self) -> None:
        try:
            data = self._socket.recv(MAX_LINE)
        except (BlockingIOError, InterruptedError):
            if not self._is_last:
                return
            data = b""
        except OSError:
            data = b""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                logger.error("a message between master and worker is no JSON: %.100r", line)
                continue
            self._receive(message)
        if not data or len(self._buffer) > MAX_LINE:
            self.close()
            self._ended()
