"""What connections count by themselves, where nobody wants to hear of each request, is the same as
what a client sees: requests of all kinds, on several connections, in any turns."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pounce.asgi.types import Receive, Scope, Send
from pounce.config import ServerConfig
from pounce.metrics import catalogue
from pounce.shm.slot import Slot
from pounce.worker.meter import Meter
from pounce.worker.worker import Worker
from tests.metrics.arenas import LAYOUT, add, arena_with
from tests.worker.h2_wire import ENGINES, H2Wire
from tests.worker.virtual_time import run, settle
from tests.worker.wire import Wire

CONNECTIONS = 3


@dataclass(frozen=True)
class Request:
    method: str
    status: int
    size: int
    kind: str
    """How the response is told: with its length `known` or not, `streamed`, or with a head that
    is never the same."""
    body: bytes

    @property
    def path(self) -> str:
        """The same for all with that method, whatever they ask for."""
        return "/"

    @property
    def answer(self) -> str:
        return f"{self.status}/{self.size}/{self.kind}"

    @property
    def content_size(self) -> int:
        return 0 if self.method == "HEAD" or self.status == 204 else self.size

    @property
    def h1(self) -> bytes:
        length = b"content-length: %d\r\n" % len(self.body) if self.body else b""
        head = f"{self.method} / HTTP/1.1\r\nhost: a\r\nanswer: {self.answer}\r\n".encode()
        return b"%b%b\r\n%b" % (head, length, self.body)


REQUEST = st.builds(
    Request,
    st.sampled_from(["GET", "POST", "HEAD"]),
    st.sampled_from([200, 404, 204]),
    st.sampled_from([0, 13, 13, 20, 20000]),
    st.sampled_from(["known", "known", "unknown", "streamed", "changing"]),
    st.sampled_from([b"", b"x", b"y" * 200]),
)


def unlike(request: Request) -> st.SearchStrategy[Request]:
    """Requests that differ from this one in one respect, or in none."""
    return st.sampled_from(["method", "status", "size", "kind", "body", ""]).flatmap(
        lambda name: REQUEST.map(
            lambda other: replace(request, **{name: getattr(other, name)}) if name else request
        )
    )


KINDS = REQUEST.flatmap(lambda first: st.tuples(st.just(first), unlike(first), unlike(first)))

TURN = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 1, 2]), st.sampled_from([1, 1, 1, 1, 0, 2])),
    min_size=CONNECTIONS,
    max_size=CONNECTIONS,
)
"""For each connection: which of the requests comes, and how often in a row."""

TURNS = st.lists(TURN, min_size=10, max_size=20)


def told(kind: str = "known", *, status: int = 200, size: int = 13, body: bytes = b"") -> Request:
    return Request("POST" if body else "GET", status, size, kind, body)


def one_unlike(*kinds: Request) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An example: the last connection sends the second request where the others repeat the first,
    goes back to that, and then they all do the same."""
    same, other = [(0, 1)] * CONNECTIONS, [(1, 1)] * CONNECTIONS
    last = [*same[:-1], (1, 1)]
    back = [*other[:-1], (0, 1)]
    twice = [*same[:-1], (0, 2)]
    turns = [same, same, last, last, same, other, other, back, same, twice, twice, same]
    return example(kinds, turns)


def examples(test: Callable[..., None]) -> Callable[..., None]:
    for kinds in (
        (told(body=b"x"), told(body=b"y" * 200)),
        (told(), told(size=20)),
        (told(), told(status=404)),
        (told(), told(status=204)),
        (told(), told("streamed")),
        (told("unknown"), told("unknown", size=20)),
        (told("changing"), told("changing", size=300)),
    ):
        test = one_unlike(*kinds)(test)
    return test


