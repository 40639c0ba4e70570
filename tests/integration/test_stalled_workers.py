"""Workers whose event loop is blocked, or that crash: what is said of them, and what follows."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.integration.endpoint import Connection, get
from tests.integration.pool_process import Pool, serving_pool
from tests.integration.worker_modes import THREAD
from tests.waiting import wait_until

TIMEOUT = 3.0
"""Long enough for a busy machine not to keep workers from running all the time."""

APP = """
import asyncio
import faulthandler
import os
import resource
import signal
import time

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def view(path):
    if path == "/sleep":
        time.sleep(60)  # in a coroutine
    elif path == "/pause":
        while not os.path.exists("go"):
            time.sleep(0.01)
    elif path == "/segfault":
        faulthandler._sigsegv()
    elif path == "/exit":
        os._exit(7)
    elif path == "/kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif path == "/wait":
        await asyncio.sleep(60)


async def app(scope, receive, send):
    assert scope["type"] == "http"
    await view(scope["path"])
    body = str(os.getpid()).encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

STALL = ["--no-access-log", "--worker-stall-timeout", f"{TIMEOUT}s"]


def log_of(pool: Pool) -> str:
    return pool.server.stderr_text()


def entry_with(pool: Pool, text: str) -> str:
    """The whole log entry that a text begins, without its indentation. There must be one more
    after it."""

    def found() -> str:
        entry = re.search(re.escape(text) + r".*?(?=\n[A-Z]+: )", log_of(pool), re.DOTALL)
        return "" if entry is None else entry[0]

    lines = wait_until(found, f"{text!r} is logged").splitlines()
    return "\n".join(line.strip() for line in lines)


def recycles(pool: Pool, reason: str) -> float:
    """What the metrics say."""
    answer = pool.ask(get("/metrics", "Connection: close")).body.decode()
    for line in answer.splitlines():
        if line.startswith(f'pounce_worker_recycles_total{{reason="{reason}"}}'):
            return float(line.split()[-1])
    raise AssertionError(answer)


def connections_by_worker(pool: Pool, number: int) -> dict[int, Connection]:
    """A kept connection to each of the workers."""
    found: dict[int, Connection] = {}

    def enough() -> bool:
        connection = pool.connect()
        pid = int(connection.ask(get("/")).body)
        if pid in found:
            connection.sock.close()
        else:
            found[pid] = connection
        return len(found) == number

    wait_until(enough, f"{number} workers answer")
    return found


@pytest.mark.parametrize("strategy", ["reuseport", "shared"])
def test_a_blocked_event_loop_is_noticed_told_of_and_replaced(strategy: str) -> None:
    options = [*STALL, "--metrics", "--socket-strategy", strategy]
    with serving_pool(*options, workers=3, app=APP) as pool:
        connections = connections_by_worker(pool, 3)
        blocked, stuck = connections.popitem()
        ids = {worker["pid"]: worker["worker_id"] for worker in pool.workers()}
        stuck.send(get("/sleep"))
        answered = 0
        while len(pool.pids() - {blocked}) < 3:
            for pid, connection in connections.items():
                assert int(connection.ask(get("/")).body) == pid
                answered += 1
            if strategy == "shared":
                pool.body()
        assert answered
        pool.wait_for_workers(3, without={blocked})
        assert len(pool.served_by(3)) == 3
        assert recycles(pool, "worker_stall") == 1

        text = f"worker {ids[blocked]}: its event loop has been blocked for "
        entry = entry_with(pool, text)
        assert float(entry.removeprefix(text).split()[0]) >= TIMEOUT
        line = APP.splitlines().index("        time.sleep(60)  # in a coroutine") + 1
        assert f'app.py", line {line} in view' in entry
        client, port = stuck.sock.getsockname()
        told = rf"requests in flight: 1\nGET /sleep from {client}:{port}, for (\d+)\.\d+ s"
        request = re.search(told, entry)
        assert request is not None, entry
        assert int(request[1]) >= TIMEOUT - 1
        pool.wait_for_log(f"killing worker {ids[blocked]}: its event loop is blocked")
        for connection in [stuck, *connections.values()]:
            connection.sock.close()


