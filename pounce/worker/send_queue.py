"""How much of what the kernel was given for a socket the peer has not taken.

The buffers of the kernel hold megabytes. A client that reads them slowly is seen to read only
here: the event loop is told that a socket takes more when a third of its buffer is free.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

_SO_NWRITE: Final = 0x1024
"""macOS: bytes in the send buffer."""

if sys.platform == "linux":
    import fcntl
    import struct
    import termios

    def bytes_unsent(descriptor: int) -> int:
        """Bytes in the send queue of a socket; 0 where that cannot be told."""
        try:
            answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ of sockets
        except (OSError, ValueError):  # closed meanwhile
            return 0
        return int(struct.unpack("i", answer)[0])

elif sys.platform == "darwin":

    def bytes_unsent(descriptor: int) -> int:
        """Bytes in the send queue of a socket; 0 where that cannot be told."""
        duplicate = socket.socket(fileno=descriptor)
        try:
            return duplicate.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
        except (OSError, ValueError):  # closed meanwhile
            return 0
        finally:
            duplicate.detach()

else:

    def bytes_unsent(descriptor: int) -> int:
        """Bytes in the send queue of a socket; 0 where that cannot be told."""
        return 0
