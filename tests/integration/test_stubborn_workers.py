"""Workers that do not leave when they are told, and that die or hang while they start: what comes
of it when the pool shrinks, reloads or stops."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.integration.endpoint import get
from tests.integration.pool_process import APP, Pool, serving_pool
from tests.integration.server_process import ServerProcess, run_pounce
from tests.waiting import PATIENCE, wait_until

SHORT = ("--timeout-graceful-shutdown", "1s")

DEAF = APP.replace(
    "async def app(",
    """
import signal


def hear_nothing():
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), lambda *_: None)


hear_nothing()


async def app(""",
).replace("body = str(worker())\n", "body = str(worker())\n    hear_nothing()\n")

assert DEAF.count("hear_nothing()") == 3

DEAF_BOOT = """
import signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(__file__).with_name("boots").touch()
time.sleep(600)
"""

DIES = {
    "exits": "import os\nos._exit(7)\n",
    "is killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
}

STARTUP_HANGS = APP.replace(
    'await send({"type": kind + ".complete"})', "await asyncio.sleep(600)", 1
)


def act(pool: Pool, way: str) -> None:
    """Has the worker in the second slot leave, perhaps with others."""
    if way == "scale":
        pool.command("scale", workers=1)
    elif way == "reload":
        pool.command("reload", wait=False)
    else:
        pool.signal(signal.SIGTERM)


def assert_settled(pool: Pool, way: str, first: set[int]) -> None:
    if way == "scale":
        assert pool.wait_for_workers(1) < first
    elif way == "reload":
        pool.wait_for_workers(2, without=first)
    else:
        assert pool.server.wait() == 0


# Those that serve


@pytest.mark.parametrize("way", ["scale", "reload", "stop"])
def test_a_worker_that_is_deaf_to_signals_leaves_all_the_same(way: str) -> None:
    with serving_pool(app=DEAF) as pool:
        first = pool.served_by(2)
        act(pool, way)
        assert_settled(pool, way, first)
        log = pool.server.stderr_text()
        assert "killing worker" not in log
        assert "was killed" not in log
        assert len(pool.noted("lifespan.shutdown")) == (1 if way == "scale" else 2)


@pytest.mark.parametrize("way", ["scale", "reload", "stop"])
def test_a_worker_that_blocks_is_killed_when_its_time_is_over(way: str) -> None:
    with serving_pool(*SHORT) as pool:
        first = pool.pids()
        victim = max(pool.workers(), key=lambda worker: worker["slot"])["pid"]

        def blocks() -> bool:
            with pool.connect() as connection:
                if int(connection.ask(get("/")).body) != victim:
                    return False
                connection.send(get("/block"))
                pool.wait_for_file("blocks")
                return True

        wait_until(blocks, "the worker in the second slot blocks")
        act(pool, way)
        pool.wait_for_log("still there when its time to drain was over")
        assert_settled(pool, way, first)
        log = pool.server.stderr_text()
        assert log.count("killing worker") == 1
        assert f"(pid {victim}) was killed" in log


# Those that start


@pytest.mark.parametrize("way", ["scale", "reload", "stop"])
def test_a_worker_that_is_deaf_while_it_starts_is_killed(way: str) -> None:
    with serving_pool(*SHORT, "--timeout-worker-boot", "20s") as pool:
        first = pool.pids()
        pool.write_app(DEAF_BOOT)
        if way == "reload":
            pool.signal(signal.SIGHUP)
        else:
            pool.signal(signal.SIGTTIN)
        pool.wait_for_file("boots")
        if way == "reload":
            pool.wait_for_log("killing worker 3: not prepared within 20 s")
            assert pool.wait_for_workers(2) == first
        elif way == "scale":
            pool.signal(signal.SIGTTOU)
            pool.wait_for_log("killing worker 3: still there when its time to drain was over")
            assert pool.wait_for_workers(2) == first
        else:
            pool.signal(signal.SIGTERM)
            assert pool.server.wait() == 0
            assert "killing worker 3" in pool.server.stderr_text()


@pytest.mark.parametrize("how", DIES)
def test_a_candidate_that_dies_while_it_boots_changes_nothing(how: str) -> None:
    with serving_pool() as pool:
        first = pool.pids()
        pool.write_app(DIES[how])
        assert pool.reload_and_wait()["result"] == "failed"
        assert pool.wait_for_workers(2) == first == pool.served_by(2)


@pytest.mark.parametrize("how", DIES)
def test_a_successor_that_dies_while_it_boots_is_tried_again(how: str) -> None:
    with serving_pool() as pool:
        killed, left = pool.pids()
        pool.write_app(DIES[how])
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: pool.status()["troubles"], "the slot is in trouble")
        assert pool.pids() == {left}
        assert int(pool.body()) == left
        pool.write_app(APP)
        assert pool.wait_for_workers(2) > {left}


@pytest.mark.parametrize("how", DIES)
def test_a_pool_whose_workers_die_while_they_boot_ends(short_tmp_path: Path, how: str) -> None:
    (short_tmp_path / "app.py").write_text("print('tried', flush=True)\n" + DIES[how])
    ended = run_pounce(
        *("app:app", "--workers", "2", "--port", "0", "--control-socket", "off"),
        cwd=short_tmp_path,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 3
    assert ended.stdout.count("tried") >= 3
    assert "giving up" in ended.stderr


def test_a_startup_that_hangs_at_the_first_start_ends_the_pool(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text(textwrap.dedent(STARTUP_HANGS))
    ended = run_pounce(
        *("app:app", "--workers", "2", "--port", "0", "--control-socket", "off"),
        *("--timeout-worker-boot", "3s"),
        cwd=short_tmp_path,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 3
    assert "not prepared within 3 s" in ended.stderr


@pytest.mark.parametrize("way", ["reload", "respawn"])
def test_a_startup_that_hangs_later_leaves_the_sibling_alone(way: str) -> None:
    with serving_pool("--timeout-worker-boot", "15s") as pool:
        first = pool.pids()
        pool.write_app(STARTUP_HANGS)
        if way == "reload":
            result = pool.reload_and_wait()
            assert (result["result"], "within 15 s" in result["reason"]) == ("failed", True)
            assert pool.wait_for_workers(2) == first
            return
        killed, left = first
        os.kill(killed, signal.SIGKILL)
        pool.wait_for_log("not prepared within 15 s")
        assert pool.pids() == {left}
        assert int(pool.body()) == left
        pool.write_app(APP)
        assert pool.wait_for_workers(2) > {left}


# Applications that are objects

SCRIPT = """
import os
import pounce
from app import app

class Unpicklable:
    def __reduce__(self):
        raise TypeError("not to be pickled")
    async def __call__(self, *arguments):
        await app(*arguments)

if __name__ == "__main__":
    config = pounce.ServerConfig(
        workers=2, port=0, control_socket=os.environ["CONTROL"], timeout_graceful_shutdown=1
    )
    pounce.Server(config, Unpicklable()).run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL])
