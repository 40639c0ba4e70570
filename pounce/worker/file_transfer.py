"""Files to sockets: sendfile(2) where the kernel can do it, reads and writes over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from pounce.worker.request_cycle import ClientDisconnected

if TYPE_CHECKING:
    from pounce.worker.h1_connection import H1Connection

READ_SIZE: Final = 262144
"""Bytes read at a time where sendfile(2) cannot be used."""

SENDFILE_SIZE: Final = 1 << 20
"""Bytes per call, so that one file on a fast network does not keep the loop to itself."""


def extent(file: Any, offset: int | None, count: int | None) -> tuple[int, int]:
    """Where in `file` to begin and how many bytes to send; never beyond its end.

    Raises:
        ValueError: A negative offset or count.
        OSError: `file` has no file descriptor or cannot be examined.
    """
    start = file.tell() if offset is None else offset
    available = os.fstat(file.fileno()).st_size - start
    if start < 0 or (count is not None and count < 0):
        raise ValueError("offset and count must not be negative")
    return start, max(0, available if count is None else min(count, available))


async def transfer(connection: H1Connection, file: Any, offset: int, count: int) -> None:
    """Sends `count` bytes of `file` from `offset`, after all that was written before.

    Raises:
        ClientDisconnected: The client went away.
        OSError: The file cannot be read, or became shorter meanwhile.
    """
    if connection.is_tls or not hasattr(os, "sendfile"):
        await _read_and_write(connection, file, offset, count)
    else:
        await connection.flush()
        await _sendfile(connection, file.fileno(), offset, count)


async def _read_and_write(connection: H1Connection, file: Any, offset: int, count: int) -> None:
    loop = asyncio.get_running_loop()
    descriptor = file.fileno()
    while count:
        data = await loop.run_in_executor(None, os.pread, descriptor, min(count, READ_SIZE), offset)
        if not data:
            raise OSError("the file became shorter while it was sent")
        connection.write(data)
        await connection.drain()
        offset += len(data)
        count -= len(data)


async def _sendfile(connection: H1Connection, file: int, offset: int, count: int) -> None:
    # A duplicate, as the loop does not let others watch the descriptor of a transport.
    out = os.dup(connection.fileno())
    try:
        while count:
            if connection.lost:
                raise ClientDisconnected("the client is gone")
            try:
                sent = os.sendfile(out, file, offset, min(count, SENDFILE_SIZE))
            except (BlockingIOError, InterruptedError):
                await _writable(connection, out)
                continue
            except (BrokenPipeError, ConnectionResetError) as exc:
                connection.abort()
                raise ClientDisconnected("the client is gone") from exc
            if sent == 0:
                raise OSError("the file became shorter while it was sent")
            offset += sent
            count -= sent
            if connection.worker.meter is not None:
                connection.worker.meter.sent += sent
            connection.made_progress()
            if count:
                await asyncio.sleep(0)
    finally:
        os.close(out)


async def _writable(connection: H1Connection, descriptor: int) -> None:
    """Returns when the socket takes more, or the connection is lost."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(descriptor, wake)
    connection.watch_write(ready)
    try:
        await ready
    finally:
        connection.watch_write(None)
        with contextlib.suppress(OSError):
            loop.remove_writer(descriptor)
