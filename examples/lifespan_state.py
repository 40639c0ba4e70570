"""Startup, shutdown and state that requests share, in plain ASGI.

    pounce examples.lifespan_state:app

The state is copied for each request: a request may add keys without another one seeing them,
while the objects in it are the same for all requests of a worker. Other workers have their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await run_lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await count_visit(scope, send)


async def run_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # lifespan.startup
    try:
        database = open_database()
    except sqlite3.Error as error:
        # The server does not start, and says why.
        await send({"type": "lifespan.startup.failed", "message": f"no database: {error}"})
        return
    scope["state"]["database"] = database
    await send({"type": "lifespan.startup.complete"})
    await receive()  # lifespan.shutdown
    database.close()
    await send({"type": "lifespan.shutdown.complete"})


def open_database() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE visits (path TEXT PRIMARY KEY, number INTEGER)")
    return database


async def count_visit(scope: Scope, send: Send) -> None:
    database: sqlite3.Connection = scope["state"]["database"]
    number = database.execute(
        "INSERT INTO visits VALUES (?, 1)"
        " ON CONFLICT (path) DO UPDATE SET number = number + 1 RETURNING number",
        [scope["path"]],
    ).fetchone()[0]
    body = f"visit {number} of {scope['path']}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
