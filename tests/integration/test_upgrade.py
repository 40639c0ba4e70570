"""USR2, and HUP without a master: a new process of the program takes over, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pounce.shm.leftovers import remove_leftovers
from pounce.supervisor.control_messages import ControlError
from tests.integration import pool_process
from tests.integration.endpoint import Connection, get
from tests.integration.pool_process import APP, GRACEFUL, Pool, is_free
from tests.integration.service_manager import Manager
from tests.integration.steady_load import SteadyLoad
from tests.ports import quiet_port
from tests.waiting import PATIENCE, wait_until

BROKEN = "def app(:\n"
HANGS = "import time\ntime.sleep(600)\n"
NEVER_STARTS = """
import asyncio
from pathlib import Path

async def app(scope, receive, send):
    Path("starts").touch()
    await asyncio.sleep(600)
"""
SERVES = " serves, after"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc and SO_REUSEPORT")


def serving_pool(*options: str, **more: Any) -> AbstractContextManager[Pool]:
    """Without the thousands of lines of a load."""
    return pool_process.serving_pool("--no-access-log", *options, **more)


def changed(version: str) -> str:
    return APP.replace('"one"', f'"{version}"')


def gated(version: str) -> str:
    """An application that imports only when there is a file `gate`."""
    return (
        "import time as t, pathlib as p\n"
        "p.Path(__file__).with_name('at').touch()\n"
        "while not p.Path(__file__).with_name('gate').exists():\n    t.sleep(0.01)\n"
    ) + changed(version)


def main_pid(pool: Pool) -> int:
    """Of the process that answers the control socket; 0 while none does."""
    try:
        return int(pool.status()["pid"])
    except ControlError:
        return 0


def wait_for_version(pool: Pool, version: str) -> str:
    """The pid that answers when only code of this version does: who leaves accepts for a moment
    longer."""
    wait_until(
        lambda: all(pool.body("/version") == version for _ in range(5)), f"{version} serves", 60
    )
    return pool.body()


def upgrade(pool: Pool) -> int:
    """A successful one, until the processes before are gone; the new pid."""
    before = main_pid(pool)
    workers = pool.pids()
    os.kill(before, signal.SIGUSR2)
    wait_until(lambda: main_pid(pool) not in (0, before), "another process answers")
    pool.wait_for_workers(2, without=workers)
    gone = workers if before == pool.server.pid else {*workers, before}
    wait_until(lambda: not any(map(psutil.pid_exists, gone)), f"{gone} are gone")
    return main_pid(pool)


def outcome(pool: Pool) -> dict[str, Any]:
    """Of the last upgrade, once it is over."""

    def found() -> dict[str, Any]:
        status = pool.status()
        return {} if status["upgrading"] else status["last_upgrade"] or {}

    return wait_until(found, "an upgrade has ended")


@contextlib.contextmanager
def two_of_one_worker(pool: Pool) -> Iterator[tuple[Connection, Connection]]:
    """Two idle connections to the same worker."""
    with contextlib.ExitStack() as stack:
        others: dict[bytes, Connection] = {}
        while True:
            connection = stack.enter_context(pool.connect())
            pid = connection.ask(get("/")).body
            if pid in others:
                yield others[pid], connection
                return
            others[pid] = connection


@contextlib.contextmanager
def ended_at_last(pid: int) -> Iterator[psutil.Process]:
    """Ends a main process that is no child of the test."""
    process = psutil.Process(pid)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # another one has taken over
            process.terminate()
            process.wait(PATIENCE)


# Nothing is lost


@pytest.mark.parametrize(
    ("via", "options"),
    [
        ("tcp", ()),
        pytest.param("tcp", ("--socket-strategy", "shared"), id="shared"),
        ("tls", ()),
        ("unix", ()),
    ],
)
def test_upgrades_under_load_lose_nothing(via: str, options: tuple[str, ...]) -> None:
    with serving_pool(*options, via=via) as pool, SteadyLoad(pool) as load:
        load.wait_for_more()
        pids = {pool.server.pid}
        for _ in range(2):
            pids.add(upgrade(pool))
            load.wait_for_more()
        assert len(pids) == 3
        if pool.server.uds is not None:
            assert stat.S_ISSOCK(os.lstat(pool.server.uds).st_mode)
        assert pool.pids() & {int(answer) for answer in load.answers}


def test_requests_in_flight_are_finished_by_the_old_workers() -> None:
    with serving_pool(*GRACEFUL) as pool:
        old = pool.pids()
        with pool.hold("a") as busy, two_of_one_worker(pool) as (first, second):
            pool.write_app(changed("two"))
            pool.signal(signal.SIGUSR2)
            wait_until(lambda: pool.body("/version") == "two", "the new code serves")
            pool.wait_for_log(SERVES)
            # The old worker may be told to leave a moment after that. When it has been, it has
            # told all its connections.
            while not (last := first.ask(get("/version"))).closes:
                assert last.body == b"one"
            assert last.body == b"one"
            # A kept connection gets one more response, from the old code.
            last = second.ask(get("/version"))
            assert (last.body, last.closes) == (b"one", True)
            pool.go("a")
            assert int(busy.receive()[0].body) in old
        wait_until(lambda: not any(map(psutil.pid_exists, old)), "the old workers are gone")


@pytest.mark.parametrize("size", [1, 4])
def test_the_number_of_workers_is_that_of_the_configuration_again(size: int) -> None:
    with serving_pool() as pool, SteadyLoad(pool) as load:
        pool.command("scale", workers=size)
        pool.wait_for_workers(size)
        load.wait_for_more()
        upgrade(pool)
        assert pool.status()["workers_target"] == 2
        load.wait_for_more()


def test_the_new_process_reads_everything_anew() -> None:
    with serving_pool() as pool:
        old = pool.pids()
        pool.write_app(changed("two"))
        (pool.folder / "pounce.toml").write_text('root_path = "/under"\nheaders = ["x-new:1"]\n')
        upgrade(pool)
        assert pool.body("/version") == "two"
        response = pool.ask(get("/root"))
        assert (response.body, (b"x-new", b"1") in response.headers) == (b"/under", True)
        assert not pool.pids() & old
        # All of the control socket works.
        assert pool.reload_and_wait()["result"] == "succeeded"
        pool.command("scale", workers=3)
        pool.wait_for_workers(3)


def test_addresses_may_come_and_go_with_an_upgrade(tmp_path: Path) -> None:
    port = quiet_port()
    with serving_pool("--host", "127.0.0.1", "--port", str(port)) as pool:
        file = pool.folder / "pounce.toml"
        file.write_text(f'uds = "{tmp_path / "s"}"\n')
        upgrade(pool)
        assert pool.status()["addresses"] == [f"unix:{tmp_path / 's'}"]
        assert is_free(port)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
        file.unlink()
        upgrade(pool)
        assert not (tmp_path / "s").exists()


# Whoever knows the program by its pid


@linux_only
def test_the_process_that_was_started_stays_as_the_only_keeper() -> None:
    port = quiet_port()
    with serving_pool("--port", str(port)) as pool:
        keeper = psutil.Process(pool.server.pid)
        for _ in range(2):
            pid = upgrade(pool)
            wait_until(lambda: "keeper" in " ".join(keeper.cmdline()), "it is the keeper")
            wait_until(lambda: len(keeper.children()) == 1, "it has one child")
            assert keeper.children()[0].pid == pid
        # What the keeper gets, the main process gets.
        pool.signal(signal.SIGTTIN)
        pool.wait_for_workers(3)
        workers = pool.pids()
        pool.write_app(changed("two"))
        pool.signal(signal.SIGHUP)
        pool.wait_for_workers(3, without=workers)
        assert pool.body("/version") == "two"
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert not psutil.pid_exists(pid)
        assert is_free(port)


@linux_only
def test_the_keeper_upgrades_by_usr2() -> None:
    with serving_pool() as pool:
        first = upgrade(pool)
        pool.signal(signal.SIGUSR2)
        wait_until(lambda: main_pid(pool) not in (0, first), "another process answers")
        wait_until(lambda: not psutil.pid_exists(first), "the one before is gone")
        pool.wait_for_workers(2)


@linux_only
def test_the_keeper_ends_as_the_main_process_does() -> None:
    port = quiet_port()
    with serving_pool("--port", str(port)) as pool:
        pid = upgrade(pool)
        os.kill(pid, signal.SIGKILL)
        assert pool.server.wait() == -signal.SIGKILL
        wait_until(lambda: is_free(port), "the workers have left")
        pool.control.unlink()


@linux_only
def test_the_main_process_goes_on_without_its_keeper() -> None:
    with serving_pool() as pool:
        upgrade(pool)
        pool.server.process.kill()
        assert pool.server.wait() == -signal.SIGKILL
        with ended_at_last(main_pid(pool)):
            assert len(pool.served_by(2)) == 2
            workers = pool.pids()
            before = main_pid(pool)
            os.kill(before, signal.SIGUSR2)
            wait_until(lambda: main_pid(pool) not in (0, before), "another one answers")
            with ended_at_last(main_pid(pool)):
                pool.wait_for_workers(2, without=workers)
                wait_until(lambda: not psutil.pid_exists(before), "the one before is gone")


def test_a_pidfile_names_the_new_process_and_the_old_one_ends(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with serving_pool("--pidfile", str(pidfile)) as pool:
        assert int(pidfile.read_text()) == pool.server.pid
        pool.signal(signal.SIGUSR2)
        assert pool.server.wait() == 0
        with ended_at_last(main_pid(pool)):
            pid = int(pidfile.read_text())
            assert pid == main_pid(pool) != pool.server.pid
            assert [path.name for path in tmp_path.iterdir()] == ["pid"]
            assert len(pool.served_by(2)) == 2
        assert not pidfile.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_manager_is_told_who_the_main_process_is(tmp_path: Path, workers: int) -> None:
    with (
        Manager(tmp_path / "notify") as manager,
        serving_pool(workers=workers, env={"NOTIFY_SOCKET": str(manager.path)}) as pool,
    ):
        manager.wait_for("READY")
        pool.signal(signal.SIGUSR2)
        assert pool.server.wait() == 0
        manager.wait_for("READY", "RELOADING", "MAINPID", "READY")
        with ended_at_last(int(manager.messages[2]["MAINPID"])) as main:
            assert main.pid != pool.server.pid
            pool.write_app(BROKEN)
            main.send_signal(signal.SIGUSR2)
            pool.wait_for_log("upgrade failed")
            states = ("READY", "RELOADING", "MAINPID", "READY", "RELOADING", "READY")
            manager.wait_for(*states)
            assert "failed" in manager.messages[-1]["STATUS"]
        manager.wait_for(*states, "STOPPING")


# The one that fails changes nothing


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("app.py", BROKEN, "SyntaxError"),
        ("app.py", "raise RuntimeError('no luck')\n", "no luck"),
        ("app.py", "import os\nos._exit(7)\n", "exited with code 7"),
        ("pounce.toml", "nonsense = 1\n", "nonsense"),
        ("pounce.toml", "fd = 999\n", "999"),
    ],
)
def test_a_new_process_that_cannot_serve_changes_nothing(name: str, text: str, said: str) -> None:
    with serving_pool("--host", "127.0.0.1") as pool, SteadyLoad(pool) as load:
        old = pool.pids()
        file = pool.folder / name
        before = file.read_text() if file.exists() else None
        file.write_text(text)
        pool.signal(signal.SIGUSR2)
        last = outcome(pool)
        assert (last["result"], said in last["reason"]) == ("failed", True)
        pool.wait_for_log("upgrade failed, this process goes on")
        assert pool.status()["pid"] == pool.server.pid
        assert pool.wait_for_workers(2) == old
        load.wait_for_more()
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
        upgrade(pool)
        load.wait_for_more()


def test_a_new_process_that_hangs_is_ended() -> None:
    with serving_pool("--timeout-worker-boot", "15s") as pool:
        old = pool.pids()
        pool.write_app(HANGS)
        pool.signal(signal.SIGUSR2)
        last = outcome(pool)
        assert (last["result"], "within 15 s" in last["reason"]) == ("failed", True)
        assert pool.wait_for_workers(2) == old
        wait_until(lambda: _children(pool).keys() == old, "nothing is left of the new process")


def _children(pool: Pool) -> dict[int, psutil.Process]:
    """Of the first master, by pid, without the helper of multiprocessing."""
    found = {}
    for each in psutil.Process(pool.server.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "resource_tracker" not in " ".join(each.cmdline()):
                found[each.pid] = each
    return found


@linux_only
def test_a_new_master_that_is_stopped_is_killed() -> None:
    with serving_pool("--timeout-worker-boot", "15s") as pool:
        old = pool.pids()
        pool.write_app(gated("two"))
        pool.signal(signal.SIGUSR2)
        pool.wait_for_file("at")
        [new] = [
            each
            for pid, each in _children(pool).items()
            if pid not in old and each.ppid() == pool.server.pid
        ]
        new.suspend()
        assert "not prepared within 25 s" in outcome(pool)["reason"]
        wait_until(lambda: not new.is_running(), "the new one is gone")
        assert pool.wait_for_workers(2) == old


# Meanwhile


def test_a_stop_meanwhile_ends_both() -> None:
    with serving_pool() as pool:
        port = pool.server.port
        pool.write_app(gated("two"))
        pool.signal(signal.SIGUSR2)
        pool.wait_for_file("at")
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert is_free(port)


def test_when_the_old_master_is_killed_the_new_one_serves() -> None:
    with serving_pool() as pool:
        pool.write_app(gated("two"))
        pool.signal(signal.SIGUSR2)
        pool.wait_for_file("at")
        pool.server.process.kill()
        assert pool.server.wait() == -signal.SIGKILL
        (pool.folder / "gate").touch()
        wait_until(lambda: main_pid(pool) not in (0, pool.server.pid), "the new one answers")
        with ended_at_last(main_pid(pool)):
            pool.wait_for_workers(2)
            wait_for_version(pool, "two")


@linux_only
def test_when_a_kept_master_is_killed_the_keeper_keeps_the_next_one() -> None:
    with serving_pool() as pool:
        middle = upgrade(pool)
        pool.write_app(gated("two"))
        os.kill(middle, signal.SIGUSR2)
        pool.wait_for_file("at")
        os.kill(middle, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(middle), "its keeper has seen its end")
        remove_leftovers()  # as any other server does that starts now
        (pool.folder / "gate").touch()
        wait_until(lambda: main_pid(pool) not in (0, middle), "the next one answers")
        pool.wait_for_workers(2)
        wait_for_version(pool, "two")
        assert pool.server.process.poll() is None
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0


def test_what_would_change_the_pool_is_refused_and_a_hup_follows() -> None:
    with serving_pool() as pool:
        pool.write_app(gated("two"))
        pool.signal(signal.SIGUSR2)
        pool.wait_for_file("at")
        assert pool.status()["upgrading"]
        for command, arguments in (("scale", {"workers": 3}), ("reload", {})):
            with pytest.raises(ControlError, match="an upgrade is under way"):
                pool.command(command, **arguments)
        pool.signal(signal.SIGTTIN)
        pool.wait_for_log("the number of workers stays")
        pool.signal(signal.SIGHUP)
        pool.wait_for_log("this one follows")
        pool.write_app(changed("three"))
        (pool.folder / "gate").touch()
        pool.wait_for_log(SERVES)
        wait_until(lambda: main_pid(pool) and pool.status()["generation"] == 2, "a reload")
        wait_for_version(pool, "three")


def test_a_hup_that_came_during_an_upgrade_that_failed_is_done_here() -> None:
    with serving_pool() as pool:
        first = pool.pids()
        pool.write_app(gated("two") + BROKEN.replace("def", "raise ValueError #"))
        pool.signal(signal.SIGUSR2)
        pool.wait_for_file("at")
        pool.signal(signal.SIGHUP)
        pool.wait_for_log("this one follows")
        (pool.folder / "gate").touch()
        pool.wait_for_log("upgrade failed")
        pool.write_app(changed("three"))
        pool.wait_for_log("reload: generation 2")
        assert pool.status()["pid"] == pool.server.pid
        if pool.status()["last_reload"] is None or first & pool.pids():
            wait_until(lambda: pool.status()["last_reload"], "the reload is over")


def test_an_upgrade_waits_for_the_end_of_a_reload() -> None:
    with serving_pool() as pool:
        pool.write_app(gated("two"))
        pool.signal(signal.SIGHUP)
        pool.wait_for_file("at")
        pool.signal(signal.SIGUSR2)
        pool.wait_for_log("waits until no worker comes or goes")
        assert pool.status()["upgrading"]
        assert pool.status()["last_reload"] is None
        (pool.folder / "gate").touch()
        pool.wait_for_log(SERVES)
        wait_until(lambda: main_pid(pool) not in (0, pool.server.pid), "the new one answers")
        wait_for_version(pool, "two")


# Without a master


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
@pytest.mark.parametrize("via", ["tcp", "tls", "unix"])
def test_one_worker_is_replaced_under_load(via: str, number: signal.Signals) -> None:
    with serving_pool(workers=1, via=via) as pool, SteadyLoad(pool) as load:
        for times in (1, 2):
            load.wait_for_more()
            before = pool.body()
            pool.write_app(changed(f"version {times}"))
            pool.signal(number)
            pool.wait_for_log(SERVES, times)
            assert before != wait_for_version(pool, f"version {times}")
        load.wait_for_more()
        assert pool.server.process.poll() is None


@pytest.mark.parametrize("source", [BROKEN, "import os\nos._exit(7)\n"])
def test_one_worker_goes_on_when_the_new_code_does_not_start(source: str) -> None:
    with serving_pool(workers=1) as pool, SteadyLoad(pool):
        pool.write_app(source)
        pool.signal(signal.SIGHUP)
        pool.wait_for_log("upgrade failed, this process goes on")
        assert int(pool.body()) == pool.server.pid
        pool.write_app(changed("mended"))
        pool.signal(signal.SIGHUP)
        wait_until(lambda: pool.body("/version") == "mended", "the mended code serves")


def test_one_worker_may_become_a_pool_and_be_one_again() -> None:
    with serving_pool("--host", "127.0.0.1", workers=1, env={"POUNCE_X": ""}) as pool:
        file = pool.folder / "pounce.toml"
        with SteadyLoad(pool) as load:
            load.wait_for_more()
            file.write_text("supervise = true\n")
            pool.signal(signal.SIGHUP)
            pool.wait_for_log(SERVES)
            wait_until(lambda: main_pid(pool), "there is a control socket")
            load.wait_for_more()
            file.unlink()
            before = main_pid(pool)
            os.kill(before, signal.SIGUSR2)
            wait_until(lambda: not psutil.pid_exists(before), "the master is gone")
            load.wait_for_more()
            assert main_pid(pool) == 0


def test_requests_in_flight_in_one_worker_are_finished() -> None:
    with serving_pool(*GRACEFUL, workers=1) as pool:
        old = pool.server.pid
        with pool.hold("a") as busy:
            pool.signal(signal.SIGHUP)
            wait_until(lambda: int(pool.body()) != old, "another process serves")
            pool.go("a")
            assert int(busy.receive()[0].body) == old


def test_a_stop_of_one_worker_that_is_being_replaced_ends_both() -> None:
    with serving_pool(workers=1) as pool:
        pool.write_app(gated("two"))
        pool.signal(signal.SIGHUP)
        pool.wait_for_file("at")
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert is_free(pool.server.port)


def test_a_hangup_before_one_worker_serves_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(NEVER_STARTS)
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pounce", "app:app", "--port", "0", "--lifespan", "on"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=file,
        )
    try:
        wait_until((tmp_path / "starts").exists, "it starts")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "waits until" in log.read_text(), "the upgrade waits")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_a_stop_while_the_old_worker_drains_ends_both() -> None:
    with serving_pool(*GRACEFUL, workers=1) as pool, pool.hold("a") as busy:
        pool.signal(signal.SIGHUP)
        pool.wait_for_log(SERVES)
        pool.signal(signal.SIGTERM)
        wait_until(lambda: is_free(pool.server.port), "the new one is gone")
        pool.go("a")
        assert busy.receive()
        assert pool.server.wait() == 0
