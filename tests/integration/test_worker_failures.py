"""Workers that crash, hang or do not start, and a master that is killed: each has a sensible end,
and siblings serve on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.endpoint import get
from tests.integration.pool_process import APP, GRACEFUL, Pool, is_free, serving_pool
from tests.integration.server_process import ServerProcess, run_pounce
from tests.integration.worker_modes import Mode
from tests.ports import quiet_port
from tests.waiting import PATIENCE, wait_until

BOOT_FAILS = APP.replace('await send({"type": kind + ".complete"})', "raise ValueError('no db')")


def assert_serves(pool: Pool, pids: set[int]) -> None:
    for _ in range(5):
        assert int(pool.body()) in pids


# After the first start


@pytest.mark.parametrize("via", ["tcp", "unix"])
def test_a_killed_worker_is_replaced_and_its_sibling_serves(via: str) -> None:
    with serving_pool(via=via) as pool:
        killed, *left = pool.pids()
        os.kill(killed, signal.SIGKILL)
        pool.wait_for_log(f"(pid {killed}) was killed by SIGKILL")
        pids = pool.wait_for_workers(2, without={killed})
        assert pids > set(left)
        assert_serves(pool, pids)
        assert pool.served_by(2) == pids


def test_connections_that_wait_survive_the_death_of_their_worker() -> None:
    with serving_pool("--supervise", workers=1) as pool:
        [pid] = pool.pids()
        with pool.connect() as blocked, contextlib.ExitStack() as stack:
            blocked.send(get("/block"))
            pool.wait_for_file("blocks")
            waiting = [stack.enter_context(pool.connect()) for _ in range(10)]
            for connection in waiting:
                connection.send(get("/"))
            os.kill(pid, signal.SIGKILL)
            answers = {int(connection.receive()[0].body) for connection in waiting}
            assert answers == pool.wait_for_workers(1, without={pid})
            assert blocked.rest() == b""


def test_a_worker_that_somebody_else_told_to_end_drains_and_is_replaced() -> None:
    with serving_pool() as pool:
        with pool.hold("a") as busy:
            [pid] = [
                worker["pid"]
                for worker in wait_until(
                    lambda: [w for w in pool.workers() if w["in_flight"]], "it is counted"
                )
            ]
            os.kill(pid, signal.SIGTERM)
            assert busy.is_silent()
            pool.go("a")
            assert int(busy.receive()[0].body) == pid
        pool.wait_for_workers(2, without={pid})


def test_a_crash_is_answered_at_once_and_a_second_one_later(mode: Mode) -> None:
    with serving_pool(mode=mode) as pool:
        for times in (1, 2):
            with pool.connect() as connection:
                connection.send(get("/exit/7"))
                # The process of a thread lives on, and can answer.
                assert connection.rest()[:12] == (b"HTTP/1.1 500" if mode.has_threads else b"")
            pool.wait_for_log("exited with code 7", times)
            # Who has just begun to serve may not have told the master yet.
            wait_until(lambda: int(pool.body()) in pool.pids(), "a worker of the pool answers")
        pool.wait_for_workers(2)
        assert_serves(pool, pool.pids())


def test_a_worker_that_leaves_a_process_behind_is_missed_all_the_same() -> None:
    forking = """
import os, signal, time
left = os.fork()
if left == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(600)
    os._exit(0)
with open(os.path.join(os.path.dirname(__file__), "left"), "a") as file:
    print(left, file=file)
