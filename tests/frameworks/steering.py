"""The other side of `tests.frameworks.apps.probe`: what a test tells and asks an application."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx

from tests.frameworks.served_app import Client
from tests.waiting import wait_until


def open_gate(client: httpx.Client, key: str) -> None:
    client.post("/gate", params={"key": key}).raise_for_status()


def events(client: httpx.Client, key: str) -> list[str]:
    recorded: list[str] = json.loads(client.get("/events", params={"key": key}).content)
    return recorded


def wait_for_events(client: httpx.Client, key: str, *expected: str) -> None:
    wait_until(lambda: events(client, key) == list(expected), f"{expected} are recorded")


def assert_parts_arrive_when_made(client: httpx.Client, key: str, path: str = "/stream") -> None:
    """The parts of `probe.gated_parts`, whose gate is opened only when the one before is here."""
    with client.stream("GET", path, params={"key": key}) as response:
        assert "content-length" not in response.headers
        if response.http_version == "HTTP/1.1":
            assert response.headers["transfer-encoding"] == "chunked"
        parts = response.iter_bytes()
        for number in range(3):
            if number:
                open_gate(client, key)
            part = b""
            while not part.endswith(b"\n"):
                part += next(parts)
            assert part == b"part %d\n" % number
        assert b"".join(parts) == b""


def assert_events_arrive_when_made(client: Client, key: str) -> None:
    """The server-sent events of `probe.ticking_numbers`; then the client leaves."""
    with (
        client.another() as leaving,
        leaving.stream("GET", "/sse", params={"key": key}) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        for number in range(10):
            if number in (1, 2):
                open_gate(client, key)
            event = _next_event(lines)
            assert event["event"] == "count"
            assert event["id"] == str(number)
        assert events(client, key) == []
    wait_for_events(client, key, "closed")


def _next_event(lines: Iterator[str]) -> dict[str, str]:
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            event[name] = value.removeprefix(" ")
        elif event:
            return event
    raise AssertionError("the stream of events ended")
