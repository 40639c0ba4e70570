"""The access log of a running server: one line for each response, in order, none lost."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.integration.endpoint import get, new_key, post, serve
from tests.waiting import wait_until

FORMAT = "%(m)s %(U)s%(q)s %(s)s %(B)s %(D)d"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def options(log: Path, fmt: str = FORMAT) -> list[str]:
    return ["--access-log-file", str(log), "--access-log-format", fmt]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_one_line_for_each_response(log: Path, loop: str) -> None:
    key = new_key()
    with serve(*options(log), "--limit-request-body", "1000", loop=loop) as endpoint:
        with endpoint.connect() as connection:
            connection.send(
                get(f"/slow/{key}?a=b")
                + get("/22", method="HEAD")
                + post("/echo", b"12345")
                + get("/stream/x/1")
                + get("/status/304")
                + get("/fail/after-head")
            )
            endpoint.wait_for(key, "started")
            assert not log.read_text().startswith("GET /slow")
            begun = time.monotonic()
            connection.is_silent(0.2)
            waited = time.monotonic() - begun
            endpoint.open(key)
            connection.receive("GET", "HEAD", "POST", "GET", "GET", "GET")
        assert endpoint.ask(post("/echo", bytes(1001)), "POST").status == 413
        assert endpoint.ask(b"GET / HTTP/1.1\r\n\r\n").status == 400
        failed = endpoint.exchange(get("/fail/in-body"))
        assert b"begun" in failed
        # Written soon, not only at the end.
        wait_until(lambda: "/fail/in-body" in log.read_text(), "the line is written")
    lines = [line for line in log.read_text().splitlines() if not line.startswith("GET /events")]
    lines = [line for line in lines if not line.startswith("GET /open")]
    found = [line.rsplit(" ", 1) for line in lines]
    assert [line for line, _ in found] == [
        f"GET /slow/{key}a=b 200 {len(key)}",
        "HEAD /22 200 0",
        "POST /echo 200 5",
        "GET /stream/x/1 200 7",
        "GET /status/304 304 0",
        "GET /fail/after-head 500 21",
        "POST /echo 413 23",
        "-  400 27",
        "GET /fail/in-body 200 5",
    ]
    durations = [int(duration) / 1e6 for _, duration in found]
    assert durations[0] >= waited
    assert all(0 <= duration < 60 for duration in durations)


def test_nothing_is_lost_at_the_end(log: Path) -> None:
    count = 5000
    with serve(*options(log)) as endpoint, endpoint.connect() as connection:
        for start in range(0, count, 500):
            numbers = range(start, start + 500)
            connection.send(b"".join(get(f"/{number}") for number in numbers))
            connection.receive(*["GET"] * 500)
    lines = log.read_text().splitlines()
    assert [line.split()[1] for line in lines] == [f"/{number}" for number in range(count)]


def test_the_last_response_of_a_stopping_server_is_logged(log: Path) -> None:
    key = new_key()
    brief = ("--timeout-graceful-shutdown", "300ms")
    with serve(*options(log), *brief) as endpoint, endpoint.connect() as connection:
        connection.send(get(f"/slow/{key}"))
        endpoint.wait_for(key, "started")
        endpoint.server.process.terminate()
        assert connection.receive()[0].status == 500
        assert endpoint.server.wait() == 0
    assert log.read_text().splitlines()[-1].startswith(f"GET /slow/{key} 500 21 ")


def test_a_client_that_leaves_is_logged(log: Path) -> None:
    key = new_key()
    with serve(*options(log)) as endpoint:
        with endpoint.connect() as connection:
            connection.send(get(f"/watch/{key}"))
            endpoint.wait_for(key, "started")
            connection.reset()
        endpoint.wait_for(key, "started", "disconnect", "OSError")
    assert sum(f"/watch/{key} " in line for line in log.read_text().splitlines()) == 1


def test_apache_format_by_default_on_standard_error() -> None:
    with serve() as endpoint:
        endpoint.ask(get("/a?b", 'User-Agent: x"y', "Referer: http://z/"))
        errors = wait_until(
            lambda: "GET /a?b" in (text := endpoint.server.stderr_text()) and text, "it is logged"
        )
    (line,) = [line for line in str(errors).splitlines() if "GET /a?b" in line]
    assert re.fullmatch(
        r"127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
        r' "GET /a\?b HTTP/1\.1" 200 2 "http://z/" "x\\x22y"',
        line,
    )


def test_json(log: Path) -> None:
    with serve(*options(log, "json")) as endpoint:
        endpoint.ask(get("/a%20b?c", "User-Agent: test"))
    (line,) = log.read_text().splitlines()
    entry = json.loads(line)
    assert 0 < entry.pop("duration_ms") < 60_000
    assert entry.pop("time").endswith("Z")
    assert entry.pop("client").startswith("127.0.0.1")
    assert entry == {
        "method": "GET",
        "path": "/a%20b",
        "query": "c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 4,
        "referer": None,
        "user_agent": "test",
    }


def test_no_line_can_be_forged(log: Path) -> None:
    with serve(*options(log, '%(h)s "%(r)s" "%({x-a}i)s" "%({x-b}o)s"')) as endpoint:
        endpoint.ask(get('/"x', 'X-A: \xff" 127.0.0.1'))
    (line,) = log.read_text().splitlines()
    assert line == r'127.0.0.1 "GET /\x22x HTTP/1.1" "\xff\x22 127.0.0.1" "-"'


def test_the_client_behind_a_proxy_is_logged(log: Path) -> None:
    with serve(*options(log, "%(h)s %(H)s")) as endpoint:
        endpoint.ask(get("/", "X-Forwarded-For: 203.0.113.9"))
        endpoint.ask(get("/", version="1.0"))
    assert log.read_text().splitlines() == ["203.0.113.9 HTTP/1.1", "127.0.0.1 HTTP/1.0"]


def test_no_access_log() -> None:
    with serve("--no-access-log") as endpoint:
        endpoint.ask(get("/unlogged"))
        endpoint.server.process.terminate()
        assert endpoint.server.wait() == 0
        assert "unlogged" not in endpoint.server.stderr_text()
