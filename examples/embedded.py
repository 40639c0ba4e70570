"""Pounce inside another program: a server in a thread, on any free port, until it is told to stop.

    python examples/embedded.py

Where serving is all that a program does, `pounce.run(app, port=8000)` is enough.
"""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from pounce import Server, ServerConfig

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        body = f"{scope['path']} was served from a thread\n".encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Runs a server beside the caller; gives its URL once it accepts connections."""
    thread = threading.Thread(target=server.run, name="pounce")
    thread.start()
    try:
        while not accepts_connections(server):
            if not thread.is_alive():
                raise RuntimeError("the server did not start: see its log")
            time.sleep(0.01)
        assert server.bound_addr is not None
        host, port = server.bound_addr
        yield f"http://{host}:{port}"
    finally:
        server.shutdown()
        thread.join()


def accepts_connections(server: Server) -> bool:
    """The address is bound before the application has started, and open for clients after it."""
    if server.bound_addr is None:
        return False
    try:
        socket.create_connection(server.bound_addr).close()
    except ConnectionRefusedError:
        return False
    return True


def main() -> None:
    config = ServerConfig(port=0, access_log=False)
    with serving(Server(config, app)) as url:
        for path in ("/one", "/two"):
            with urllib.request.urlopen(url + path) as response:
                print(response.read().decode(), end="")


if __name__ == "__main__":
    main()
