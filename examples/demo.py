"""A small application in plain ASGI, without any framework: `make demo` serves it.

    pounce examples.demo:app

It shows an HTML page, JSON, a stream of events, an upload that is read as it arrives, and state
that the lifespan hands to every request. Each worker has a state of its own, with its own counter.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]

PAGE = Path(__file__).with_name("demo.html")
MAX_EVENTS = 100


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        method, path = scope["method"], scope["path"]
        methods = ROUTES.get(path)
        handler = None if methods is None else methods.get("GET" if method == "HEAD" else method)
        if handler is not None:
            scope["state"]["counter"]["requests"] += 1
            await handler(scope, receive, send)
        elif methods is None:
            await send_json(send, {"error": f"nothing at {path}"}, status=404)
        else:
            allow = [(b"allow", ", ".join(methods).encode())]
            await send_json(send, {"error": f"{method} is not allowed"}, status=405, headers=allow)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Runs beside all requests: what is put into the state here, each of them finds there."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            scope["state"].update(
                page=PAGE.read_bytes(), started=time.monotonic(), counter={"requests": 0}
            )
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def show_page(scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, scope["state"]["page"], b"text/html; charset=utf-8")


async def say_hello(scope: Scope, receive: Receive, send: Send) -> None:
    name = query(scope).get("name", "world")
    await send_json(send, {"message": f"Hello, {name}!"})


async def show_status(scope: Scope, receive: Receive, send: Send) -> None:
    state = scope["state"]
    await send_json(
        send,
        {
            "python": platform.python_version(),
            "uptime_seconds": round(time.monotonic() - state["started"], 1),
            "requests": state["counter"]["requests"],
        },
    )


async def show_request(scope: Scope, receive: Receive, send: Send) -> None:
    """What the server told this application about the request."""
    await send_json(
        send,
        {
            "method": scope["method"],
            "path": scope["path"],
            "query_string": scope["query_string"].decode("latin-1"),
            "scheme": scope["scheme"],
            "http_version": scope["http_version"],
            "client": scope["client"],
            "server": scope["server"],
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in scope["headers"]
            ],
            "asgi": scope["asgi"],
            "extensions": sorted(scope.get("extensions") or {}),
        },
    )


async def stream_events(scope: Scope, receive: Receive, send: Send) -> None:
    """Server-sent events, each on its way to the client at once."""
    options = query(scope)
    try:
        count = min(int(options.get("count", "10")), MAX_EVENTS)
        interval = min(max(float(options.get("interval", "0.5")), 0.0), 10.0)
    except ValueError:
        await send_json(send, {"error": "count and interval are numbers"}, status=400)
        return
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(1, count + 1):
        event = f"id: {number}\ndata: event {number} of {count}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
        if number < count:
            await asyncio.sleep(interval)
    end = b"event: end\ndata: that was all\n\n"
    await send({"type": "http.response.body", "body": end, "more_body": False})


async def take_upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Hashes a body of any size, a part at a time."""
    size, parts, digest = 0, 0, hashlib.sha256()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        if body := message.get("body", b""):
            size += len(body)
            parts += 1
            digest.update(body)
        if not message.get("more_body", False):
            break
    await send_json(send, {"bytes": size, "parts": parts, "sha256": digest.hexdigest()})


ROUTES: dict[str, dict[str, Handler]] = {
    "/": {"GET": show_page},
    "/api/hello": {"GET": say_hello},
    "/api/status": {"GET": show_status},
    "/api/request": {"GET": show_request},
    "/events": {"GET": stream_events},
    "/upload": {"POST": take_upload, "PUT": take_upload},
}


def query(scope: Scope) -> dict[str, str]:
    """The last value of each parameter of the query string."""
    return {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}


async def send_json(
    send: Send, value: Any, *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = json.dumps(value, indent=2).encode() + b"\n"
    await send_whole(send, body, b"application/json", status=status, headers=headers)


async def send_whole(
    send: Send,
    body: bytes,
    content_type: bytes,
    *,
    status: int = 200,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    head = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