def test_forked_workers_crash_scale_and_stop(short_tmp_path: Path, number: signal.Signals) -> None:
    (short_tmp_path / "app.py").write_text(textwrap.dedent(APP))
    script = short_tmp_path / "serve.py"
    script.write_text(SCRIPT)
    env = {"CONTROL": str(short_tmp_path / "control"), "PYTHONPATH": os.getcwd()}
    with ServerProcess(str(script), env=env, cwd=short_tmp_path) as server:
        pool = Pool(server, short_tmp_path)
        killed = min(pool.pids())
        os.kill(killed, signal.SIGKILL)
        second = pool.wait_for_workers(2, without={killed})
        with pool.connect() as connection:
            connection.send(get("/exit/7"))
            assert connection.rest() == b""
        pool.wait_for_log("exited with code 7")
        assert len(pool.wait_for_workers(2) & second) == 1
        pool.command("scale", workers=4)
        assert pool.served_by(4) == pool.wait_for_workers(4)
        pool.command("scale", workers=1)
        [pid] = pool.wait_for_workers(1)
        pool.command("restart-worker", worker_id=pool.workers()[0]["worker_id"])
        pids = pool.wait_for_workers(1, without={pid})
        assert {int(pool.body()) for _ in range(5)} == pids

        pool.command("scale", workers=2)
        pool.wait_for_workers(2)
        workers = psutil.Process(server.pid).children()
        with pool.connect() as blocked:
            blocked.send(get("/block"))
            pool.wait_for_file("blocks")
            server.send_signal(number)
            assert server.wait() == (-9 if number == signal.SIGKILL else 0)
            _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
            assert not alive
            assert blocked.rest() == b""
        pool.control.unlink(missing_ok=True)