"""
    with serving_pool(*GRACEFUL, app=forking + APP) as pool:
        try:
            killed = min(pool.pids())
            os.kill(killed, signal.SIGKILL)
            pool.wait_for_workers(2, without={killed})
            pool.signal(signal.SIGTERM)
            assert pool.server.wait() == 0
        finally:
            for pid in pool.noted("left"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("def app(:\n", "SyntaxError", id="syntax error"),
        pytest.param(BOOT_FAILS, "no db", id="failed startup"),
        pytest.param("import os\nos._exit(7)\n", "exited with code 7", id="dies"),
        pytest.param("import time\ntime.sleep(600)\n", "within 20 s", id="hangs"),
    ],
)
def test_a_worker_that_cannot_start_any_more_delays_only_its_slot(source: str, said: str) -> None:
    with serving_pool("--timeout-worker-boot", "20s") as pool:
        killed, left = pool.pids()
        pool.write_app(source)
        os.kill(killed, signal.SIGKILL)

        def trouble() -> str:
            found = pool.status()["troubles"]
            return found[0]["reason"] if found and found[0]["failures"] >= 1 else ""

        wait_until(lambda: said in trouble(), f"status says {said}")
        assert pool.pids() == {left}
        assert_serves(pool, {left})
        pool.write_app(APP)
        assert pool.wait_for_workers(2) > {left}


# The first start


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("def app(:\n", "SyntaxError", id="syntax error"),
        pytest.param("other = None\n", "app", id="no application"),
        pytest.param(BOOT_FAILS, "no db", id="failed startup"),
        pytest.param(
            "import os\nos._exit(7)\n",
            "exited with code 7",
            id="dies",
        ),
    ],
)
def test_a_pool_that_cannot_start_ends(short_tmp_path: Path, source: str, said: str) -> None:
    assert_cannot_start(short_tmp_path, source, said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("def app(:\n", "SyntaxError", id="syntax error"),
        pytest.param("other = None\n", "app", id="no application"),
        pytest.param(BOOT_FAILS, "no db", id="failed startup"),
    ],
)
@pytest.mark.parametrize(
    "options", [("--worker-mode", "thread"), ("--lifespan", "main")], ids=["thread", "main"]
)
def test_an_application_of_the_main_process_that_cannot_start(
    short_tmp_path: Path, source: str, said: str, options: tuple[str, str]
) -> None:
    assert_cannot_start(short_tmp_path, source, said, *options)


def assert_cannot_start(folder: Path, source: str, said: str, *options: str) -> None:
    (folder / "app.py").write_text(source)
    control = folder / "control"
    ended = run_pounce(
        *("app:app", "--workers", "2", "--port", "0", "--control-socket", str(control)),
        *options,
        cwd=folder,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 3
    [why] = [line for line in ended.stderr.splitlines() if "giving up" in line]
    assert said in ended.stderr
    assert "listening on" not in ended.stderr
    assert not control.exists()
    assert why


def test_a_pool_that_hangs_at_its_start_ends(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text("import time\ntime.sleep(600)\n")
    ended = run_pounce(
        *("app:app", "--workers", "2", "--port", "0", "--control-socket", "off"),
        *("--timeout-worker-boot", "3s"),
        cwd=short_tmp_path,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 3
    assert "within 3 s" in ended.stderr


def test_the_address_is_in_use(mode: Mode) -> None:
    with serving_pool() as pool:
        port = str(pool.server.port)
        ended = run_pounce(
            *("tests.integration.steered_app:app", "--workers", "2", "--port", port),
            *("--control-socket", "off"),
            *mode.options,
            python=mode.python,
        )
        assert ended.returncode == 1
        assert "in use" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert_serves(pool, pool.pids())


def test_an_argument_that_cannot_be_sent_to_workers(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text(APP)
    (short_tmp_path / "serve.py").write_text(
        "import pounce\n"
        "class Fast:\n"
        "    handle_sync = None\n"
        "    def __reduce__(self):\n"
        "        raise TypeError('not to be pickled')\n"
        "if __name__ == '__main__':\n"
        "    config = pounce.ServerConfig(workers=2, port=0, control_socket='off')\n"
        "    pounce.Server(config, None, app_path='app:app', sync_app=Fast()).run()\n"
    )
    ended = subprocess.run(
        [sys.executable, "serve.py"],
        cwd=short_tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert "not to be pickled" in ended.stderr
    assert "Traceback" not in ended.stderr


# Draining


def test_a_worker_that_does_not_drain_is_given_up_when_its_time_is_over(mode: Mode) -> None:
    with (
        serving_pool("--timeout-graceful-shutdown", "1s", mode=mode) as pool,
        pool.connect() as blocked,
    ):
        blocked.send(get("/block"))
        pool.wait_for_file("blocks")
        begun = time.monotonic()
        pool.signal(signal.SIGTERM)
        pool.server.wait()
        # It has its time and a margin in which requests are cancelled.
        assert time.monotonic() - begun > 1
        log = pool.server.stderr_text()
        assert "still there when its time to drain was over" in log
        assert ("does not end" in log) is mode.has_threads


def test_a_blocked_worker_does_not_hold_a_reload_up() -> None:
    with serving_pool("--timeout-graceful-shutdown", "1s") as pool, pool.connect() as blocked:
        first = pool.pids()
        blocked.send(get("/block"))
        pool.wait_for_file("blocks")
        pool.signal(signal.SIGHUP)
        pool.wait_for_workers(2, without=first)
        assert pool.status()["last_reload"]["result"] == "succeeded"
        assert blocked.rest() == b""


def test_a_worker_that_is_killed_while_it_drains() -> None:
    with serving_pool(*GRACEFUL) as pool, pool.hold("a") as busy:
        first = pool.pids()
        pool.signal(signal.SIGHUP)

        def draining() -> set[int]:
            found = {worker["pid"] for worker in pool.workers("draining")}
            return found if len(pool.workers()) == 2 and len(found) == 1 else set()

        [pid] = wait_until(draining, "one worker is left to drain")
        assert pool.status()["workers"]
        os.kill(pid, signal.SIGKILL)
        assert busy.rest() == b""
        assert_serves(pool, pool.wait_for_workers(2, without=first))


# The end of the master


@contextlib.contextmanager
def orphaned(pool: Pool) -> Iterator[list[psutil.Process]]:
    """Kills the master; the workers, which must be gone at the end."""
    workers = psutil.Process(pool.server.pid).children(recursive=True)
    pool.server.process.kill()
    pool.server.wait()
    try:
        yield workers
        _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
        assert not alive, pool.server.stderr_text()
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        pool.control.unlink(missing_ok=True)
        (pool.folder / "socket").unlink(missing_ok=True)


def test_workers_drain_and_leave_when_the_master_was_killed() -> None:
    port = quiet_port()
    with serving_pool(*GRACEFUL, "--port", str(port)) as pool, pool.hold("a") as busy:
        with orphaned(pool):
            wait_until(pool.is_refused, "new connections are refused")
            assert busy.is_silent()
            pool.go("a")
            assert int(busy.receive()[0].body) in pool.noted("imports")
        assert is_free(port)
        assert len(pool.noted("lifespan.shutdown")) == 2


def test_the_next_server_takes_over_what_a_killed_master_left() -> None:
    with serving_pool(via="unix") as pool:
        with orphaned(pool):
            pass
        uds = str(pool.folder / "socket")
        with ServerProcess("app:app", "--workers", "2", "--uds", uds, cwd=pool.folder) as server:
            assert b" 200 " in server.request(get("/", "Connection: close"))


def test_a_blocked_worker_leaves_when_the_master_was_killed() -> None:
    with serving_pool("--timeout-graceful-shutdown", "1s") as pool, pool.connect() as blocked:
        blocked.send(get("/block"))
        pool.wait_for_file("blocks")
        with orphaned(pool):
            pass


def test_a_worker_that_still_boots_leaves_when_the_master_was_killed() -> None:
    with serving_pool("--timeout-graceful-shutdown", "1s") as pool:
        pool.write_app(
            "from pathlib import Path\nimport time\nPath('boots').touch()\ntime.sleep(600)\n"
        )
        pool.signal(signal.SIGHUP)
        pool.wait_for_file("boots")
        with orphaned(pool):
            pass
