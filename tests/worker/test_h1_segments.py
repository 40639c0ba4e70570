"""How TCP cuts a request into reads changes nothing about what is understood or answered."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.worker.virtual_time import run, settle
from tests.worker.wire import Journal, Wire, make_worker

DATE = re.compile(rb"date: [^\r]*\r\n")
# How much was there when a fault was found decides which one is named, and whether the
# application had been called by then.
REFUSAL = re.compile(rb"(HTTP/1.1 4\d\d ).*", re.DOTALL)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

GET = b"GET /a?b=%20 HTTP/1.1\r\nHost: a\r\n\r\n"
CASES = {
    "get": GET,
    "head": b"HEAD /%41 HTTP/1.1\r\nHost: a\r\nX: \xe4 y \r\n\r\n",
    "length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\nab\r\n\r\nc",
    "no content": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + GET,
    "chunked": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'3;a="\\"b"\r\n\r\n\r\r\n0A\r\n0123456789\r\n0\r\n\r\n'
    ),
    "trailer": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"1\r\nx\r\n00\r\nA: b\r\nC:d\r\n\r\n" + GET
    ),
    "pipelined": GET + b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" + GET,
    "empty lines": b"\r\n\r\n" + GET + b"\r\n" + GET,
    "line end in the body after an empty line": (
        b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\n\r"
    ),
    "absolute": b"GET http://b:8/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "http/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "http/1.0, keep-alive": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,
    "close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET,
    "100-continue": (
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"
    ),
    "no host": b"GET / HTTP/1.1\r\nA: b\r\n\r\n" + GET,
    "bare LF": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\nC: d\r\n\r\n" + GET,
    "bare CR": b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rC: d\r\n\r\n" + GET,
    "bare LF first": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "bare CR first": b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n" + GET,
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n" + GET,
    "version": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "CR in a chunk extension": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\nx\r\n0\r\n\r\n"
        + GET
    ),
    "chunk not closed": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n"
        + GET
    ),
    "chunk size with sign": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n" + GET
    ),
}
SHORT = [name for name, data in CASES.items() if len(data) <= 60]

LIMITS: dict[str, Any] = {
    "limit_request_line": 40,
    "limit_request_head": 60,
    "limit_request_fields": 3,
    "limit_request_body": 12,
}
HEAD_60 = b"Host: a\r\nX: " + b"x" * 48
LINE_40 = b"GET /" + b"y" * 26 + b" HTTP/1.1"
AT_THE_LIMIT = {
    "line": (LINE_40 + b"\r\nHost: a\r\n\r\n", 200),
    "line + 1": (b"X" + LINE_40 + b"\r\nHost: a\r\n\r\n", 414),
    "head": (b"GET / HTTP/1.1\r\n" + HEAD_60 + b"\r\n\r\n", 200),
    "head + 1": (b"GET / HTTP/1.1\r\n" + HEAD_60 + b"x\r\n\r\n", 431),
    "fields": (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\n\r\n", 200),
    "fields + 1": (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n", 431),
    "body": (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n0123456789ab", 200),
    "body + 1": (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 13\r\n\r\n0123456789abc", 413),
    "chunks": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"a\r\n0123456789\r\n2\r\nab\r\n0\r\n\r\n",
        200,
    ),
    "chunks + 1": (
        b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"a\r\n0123456789\r\n3\r\nabc\r\n0\r\n\r\n",
        413,
    ),
}


async def understood(
    parts: Iterable[bytes], turns: int, options: dict[str, Any]
) -> tuple[list[dict[str, Any]], bytes, bool]:
    """What the application got whole, what the client got, and whether the connection ended."""
    app = Journal()
    worker = make_worker(app, **options)
    wire = Wire(worker)
    for part in parts:
        wire.send(part)
        await settle(turns)
    await settle()
    await settle(worker.in_flight * 4)
    sent = REFUSAL.sub(rb"\1", DATE.sub(b"", wire.sent)).replace(CONTINUE, b"")
    whole = [request for request in app.requests if request["end"] == "complete"]
    outcome = whole, sent, wire.closed
    wire.transport.vanish()
    await settle()
    assert not worker.tasks
    assert worker.in_flight == 0
    return outcome


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[a:b] for a, b in itertools.pairwise((0, *places, len(data)))]


def check(data: bytes, cuts: Iterable[Sequence[int]], options: dict[str, Any]) -> Any:
    async def compare() -> Any:
        whole = await understood([data], 6, options)
        for places in cuts:
            # Reads may come in one turn of the loop, before the application could run at all.
            for turns in (0, 1, 6):
                parts = cut(data, places)
                assert await understood(parts, turns, options) == whole, (parts, turns)
        return whole

    return run(compare())


@pytest.mark.parametrize("name", CASES)
def test_every_cut_gives_the_same(name: str) -> None:
    data = CASES[name]
    check(data, [(place,) for place in range(1, len(data))], {})


@pytest.mark.parametrize("name", CASES)
def test_byte_by_byte_gives_the_same(name: str) -> None:
    data = CASES[name]
    check(data, [range(1, len(data))], {})


@pytest.mark.parametrize("name", SHORT)
def test_every_pair_of_cuts_gives_the_same(name: str) -> None:
    data = CASES[name]
    check(data, itertools.combinations(range(1, len(data)), 2), {})


@pytest.mark.parametrize("name", AT_THE_LIMIT)
def test_limits_do_not_depend_on_the_cuts(name: str) -> None:
    data, status = AT_THE_LIMIT[name]
    cuts = [(place,) for place in range(1, len(data))] + [tuple(range(1, len(data)))]
    _, sent, _ = check(data, cuts, LIMITS)
    assert sent.startswith(b"HTTP/1.1 %d " % status)