def test_a_loop_that_turns_again_is_not_touched_where_limits_hold_it_back() -> None:
    options = [*STALL, "--max-health-recycles", "1", "--metrics"]
    with serving_pool(*options, app=APP) as pool:
        (first, gone), (second, kept) = connections_by_worker(pool, 2).items()
        gone.send(get("/sleep"))
        wait_until(lambda: pool.pids() - {first, second}, "there is a successor")
        kept.send(get("/pause"))
        pool.wait_for_log("should be replaced (worker_stall), but has to wait")
        (pool.folder / "go").touch()
        assert kept.receive()[0].status == 200
        pool.wait_for_log("its event loop turns again, after ")
        assert int(kept.ask(get("/")).body) == second
        assert log_of(pool).count("has been blocked for") == 2
        assert log_of(pool).count("killing worker") == 1
        for connection in (gone, kept):
            connection.sock.close()


def test_a_worker_that_is_stopped_is_let_be_and_goes_on() -> None:
    with serving_pool(*STALL, app=APP) as pool:
        connections = connections_by_worker(pool, 2)
        stopped, connection = connections.popitem()
        pids = pool.pids()
        os.kill(stopped, signal.SIGSTOP)
        try:
            pool.wait_for_log(f"(pid {stopped}) is stopped, by a signal or a debugger")
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert int(connection.ask(get("/")).body) == stopped
        began = pool.status()["uptime"]
        wait_until(lambda: pool.status()["uptime"] > began + 1, "it is looked at again")
        assert pool.pids() == pids
        assert "has been blocked" not in log_of(pool)
        for each in [connection, *connections.values()]:
            each.sock.close()


def test_a_thread_that_is_blocked_has_a_successor_and_is_written_off() -> None:
    app = APP.replace("os.getpid()", "threading.get_native_id()")
    app = app.replace("import os\n", "import os\nimport threading\n", 1)
    with serving_pool(*STALL, app=app, mode=THREAD) as pool:
        connections = connections_by_worker(pool, 2)
        blocked, stuck = connections.popitem()
        [worker] = [w for w in pool.workers() if w["pid"] == blocked]
        stuck.send(get("/sleep"))
        pool.wait_for_log(f"worker {worker['worker_id']}: its event loop has been blocked for ")
        entry = entry_with(pool, f"worker {worker['worker_id']}: its event loop has been blocked")
        line = app.splitlines().index("        time.sleep(60)  # in a coroutine") + 1
        assert f'app.py", line {line} in view' in entry
        assert "GET /sleep from" in entry
        pool.wait_for_workers(2, without={blocked})
        pool.wait_for_log(f"worker {worker['worker_id']} (pid {blocked}) does not end")
        assert blocked not in pool.served_by(2)
        for connection in [stuck, *connections.values()]:
            connection.sock.close()


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("/segfault", "was killed by SIGSEGV"),
        ("/exit", "exited with code 7"),
        ("/kill", "was killed by SIGKILL"),
    ],
)
def test_a_worker_that_dies_leaves_word_of_its_requests(path: str, how: str) -> None:
    with serving_pool("--no-access-log", "--supervise", app=APP, workers=1) as pool:
        before = pool.pids()
        waiting, fatal = pool.connect(), pool.connect()
        waiting.send(get("/wait?for=ever"))
        wait_until(lambda: pool.workers()[0]["in_flight"] == 1, "a request is in progress")
        fatal.send(get(path))
        pool.wait_for_workers(1, without=before)
        entry = entry_with(pool, "worker 1 left 2 requests unanswered:")
        ports = [each.sock.getsockname()[1] for each in (waiting, fatal)]
        assert re.fullmatch(
            r"worker 1 left 2 requests unanswered:\n"
            rf"GET /wait\?for=ever from 127.0.0.1:{ports[0]}, for \d+\.\d+ s\n"
            rf"GET {path} from 127.0.0.1:{ports[1]}, for \d+\.\d+ s",
            entry,
        )
        assert f"worker 1 (pid {before.pop()}) {how}" in log_of(pool)
        for connection in (waiting, fatal):
            connection.sock.close()
