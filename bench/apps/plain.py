"""The application behind every workload but ``json``: plain ASGI, the same for every server."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GREETING = b"Hello, World!"
LARGE = b"0123456789abcdef" * 4096
HUGE = LARGE * 16
CHUNK = b"0123456789abcdef" * 16
CHUNKS = 100


def _start(length: int) -> Message:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", b"%d" % length)],
    }


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    if scope["type"] == "websocket":
        await echo_messages(receive, send)
        return
    path = scope["path"]
    if path == "/":
        await send(_start(len(GREETING)))
        await send({"type": "http.response.body", "body": GREETING})
    elif path == "/large":
        await send(_start(len(LARGE)))
        await send({"type": "http.response.body", "body": LARGE})
    elif path == "/huge":
        await send(_start(len(HUGE)))
        await send({"type": "http.response.body", "body": HUGE})
    elif path == "/echo":
        await echo(receive, send)
    elif path == "/upload":
        await upload(receive, send)
    elif path == "/stream":
        await stream(send)
    else:
        raise LookupError(path)


async def echo(receive: Receive, send: Send) -> None:
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def upload(receive: Receive, send: Send) -> None:
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"%d" % size
    await send(_start(len(body)))
    await send({"type": "http.response.body", "body": body})


async def echo_messages(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        if data is not None:
            await send({"type": "websocket.send", "bytes": data})
        else:
            await send({"type": "websocket.send", "text": message["text"]})


async def stream(send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
