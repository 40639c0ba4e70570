"""What workers count, in the shared memory of a running pool."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pounce.metrics import catalogue
from pounce.metrics.catalogue import METHODS, STATUSES
from pounce.shm.arena import Arena
from pounce.shm.histogram import Distribution, read_distribution
from pounce.shm.names import base_of, existing_names
from pounce.shm.segment import Segment, SegmentNotFoundError
from tests.integration.endpoint import get
from tests.integration.pool_process import Pool, serving_pool
from tests.waiting import wait_until


@contextmanager
def arena_of(pid: int, workers: int) -> Iterator[Arena]:
    """The arena of a master."""
    [name] = segments_of(pid)
    with Arena.attach(name, catalogue.layout(catalogue.slots_for(workers))) as arena:
        yield arena


def segments_of(pid: int) -> list[str]:
    """The names of arenas that a process owns. Those of other tests come and go meanwhile."""
    found = []
    for name in existing_names():
        with suppress(SegmentNotFoundError), Segment.attach(name) as segment:
            if segment.owner_pid == pid and base_of(name) is None:
                found.append(name)
    return found


def requests(arena: Arena) -> dict[tuple[str, str], int]:
    totals = arena.totals()
    fields = (arena.layout["requests_without_content"], arena.layout["requests_with_content"])
    return {
        (METHODS[method], STATUSES[status]): totals[bare] + totals[full]
        for ((method, status), bare), (_, full) in zip(
            *(field.elements() for field in fields), strict=True
        )
        if totals[bare] + totals[full]
    }


def total(arena: Arena, name: str, *element: int) -> int:
    return arena.totals()[arena.layout[name].index(*element)]


def exits(arena: Arena) -> dict[str, int]:
    return {
        reason: total(arena, "worker_exits", index)
        for index, reason in enumerate(catalogue.EXIT_REASONS)
    }


def wait_for(arena: Arena, number: int) -> None:
    wait_until(lambda: sum(requests(arena).values()) >= number, f"{number} requests are counted")


def test_every_answer_is_counted_by_method_and_status() -> None:
    with serving_pool() as pool, arena_of(pool.server.pid, 2) as arena:
        for _ in range(20):
            pool.body()
        pool.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HEAD")
        pool.ask(b"BREW / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        pool.ask(b"GET / HTTP/1.1\r\n\r\n")  # no Host
        wait_for(arena, 23)
        assert requests(arena) == {
            ("GET", "200"): 20,
            ("HEAD", "200"): 1,
            ("other", "200"): 1,
            ("other", "400"): 1,
        }

        def durations() -> Distribution:
            return read_distribution(arena.totals(), arena.layout["duration_whole"])

        wait_until(lambda: durations().count == 22, "every duration is counted")
        assert 0 < durations().sum < 60e9
        assert total(arena, "rejections", catalogue.REJECTIONS.index("malformed")) == 1
        assert total(arena, "connections", 0) == 23


def test_bytes_are_those_of_the_wire() -> None:
    content = b"x" * 70_000
    request = (
        b"POST /take HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n"
    )
    with serving_pool() as pool, arena_of(pool.server.pid, 2) as arena:
        with pool.server.connect() as sock:
            sock.sendall(request + content)
            received = b""
            while data := sock.recv(65536):
                received += data
        wait_for(arena, 1)
        expected = (len(request) + len(content), len(received))
        wait_until(
            lambda: (total(arena, "bytes_received"), total(arena, "bytes_sent")) == expected,
            "every byte is counted",
        )
        sizes = read_distribution(arena.totals(), arena.layout["request_size"])
        assert (sizes.count, sizes.sum) == (1, 70_000)


def test_nothing_that_was_counted_is_lost_by_kills_and_reloads() -> None:
    with serving_pool() as pool, arena_of(pool.server.pid, 2) as arena:
        answered = 0

        def ask(times: int) -> None:
            nonlocal answered
            for _ in range(times):
                pool.body()
                answered += 1
            wait_for(arena, answered)

        for _ in range(3):
            ask(10)
            before = pool.pids()
            victim = next(iter(before))
            os.kill(victim, signal.SIGKILL)
            pool.wait_for_workers(2, without={victim})
            ask(5)
            assert pool.reload_and_wait()["result"] == "succeeded"
            ask(5)
        pool.wait_for_workers(2)
        assert requests(arena) == {("GET", "200"): answered}
        wait_until(lambda: sum(exits(arena).values()) == 9, "every end is counted")
        assert exits(arena) == {
            "drained": 6,
            "outside": 3,
            "killed": 0,
            "boot_failure": 0,
            "crash": 0,
        }
        assert total(arena, "reloads", catalogue.RESULTS.index("succeeded")) == 3


def test_a_worker_that_dies_leaves_word_of_what_it_was_working_on() -> None:
    with (
        serving_pool(allow_unhandled=True) as pool,
        pool.connect() as held,
        pool.connect() as other,
    ):
        held.send(get("/hold/a?secret=no"))
        pool.wait_for_file("held-a")
        other.send(get("/exit/5"))
        # One of the two workers has the first request, and perhaps the other one as well.
        pool.wait_for_log("unanswered:")
        pool.wait_for_log("GET /exit/5 from 127.0.0.1:")
        pool.go("a")


def test_in_flight_requests_are_those_in_the_black_box() -> None:
    with (
        serving_pool("--supervise", workers=1, app=_STREAM) as pool,
        arena_of(pool.server.pid, 1) as arena,
    ):
        workers = [slot for slot in arena.slots_in_use() if slot.worker_id]
        assert len(workers) == 1
        with pool.server.connect() as sock:
            sock.sendall(get("/hold"))
            assert sock.recv(100)
            [record] = workers[0].read_black_box()
            assert record.text.startswith(b"GET /hold from 127.0.0.1:")
            assert record.text.endswith(b":%d" % sock.getsockname()[1])
            streams = arena.layout["streams_active"].start
            assert workers[0].cells[streams] == 1
            sock.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not workers[0].read_black_box(), "the request is over")
        wait_until(lambda: workers[0].cells[streams] == 0, "so is its stream")
        kind = catalogue.DISCONNECTS.index("during_response")
        wait_until(lambda: total(arena, "disconnects", kind) == 1, "that is counted")


_STREAM = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
"""


def test_the_shared_memory_is_gone_with_the_server() -> None:
    with serving_pool() as pool:
        mine = segments_of(pool.server.pid)
        assert len(mine) == 1
    assert mine[0] not in existing_names()


def test_what_a_killed_master_leaves_the_next_one_removes() -> None:
    def run(end: bool) -> tuple[str, Pool]:
        with serving_pool() as pool:
            [name] = segments_of(pool.server.pid)
            if end:
                pool.signal(signal.SIGKILL)
                pool.server.wait()
                for each in ("socket", "control"):
                    (pool.folder / each).unlink(missing_ok=True)
        return name, pool

    left, _ = run(end=True)
    # A server of another test may have removed it by now, which is just as well.
    run(end=False)
    assert left not in existing_names()
