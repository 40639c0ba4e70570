"""A master and its workers: they serve, come and go, and end as they are told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pounce import Server, ServerConfig
from pounce.errors import SupervisorError
from tests.integration.endpoint import get
from tests.integration.pool_process import APP, GRACEFUL, Pool, is_free, serving_pool
from tests.integration.server_process import ServerProcess
from tests.integration.worker_modes import Mode
from tests.waiting import PATIENCE, wait_until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and SO_REUSEPORT")

# Serving


@pytest.mark.parametrize("via", ["tcp", "tls", "unix"])
def test_every_worker_serves_and_requests_in_flight_finish_at_the_end(via: str, mode: Mode) -> None:
    with serving_pool(*GRACEFUL, via=via, mode=mode) as pool:
        master = psutil.Process(pool.server.pid)
        pids = pool.pids()
        assert pool.served_by(2) == pids
        assert master.pid not in pids
        assert pool.noted("imports") == [master.pid] or not mode.has_threads
        with pool.hold("a") as busy, pool.connect() as idle:
            idle.ask(get("/"))
            pool.signal(signal.SIGTERM)
            assert idle.rest() == b""
            wait_until(pool.is_refused, "new connections are refused")
            assert busy.is_silent()
            pool.go("a")
            [answer] = busy.receive()
            assert int(answer.body) in pids
            assert answer.closes
            assert busy.rest() == b""
        assert pool.server.wait() == 0
        assert sorted(pool.noted("lifespan.shutdown")) == sorted(pool.noted("imports"))


@linux_only
@pytest.mark.parametrize("strategy", ["reuseport", "shared"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_slots_share_the_port_that_was_drawn(strategy: str, loop: str) -> None:
    with serving_pool("--socket-strategy", strategy, "--loop", loop) as pool:
        pids = pool.served_by(2) if strategy == "reuseport" else {int(pool.body())}
        assert pids <= pool.pids()
        assert pool.status()["addresses"] == [f"127.0.0.1:{pool.server.port}"]
        assert pool.status()["workers_target"] == len(pool.workers()) == 2
        port = pool.server.port
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert is_free(port)


@linux_only
def test_the_master_does_not_import_the_application_and_stays_small() -> None:
    with serving_pool() as pool:
        assert sorted(pool.noted("imports")) == sorted(pool.pids())
        maps = Path(f"/proc/{pool.server.pid}/maps").read_text()
        assert "uvloop" not in maps
        assert psutil.Process(pool.server.pid).memory_info().rss < 60 * 2**20


def test_a_master_for_one_worker(mode: Mode) -> None:
    with serving_pool("--supervise", workers=1, mode=mode) as pool:
        assert {int(pool.body())} == pool.pids() != {pool.server.pid}


def test_counts_of_requests_reach_the_status(mode: Mode) -> None:
    with serving_pool(mode=mode) as pool, pool.connect() as connection:
        for _ in range(5):
            connection.ask(get("/"))
        wait_until(
            lambda: sum(worker["requests"] for worker in pool.workers()) == 5, "5 are counted"
        )
        assert sum(worker["connections"] for worker in pool.workers()) == 1
        with pool.hold("a") as busy:
            wait_until(
                lambda: sum(worker["in_flight"] for worker in pool.workers()) == 1,
                "one is in flight",
            )
            pool.go("a")
            busy.receive()


def test_the_access_log_is_complete_at_the_end(mode: Mode) -> None:
    with serving_pool(mode=mode) as pool:
        pids = set[int]()
        number = 0
        while len(pids) < 2 or number < 100:
            pids.add(int(pool.body(f"/line/{number}")))
            number += 1
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        lines = re.findall(r"GET /line/(\d+) HTTP", pool.server.stderr_text())
        assert sorted(map(int, lines)) == list(range(number))


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_pool_ends_at_once(number: signal.Signals, mode: Mode) -> None:
    with serving_pool(*GRACEFUL, mode=mode) as pool:
        pool.served_by(2)
        pool.signal(number)
        assert pool.server.wait() == 0
        assert len(pool.noted("lifespan.shutdown")) == (1 if mode.has_threads else 2)


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM), (signal.SIGQUIT,)],
    ids=lambda numbers: "-".join(number.name for number in numbers),
)
def test_what_ends_a_pool_that_is_busy(numbers: tuple[signal.Signals, ...], mode: Mode) -> None:
    with (
        serving_pool(*GRACEFUL, mode=mode) as pool,
        pool.hold("a") as busy,
    ):
        for times, number in enumerate(numbers):
            if times:
                pool.wait_for_log(f"received {numbers[times - 1].name}")
            pool.signal(number)
        pool.server.wait()
        # The process of a thread has a moment to answer.
        assert busy.rest()[:12] == (b"HTTP/1.1 500" if mode.has_threads else b"")
        assert "Traceback" not in pool.server.stderr_text()


def test_a_stop_while_the_workers_boot() -> None:
    app = "import time\nprint('importing', flush=True)\ntime.sleep(600)\n" + APP
    with serving_pool(*GRACEFUL) as pool:
        pool.write_app(app)
        pool.signal(signal.SIGHUP)
        wait_until(lambda: "importing" in pool.server.stdout_text(), "a new worker imports")
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert "Traceback" not in pool.server.stderr_text()


def test_what_a_terminal_sends_to_all_processes_while_they_start(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text("import time\nprint('importing', flush=True)\n" + APP)
    command = [sys.executable, "-m", "pounce", "app:app", "--workers", "2", "--port", "0"]
    command += ["--control-socket", "off"]
    process = subprocess.Popen(
        command,
        cwd=short_tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # As early as there are workers: their interpreters have only begun.
        workers = wait_until(lambda: workers_of(process.pid), "there is a worker")
        if sys.platform == "linux":
            assert all(signal.SIGINT in unheeded_signals(worker.pid) for worker in workers)
        os.killpg(process.pid, signal.SIGINT)
        _, log = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "KeyboardInterrupt" not in log


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # the helper that only looks at the machine
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def unheeded_signals(pid: int) -> set[int]:
    """Those that a process blocks or ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = 0
    for field in re.findall(r"^Sig(?:Blk|Ign):\s*([0-9a-f]+)$", status, re.MULTILINE):
        mask |= int(field, 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_new_connections_are_taken_during_the_shutdown_delay(mode: Mode) -> None:
    with serving_pool("--shutdown-delay", "100s", mode=mode) as pool:
        pids = pool.pids()
        pool.signal(signal.SIGTERM)
        pool.wait_for_log("received SIGTERM")
        assert int(pool.body()) in pids
        pool.signal(signal.SIGTERM)
        pool.server.wait()


# More and fewer


def test_ttin_and_ttou_change_the_number_of_workers(mode: Mode) -> None:
    with serving_pool(mode=mode) as pool:
        first = pool.pids()
        pool.signal(signal.SIGTTIN)
        assert pool.wait_for_workers(3) > first
        pool.served_by(3)
        for number in (2, 1):
            pool.signal(signal.SIGTTOU)
            pool.wait_for_workers(number)
            assert pool.status()["workers_target"] == number
        pool.signal(signal.SIGTTOU)
        pool.wait_for_log("at least one worker")
        assert len(pool.wait_for_workers(1)) == 1
        assert int(pool.body()) in pool.pids()


def test_winch_lets_all_workers_leave_and_hup_brings_them_back() -> None:
    with serving_pool() as pool:
        first = pool.pids()
        pool.signal(signal.SIGWINCH)
        wait_until(lambda: not pool.workers(None), "all workers have left")
        with pool.connect() as waiting:
            waiting.send(get("/"))
            pool.signal(signal.SIGHUP)
            pids = pool.wait_for_workers(2, without=first)
            assert int(waiting.receive()[0].body) in pids


def test_a_worker_is_replaced_after_its_requests(mode: Mode) -> None:
    with serving_pool("--max-requests", "20", mode=mode) as pool:
        first = pool.pids()

        def all_were_replaced() -> bool:
            pool.body()
            return not pool.pids() & first

        # The kernel chooses who gets a connection.
        wait_until(all_were_replaced, "every worker has had its requests")
        wait_until(lambda: not first & {each["pid"] for each in pool.workers(None)}, "all are gone")
        log = pool.server.stderr_text()
        for pid in first:
            exited = re.search(rf"worker (\d+) \(pid {pid}\) exited with code 0", log)
            assert exited is not None, log
            # Its successor served before it was told to leave.
            replaced = re.search(rf"worker {exited[1]} is replaced by worker (\d+)", log)
            assert replaced is not None, log
            ready = log.index(f"worker {replaced[1]} is ready")
            assert ready < replaced.start() < exited.start()


# pounce ctl


def ctl(pool: Pool, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pounce", "ctl", "--socket", str(pool.control), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ctl() -> None:
    with serving_pool(*GRACEFUL) as pool:
        first = pool.pids()
        status = json.loads(ctl(pool, "status", "--json").stdout)
        assert {worker["pid"] for worker in status["workers"]} == first
        assert ctl(pool, "scale", "3").returncode == 0
        pids = pool.wait_for_workers(3)
        assert first < pids

        worker = pool.workers()[1]
        assert ctl(pool, "restart-worker", str(worker["worker_id"])).returncode == 0
        pids = pool.wait_for_workers(3, without={worker["pid"]}) & pids
        assert len(pids) == 2

        reload = ctl(pool, "reload")
        assert (reload.returncode, reload.stdout) == (0, "reloaded, generation 2\n")
        assert not pool.wait_for_workers(3) & (pids | first)

        wrong = ctl(pool, "restart-worker", "999")
        assert wrong.returncode != 0
        assert "there is no worker 999" in wrong.stderr

        with pool.hold("a") as busy:
            stopping = ctl(pool, "stop", "--no-wait")
            assert stopping.returncode == 0
            pool.go("a")
            assert busy.receive()[0].status == 200
        assert pool.server.wait() == 0


# Applications that are objects

SCRIPT = """
import os
import pounce
from app import app

if __name__ == "__main__":
    pounce.run(app, workers=2, control_socket=os.environ["CONTROL"])
"""


def test_an_application_object_is_forked(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text(APP)
    script = short_tmp_path / "serve.py"
    script.write_text(textwrap.dedent(SCRIPT))
    env = {"CONTROL": str(short_tmp_path / "control"), "PYTHONPATH": os.getcwd()}
    with ServerProcess(str(script), env=env, cwd=short_tmp_path) as server:
        pool = Pool(server, short_tmp_path)
        assert pool.served_by(2) == pool.pids()
        assert pool.noted("imports") == [server.pid]
        first = pool.pids()
        pool.signal(signal.SIGHUP)
        second = pool.wait_for_workers(2, without=first)
        pool.wait_for_log("runs the same code")
        os.kill(min(second), signal.SIGKILL)
        pool.wait_for_workers(2, without={min(second)})
        with pool.hold("a") as busy:
            pool.signal(signal.SIGTERM)
            wait_until(pool.is_refused, "new connections are refused")
            pool.go("a")
            assert busy.receive()[0].status == 200
        assert server.wait() == 0


SYNC_SCRIPT = """
import os
import pounce
from app import app, worker
from pounce import RawResponse


class Fast:
    def handle_sync(self, request):
        if request.path == "/sync":
            return RawResponse(200, (), str(worker()).encode())
        return None


if __name__ == "__main__":
    config = pounce.ServerConfig(
        workers=2, port=0, control_socket=os.environ["CONTROL"], worker_mode=os.environ["MODE"]
    )
    kind = os.environ["KIND"]
    pounce.Server(
        config,
        app if kind == "object" else None,
        app_path=None if kind == "object" else "app:app",
        sync_app=Fast(),
    ).run()
"""


@pytest.mark.parametrize("kind", ["object", "path"])
def test_a_sync_app_in_workers(short_tmp_path: Path, kind: str, mode: Mode) -> None:
    (short_tmp_path / "app.py").write_text(APP)
    script = short_tmp_path / "serve.py"
    script.write_text(textwrap.dedent(SYNC_SCRIPT))
    env = {
        "CONTROL": str(short_tmp_path / "control"),
        "KIND": kind,
        "MODE": "thread" if mode.has_threads else "process",
        "PYTHONPATH": os.getcwd(),
    }
    with ServerProcess(str(script), env=env, cwd=short_tmp_path, python=mode.python) as server:
        pool = Pool(server, short_tmp_path)
        assert int(pool.body("/sync")) in pool.pids()
        assert int(pool.body("/async")) in pool.pids()


def test_a_pool_refuses_a_thread_that_gets_no_signals() -> None:
    server = Server(ServerConfig(workers=2, port=0, control_socket="off"), None, app_path="a:b")
    with ThreadPoolExecutor() as executor, pytest.raises(SupervisorError, match="main thread"):
        executor.submit(server.run).result(PATIENCE)
    assert server.bound_addr is None
