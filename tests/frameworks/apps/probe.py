"""What tests need to steer an application from outside: gates that a handler waits at until the
client opens them, and a record of what happened inside.

With them a test can prove an order of events: a part that arrives before the gate is opened was
not held back until the end of the response.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

GATE_TIMEOUT = 30.0
"""Seconds; longer than any client of the tests waits."""

ENDLESS_PART = b"x" * 1000

_gates: dict[str, asyncio.Event] = {}
_events: dict[str, list[str]] = {}


def record(key: str, event: str) -> None:
    _events.setdefault(key, []).append(event)


def events(key: str) -> list[str]:
    return _events.get(key, [])


def gate(key: str) -> asyncio.Event:
    return _gates.setdefault(key, asyncio.Event())


async def pass_gate(key: str) -> None:
    """Waits until the client opens the gate, and closes it behind itself."""
    await asyncio.wait_for(gate(key).wait(), GATE_TIMEOUT)
    gate(key).clear()


async def gated_parts(key: str, count: int = 3) -> AsyncGenerator[bytes, None]:
    """Parts of which each is made only after the client has opened the gate for it."""
    for number in range(count):
        if number:
            await pass_gate(key)
        yield b"part %d\n" % number


async def endless_parts(key: str) -> AsyncGenerator[bytes, None]:
    """Parts without end; it is recorded when the consumer has had enough."""
    try:
        while True:
            yield ENDLESS_PART
            await asyncio.sleep(0.01)
    finally:
        record(key, "closed")


async def ticking_numbers(key: str) -> AsyncGenerator[int, None]:
    """Three numbers, of which each waits at the gate, then numbers without end."""
    number = 0
    try:
        while True:
            yield number
            number += 1
            if number < 3:
                await pass_gate(key)
            else:
                await asyncio.sleep(0.01)
    finally:
        record(key, "closed")


async def failing_parts() -> AsyncGenerator[bytes, None]:
    yield b"part 0\n"
    raise ValueError("the stream broke")


def file_to_serve() -> Path:
    return Path(os.environ["SERVED_FILE"])


def note_lifespan(event: str) -> None:
    """Writes a line where it outlives the process."""
    with Path(os.environ["LIFESPAN_LOG"]).open("a") as log:
        log.write(f"{event}\n")


def large_document() -> list[dict[str, object]]:
    """About 3 MiB of JSON with text beyond ASCII."""
    return [
        {"id": number, "name": f"Größe {number} 大きさ", "tags": ["a", "b", None, True, 1.5]}
        for number in range(30_000)
    ]
