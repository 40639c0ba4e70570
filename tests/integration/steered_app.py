"""An application that does what the path says, and that a test steers from outside.

Gates hold a request until the client opens them, so that a test proves an order of events instead
of waiting for luck; `/events/KEY` tells what happened inside.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from pounce.asgi.types import Message, Receive, Scope, Send

GATE_TIMEOUT = 60.0
PART = bytes(range(256)) * 256  # 64 KiB

_gates: dict[str, asyncio.Event] = {}
_events: dict[str, list[str]] = {}


def record(key: str, event: str) -> None:
    _events.setdefault(key, []).append(event)


async def pass_gate(key: str) -> None:
    gate = _gates.setdefault(key, asyncio.Event())
    await asyncio.wait_for(gate.wait(), GATE_TIMEOUT)
    gate.clear()


async def start(send: Send, status: int = 200, *headers: tuple[bytes, bytes], **rest: Any) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers], **rest})


async def part(send: Send, data: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def answer(send: Send, data: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await start(send, status, *headers)
    await part(send, data, more=False)


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client went away before its end."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body = body + message["body"]
        if not message["more_body"]:
            return body


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    assert scope["type"] == "http", scope["type"]
    path = scope["path"].removeprefix(scope["root_path"])
    name, *arguments = path.removeprefix("/").split("/")
    action = ACTIONS.get(name, hello)
    await action(scope, receive, send, *arguments)


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    log = os.environ.get("LIFESPAN_LOG")

    def note(event: str) -> None:
        if log is not None:
            with open(log, "a") as file:
                file.write(f"{event}\n")

    assert (await receive())["type"] == "lifespan.startup"
    scope["state"]["started"] = True
    note("startup")
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    note("shutdown")
    await send({"type": "lifespan.shutdown.complete"})


# Steering


async def open_gate(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    _gates.setdefault(key, asyncio.Event()).set()
    await answer(send, b"opened")


async def tell_events(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    await answer(send, json.dumps(_events.get(key, [])).encode())


# Requests


async def hello(scope: Scope, receive: Receive, send: Send, *_: str) -> None:
    await answer(send, scope["path"].encode())


async def tell_scope(scope: Scope, receive: Receive, send: Send, *_: str) -> None:
    body = await read_body(receive)
    text = json.dumps({**scope, "body": body}, default=_jsonable)
    await answer(send, text.encode())


def _jsonable(value: object) -> object:
    assert isinstance(value, bytes), value
    return value.decode("latin-1")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(receive)
    if body is not None:
        await answer(send, body)


async def take(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    """Takes the body message by message and notes how it ends."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            record(key, f"disconnect after {size}")
            return
        size += len(message["body"])
        if not message["more_body"]:
            record(key, f"complete {size}")
            await answer(send, b"%d" % size)
            return


async def take_late(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    """The same, but reads nothing before its gate is opened."""
    record(key, "started")
    await pass_gate(key)
    await take(scope, receive, send, key)


async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"ignored")


