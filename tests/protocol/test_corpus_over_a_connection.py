"""The corpus over real connections: what the application gets, and what the client is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.protocol.bodies import bytewise
from tests.protocol.streams import Case, load
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Journal, Wire, make_worker

VALID = load("valid")
INVALID = load("invalid")
FINAL_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ")

KEYS = ("method", "version", "target", "fields", "content")

arrivals = pytest.mark.parametrize("arrival", ["whole", "byte by byte", "after an empty line"])


def exchange(stream: bytes, arrival: str) -> tuple[list[dict[str, Any]], list[int], bool]:
    """The requests that came whole, the statuses that were sent, and whether that was the end."""
    parts = bytewise(stream) if arrival == "byte by byte" else [stream]
    if arrival == "after an empty line":
        parts.insert(0, b"\r\n")

    async def live() -> tuple[list[dict[str, Any]], list[int], bool]:
        app = Journal()
        # Without WebSockets, as a request for one is not an ordinary request any more.
        wire = Wire(make_worker(app, ws="none"))
        for part in parts:
            wire.send(part)
            await settle(4)
        await settle(20)
        whole = [request for request in app.requests if request.get("end") == "complete"]
        outcome = whole, [int(status) for status in FINAL_STATUS.findall(wire.sent)], wire.closed
        wire.transport.vanish()
        await settle()
        return outcome

    return run(live())


@pytest.mark.parametrize("case", VALID.values(), ids=VALID)
@arrivals
def test_valid_streams(case: Case, arrival: str) -> None:
    expected = case.expected["requests"]
    requests, statuses, closed = exchange(case.stream, arrival)
    assert [
        {
            "method": request["method"],
            "version": request["http_version"],
            "target": b"?".join(
                part for part in (request["raw_path"], request["query_string"]) if part
            ).decode("latin-1"),
            "fields": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in request["headers"]],
            "content": request["body"].decode("latin-1"),
        }
        for request in requests
    ] == [
        {"content": "", **{key: request[key] for key in KEYS if key in request}}
        for request in expected
    ]
    assert statuses == [200] * len(expected)
    assert closed is expected[-1].get("close", False)


@pytest.mark.parametrize("case", INVALID.values(), ids=INVALID)
@arrivals
def test_invalid_streams(case: Case, arrival: str) -> None:
    before = case.expected.get("before", 0)
    requests, statuses, closed = exchange(case.stream, arrival)
    assert len(requests) == before
    assert statuses == [200] * before + [case.expected["status"]]
    assert closed