class Application:
    """Answers as a field of the request says, and looks whether all it has answered is counted,
    or noted as answered."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.calls = 0
        self.is_exact = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        noted = [each for each in self.slot.read_black_box() if each.stamp < 0]
        if responses(self.slot).total() + len(noted) != self.calls:
            self.is_exact = False
        self.calls += 1
        status, size, kind = dict(scope["headers"])[b"answer"].decode().split("/")
        content = b"z" * int(size)
        while (await receive())["more_body"]:
            pass
        headers = [(b"content-type", b"text/plain")]
        if kind != "unknown":
            headers.append((b"content-length", size.encode()))
        if kind == "changing":
            headers.append((b"x-request-id", b"%x" % self.calls))
        await send({"type": "http.response.start", "status": int(status), "headers": headers})
        if kind == "streamed":
            half = len(content) // 2
            body = {"type": "http.response.body", "body": content[:half], "more_body": True}
            await send(body)
            content = content[half:]
        await send({"type": "http.response.body", "body": content})


@dataclass
class Seen:
    """What clients saw."""

    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)

    def add(self, request: Request) -> None:
        self.responses[request.method, request.status] += 1
        self.sizes.append(request.content_size)
        if request.body:
            self.bodies.append(len(request.body))


def responses(slot: Slot) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for name in ("requests_with_content", "requests_without_content"):
        for row, method in enumerate(catalogue.METHODS):
            for status in (200, 404, 204):
                at = LAYOUT[name].index(row, catalogue.status_index(status))
                found[method, status] += slot.cells[at]
    return +found


def histogram(slot: Slot, name: str, bounds: Any) -> tuple[list[int], int]:
    """Its buckets and its sum."""
    start = LAYOUT[name].start
    number = len(bounds) + 1
    return list(slot.cells[start : start + number]), slot.cells[start + number]


def buckets(values: list[int]) -> tuple[list[int], int]:
    counts = [0] * (len(catalogue.SIZE_BOUNDS) + 1)
    for value in values:
        counts[bisect_left(catalogue.SIZE_BOUNDS, value)] += 1
    return counts, sum(values)


def check(worker: Worker, slot: Slot, seen: Seen, received: int, sent: int) -> None:
    assert worker.meter is not None
    worker.meter.tick()
    assert isinstance(worker.app, Application)
    assert worker.app.is_exact
    assert responses(slot) == seen.responses
    assert histogram(slot, "response_size", catalogue.SIZE_BOUNDS) == buckets(seen.sizes)
    assert histogram(slot, "request_size", catalogue.SIZE_BOUNDS) == buckets(seen.bodies)
    whole = histogram(slot, "duration_whole", catalogue.DURATION_BOUNDS)[0]
    streamed = histogram(slot, "duration_streamed", catalogue.DURATION_BOUNDS)[0]
    assert sum(whole) + sum(streamed) == seen.responses.total()
    assert slot.cells[LAYOUT["bytes_received"].start] == received
    assert slot.cells[LAYOUT["bytes_sent"].start] == sent
    assert slot.read_black_box() == []


async def until_answered(worker: Worker, number: int) -> None:
    """Pipelined requests have their turns one after another."""
    for _ in range(100):
        await settle()
        if worker.requests_so_far() == number and not worker.in_flight:
            return
    raise AssertionError(f"{worker.requests_so_far()} of {number} requests begun")


def metered(slot: Slot, **options: Any) -> Worker:
    meter = Meter(slot, LAYOUT, None, None)
    return Worker(ServerConfig(access_log=False, **options), Application(slot), observer=meter)


@examples
@given(KINDS, TURNS)
@settings(deadline=None, max_examples=60)
def test_over_http_1(kinds: tuple[Request, ...], turns: list[list[tuple[int, int]]]) -> None:
    async def main(slot: Slot) -> None:
        worker = metered(slot)
        wires = [Wire(worker) for _ in range(CONNECTIONS)]
        seen, received = Seen(), 0
        for turn in turns:
            for connection, (kind, number) in enumerate(turn):
                request = kinds[kind]
                wires[connection].send(request.h1 * number)
                received += len(request.h1) * number
                for _ in range(number):
                    seen.add(request)
            await until_answered(worker, seen.responses.total())
        check(worker, slot, seen, received, sum(len(wire.sent) for wire in wires))

    with arena_with() as arena:
        run(main(add(arena, 1)))


@pytest.mark.parametrize("engine", ENGINES)
@examples
@given(KINDS, TURNS)
@settings(deadline=None, max_examples=60)
def test_over_http_2(
    engine: str, kinds: tuple[Request, ...], turns: list[list[tuple[int, int]]]
) -> None:
    async def main(slot: Slot) -> None:
        worker = metered(slot, http2_cleartext=True, http2_engine=engine)
        wires = [H2Wire(worker) for _ in range(CONNECTIONS)]
        received = 0
        seen = Seen()
        for turn in turns:
            for connection, (kind, number) in enumerate(turn):
                request = kinds[kind]
                for _ in range(number):
                    wires[connection].client.request(
                        request.path.encode(),
                        [(b"answer", request.answer.encode())],
                        method=request.method.encode(),
                        body=request.body or None,
                    )
                    seen.add(request)
            for wire in wires:  # all in one turn of the event loop
                data = wire.client.take()
                received += len(data)
                wire.transport.arrive(data)
            await until_answered(worker, seen.responses.total())
        await settle()
        check(worker, slot, seen, received, sum(len(wire.transport.sent) for wire in wires))

    with arena_with() as arena:
        run(main(add(arena, 1)))


def test_most_are_counted_without_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Counter[str] = Counter()
    for name in ("request_started", "request_completed"):
        original = getattr(Meter, name)

        def counting(meter: Meter, cycle: Any, name: str = name, original: Any = original) -> None:
            calls[name] += 1
            original(meter, cycle)

        monkeypatch.setattr(Meter, name, counting)
    request = Request("GET", 200, 13, "known", b"")

    async def main(slot: Slot) -> None:
        worker = metered(slot)
        wires = [Wire(worker) for _ in range(10)]
        for _ in range(20):
            for wire in wires:
                wire.send(request.h1)
            await settle()
        assert worker.meter is not None
        worker.meter.tick()
        assert responses(slot) == {("GET", 200): 200}

    with arena_with() as arena:
        run(main(add(arena, 1)))
    # The first on each connection, and the first in each turn.
    assert 20 <= calls["request_started"] <= 60
    assert 20 <= calls["request_completed"] <= 60


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_that_differ_under_one_head_are_counted_as_they_are(engine: str) -> None:
    sizes: list[int] = []

    async def changing(scope: Scope, receive: Receive, send: Send) -> None:
        turn, connection = divmod(len(sizes), CONNECTIONS)
        is_other = connection == CONNECTIONS - 1 and turn % 2
        sizes.append(20 if is_other else 13)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(sizes[-1])})

    async def main(slot: Slot) -> None:
        worker = metered(slot, http2_cleartext=True, http2_engine=engine)
        worker.app = changing
        wires = [H2Wire(worker) for _ in range(CONNECTIONS)]
        for _ in range(6):
            for wire in wires:
                wire.client.request()
                wire.transport.arrive(wire.client.take())
            await settle()
        assert worker.meter is not None
        worker.meter.tick()
        assert len(sizes) == 6 * CONNECTIONS
        assert histogram(slot, "response_size", catalogue.SIZE_BOUNDS) == buckets(sizes)

    with arena_with() as arena:
        run(main(add(arena, 1)))