async def slow(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    record(key, "started")
    try:
        await pass_gate(key)
        await answer(send, key.encode())
    except asyncio.CancelledError:
        record(key, "cancelled")
        raise


async def stubborn(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    """Does not let itself be cancelled."""
    record(key, "started")
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            record(key, "cancelled")


async def thread(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    """Waits for a thread that cannot be interrupted, as a slow query of a database."""
    record(key, "started")
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 300)


async def leave_thread(scope: Scope, receive: Receive, send: Send) -> None:
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 300)
    await answer(send, b"left")


async def block(scope: Scope, receive: Receive, send: Send, seconds: str) -> None:
    """Does what an application must not do."""
    time.sleep(float(seconds))  # noqa: ASYNC251
    await answer(send, b"unblocked")


async def watch(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    """Waits until the client is gone, then sends all the same."""
    record(key, "started")
    while (await receive())["type"] != "http.disconnect":
        pass
    record(key, "disconnect")
    try:
        await start(send)
        for _ in range(1000):
            await part(send, b"x")
            await asyncio.sleep(0.01)
    except OSError:
        record(key, "OSError")
        raise


async def background(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    await answer(send, b"answered")
    record(key, "working")
    await pass_gate(key)
    record(key, "done")


# Responses


async def stream(scope: Scope, receive: Receive, send: Send, key: str, count: str = "3") -> None:
    """Each part but the first waits at the gate."""
    await start(send)
    for number in range(int(count)):
        if number:
            await pass_gate(key)
        await part(send, b"part %d\n" % number)
    await part(send, b"", more=False)


async def flood(scope: Scope, receive: Receive, send: Send, key: str, count: str) -> None:
    """Sends `count` parts of 64 KiB as fast as it may; notes how many it could."""
    await start(send)
    sent = 0
    try:
        for _ in range(int(count)):
            await part(send, PART)
            sent += 1
            _events[key] = [str(sent)]
        await part(send, b"", more=False)
        _events[key] = ["complete"]
    except OSError:
        _events[key] = ["OSError"]
        raise


async def large(scope: Scope, receive: Receive, send: Send, count: str) -> None:
    """One body message of `count` times 64 KiB."""
    await answer(send, PART * int(count))


async def with_status(scope: Scope, receive: Receive, send: Send, status: str) -> None:
    await answer(send, b"content", int(status))


async def with_trailers(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, trailers=True)
    await part(send, b"data", more=False)
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")]})


async def with_hint(scope: Scope, receive: Receive, send: Send, key: str) -> None:
    await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
    await pass_gate(key)
    await answer(send, b"styled")


async def closing(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"bye", 200, (b"connection", b"close"))


async def wrong_length(scope: Scope, receive: Receive, send: Send, given: str, real: str) -> None:
    """Announces one length and sends another, in two parts."""
    await start(send, 200, (b"content-length", given.encode()))
    await part(send, b"x")
    await part(send, b"x" * (int(real) - 1), more=False)


async def fail(scope: Scope, receive: Receive, send: Send, when: str) -> None:
    if when == "after-head":
        await start(send)
    elif when == "in-body":
        await start(send)
        await part(send, b"begun")
    elif when == "after-response":
        await answer(send, b"whole")
    raise ValueError(f"failing {when}")


async def fall_short(scope: Scope, receive: Receive, send: Send, when: str) -> None:
    if when != "before-head":
        await start(send)
    if when == "in-body":
        await part(send, b"begun")


async def script(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the messages that the request body lists, as JSON with text for bytes."""
    body = await read_body(receive)
    for message in json.loads(body or b"[]"):
        await send(_message(message))


def _message(given: dict[str, Any]) -> Message:
    message: Message = dict(given)
    if "body" in message:
        message["body"] = message["body"].encode("latin-1")
    if "headers" in message:
        message["headers"] = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in message["headers"]
        ]
    return message


# Files; the query is the path


async def path_send(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.pathsend", "path": scope["query_string"].decode()})


async def zero_copy(scope: Scope, receive: Receive, send: Send, key: str, *parts: str) -> None:
    """Each of `parts` is text to be sent as it is, "OFFSET-COUNT" of the file, "OFFSET-", "-COUNT"
    or "-" (from where the file is to its end)."""
    with open(scope["query_string"].decode(), "rb") as file:  # noqa: ASYNC230
        await start(send)
        try:
            for number, word in enumerate(parts, 1):
                offset, dash, count = word.partition("-")
                more = number < len(parts)
                if not dash:
                    await part(send, word.encode(), more=more)
                    continue
                message: Message = {
                    "type": "http.response.zerocopysend",
                    "file": file,
                    "more_body": more,
                }
                if offset:
                    message["offset"] = int(offset)
                if count:
                    message["count"] = int(count)
                await send(message)
        except OSError as error:
            record(key, type(error).__name__)
            raise
        record(key, f"sent, at {file.tell()}")


ACTIONS: dict[str, Any] = {
    "open": open_gate,
    "events": tell_events,
    "scope": tell_scope,
    "echo": echo,
    "take": take,
    "take-late": take_late,
    "ignore": ignore,
    "slow": slow,
    "stubborn": stubborn,
    "thread": thread,
    "leave-thread": leave_thread,
    "block": block,
    "watch": watch,
    "background": background,
    "stream": stream,
    "flood": flood,
    "large": large,
    "status": with_status,
    "trailers": with_trailers,
    "hint": with_hint,
    "closing": closing,
    "wrong-length": wrong_length,
    "fail": fail,
    "fall-short": fall_short,
    "script": script,
    "path-send": path_send,
    "zero-copy": zero_copy,
}
