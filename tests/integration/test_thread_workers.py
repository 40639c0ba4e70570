"""Workers that are threads: what differs from processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import ssl
import subprocess
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.integration.endpoint import Certificates, Connection, get
from tests.integration.pool_process import APP, GRACEFUL, Pool, serving_pool
from tests.integration.server_process import ServerProcess, run_pounce
from tests.integration.worker_modes import PROCESS, THREAD, Mode, free_threaded
from tests.waiting import PATIENCE, wait_until

STATE = """
import threading

shared = object()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started in"] = threading.current_thread().name
        scope["state"]["shared"] = shared
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down in", threading.current_thread().name, flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    state = scope["state"]
    assert state["shared"] is shared
    assert "request" not in state
    state["request"] = 1
    body = f"{state['started in']} {threading.current_thread().name}".encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""


def test_the_application_is_there_once_and_so_is_its_lifespan(thread_mode: Mode) -> None:
    with serving_pool(app=STATE, mode=thread_mode) as pool:
        assert not psutil.Process(pool.server.pid).children()
        seen: set[str] = set()

        def both() -> bool:
            seen.add(pool.body())
            return len(seen) == 2

        wait_until(both, "both workers answer")
        assert seen == {"MainThread worker-1", "MainThread worker-2"}
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert pool.server.stdout_text() == "shut down in MainThread\n"
        log = pool.server.stderr_text()
        assert "2 workers (thread)" in log
        # Where threads take turns it says so, once.
        assert log.count("take turns") == (thread_mode == THREAD)


def test_context_variables_of_the_import_are_there(mode: Mode) -> None:
    app = "import contextvars\nVARIABLE = contextvars.ContextVar('v')\nVARIABLE.set('set')\n" + APP
    app = app.replace("body = VERSION", "body = VARIABLE.get()")
    with serving_pool(app=app, mode=mode) as pool:
        for _ in range(4):
            assert pool.body("/version") == "set"


def test_the_lifespan_shuts_down_after_the_last_request(thread_mode: Mode) -> None:
    with serving_pool(mode=thread_mode) as pool, pool.hold("a") as busy:
        pool.signal(signal.SIGTERM)
        wait_until(pool.is_refused, "new connections are refused")
        assert not pool.noted("lifespan.shutdown")
        pool.go("a")
        assert busy.receive()[0].status == 200
        assert pool.server.wait() == 0
        assert len(pool.noted("lifespan.shutdown")) == 1


def test_a_stop_while_the_application_starts(thread_mode: Mode, short_tmp_path: Path) -> None:
    starting = (
        '(HERE / "starts").touch()\n            await asyncio.sleep(600)\n            await send({'
    )
    (short_tmp_path / "app.py").write_text(APP.replace("await send({", starting, 1))
    process = subprocess.Popen(
        [
            *(thread_mode.python, "-m", "pounce", "app:app", "--workers", "2", "--port", "0"),
            *("--control-socket", "off", *thread_mode.options),
        ],
        cwd=short_tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until((short_tmp_path / "starts").exists, "the application starts")
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "is ready" not in log


def test_a_reload_is_a_new_process(thread_mode: Mode) -> None:
    with serving_pool(*GRACEFUL, mode=thread_mode) as pool:
        first = pool.status()["pid"]
        with pool.hold("a") as busy:
            pool.write_app(APP.replace('"one"', '"two"'))
            pool.signal(signal.SIGHUP)
            wait_until(lambda: pool.body("/version") == "two", "the new code serves")
            # What is in flight is finished by the old code.
            pool.go("a")
            assert busy.receive()[0].status == 200
        wait_until(lambda: pool.noted("lifespan.shutdown") == [first], "the old process leaves")
        pool.write_app(APP.replace('"one"', '"three"'))
        assert pool.reload_and_wait()["result"] == "succeeded"
        wait_until(lambda: pool.body("/version") == "three", "the newest code serves")
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert len(pool.noted("lifespan.shutdown")) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("def app(:\n", "SyntaxError", id="syntax error"),
        pytest.param(
            APP.replace('await send({"type": kind + ".complete"})', "raise ValueError('no db')"),
            "no db",
            id="failed startup",
        ),
    ],
)
def test_code_that_does_not_start_changes_nothing(
    source: str, said: str, thread_mode: Mode
) -> None:
    with serving_pool(mode=thread_mode) as pool:
        first = pool.pids()
        pool.write_app(source)
        outcome = pool.reload_and_wait()
        assert outcome["result"] == "failed"
        assert said in outcome["reason"]
        assert pool.wait_for_workers(2) == first == pool.served_by(2)


def test_workers_that_have_left_come_back(thread_mode: Mode) -> None:
    with serving_pool(mode=thread_mode) as pool:
        first = pool.pids()
        pool.signal(signal.SIGWINCH)
        wait_until(lambda: not pool.workers(None), "all workers have left")
        pool.command("scale", workers=2)
        assert pool.served_by(2) == pool.wait_for_workers(2, without=first)


def test_a_worker_that_is_stuck_is_written_off_and_its_slot_serves(thread_mode: Mode) -> None:
    with (
        serving_pool("--timeout-graceful-shutdown", "1s", mode=thread_mode) as pool,
        pool.connect() as blocked,
    ):
        first = pool.pids()
        blocked.send(get("/block"))
        pool.wait_for_file("blocks")
        for worker in pool.workers():
            pool.command("restart-worker", worker_id=worker["worker_id"])
        pool.wait_for_log("does not end")
        second = pool.wait_for_workers(2, without=first)
        assert pool.served_by(2) == second
        assert blocked.is_silent()
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0


def test_a_worker_that_is_stuck_in_a_closed_slot_holds_up_no_reload() -> None:
    with (
        serving_pool("--timeout-graceful-shutdown", "1s", mode=THREAD) as pool,
        contextlib.ExitStack() as stack,
    ):
        highest = max(pool.workers(), key=lambda worker: worker["slot"])["pid"]

        def connection_to_it() -> Connection | None:
            connection = stack.enter_context(pool.connect())
            return connection if int(connection.ask(get("/")).body) == highest else None

        blocked = wait_until(connection_to_it, "the worker answers")
        assert blocked is not None
        blocked.send(get("/block"))
        pool.wait_for_file("blocks")
        pool.command("scale", workers=1)
        pool.wait_for_log("does not end")
        pool.write_app(APP.replace('"one"', '"two"'))
        assert pool.reload_and_wait()["result"] == "succeeded"
        wait_until(lambda: pool.body("/version") == "two", "the new code serves")


def test_a_thread_of_the_application_does_not_hold_up_the_end(thread_mode: Mode) -> None:
    app = APP.replace(
        'case ["block"]:\n            (HERE / "blocks").touch()',
        'case ["block"]:\n            (HERE / "blocks").touch()\n'
        "            await asyncio.to_thread(time.sleep, 600)",
    )
    with (
        serving_pool("--timeout-graceful-shutdown", "1s", app=app, mode=thread_mode) as pool,
        pool.connect() as blocked,
    ):
        blocked.send(get("/block"))
        pool.wait_for_file("blocks")
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        pool.wait_for_log("go on: ending without them")


def test_logs_are_reopened(thread_mode: Mode) -> None:
    with serving_pool("--access-log-file", "access.log", mode=thread_mode) as pool:
        pool.served_by(2)
        log, moved = pool.folder / "access.log", pool.folder / "moved.log"
        log.rename(moved)
        pool.signal(signal.SIGUSR1)
        wait_until(log.exists, "there is a new file")
        rounds = itertools.count()

        def both_write_to_it() -> bool:
            pool.served_by(2)
            paths = [f"/{next(rounds)}" for _ in range(20)]
            for path in paths:
                pool.body(path)

            def are_written() -> bool:
                written = log.read_text() + moved.read_text()
                return all(f"GET {path} " in written for path in paths)

            wait_until(are_written, "all lines are somewhere")
            return not any(f"GET {path} ".encode() in moved.read_bytes() for path in paths)

        wait_until(both_write_to_it, "nothing goes to the old file")


def test_certificates_are_renewed(thread_mode: Mode, short_tmp_path: Path) -> None:
    with serving_pool("--ssl-refresh-interval", "50ms", via="tls", mode=thread_mode) as pool:

        def served() -> set[str]:
            found = set[str]()
            for _ in range(10):
                found.add(ssl.get_server_certificate(("127.0.0.1", pool.server.port)))
            return found

        [old] = served()
        Certificates(pool.folder)
        wait_until(lambda: old not in served(), "every worker has the new one")


def test_workers_that_are_gone_leave_nothing(thread_mode: Mode) -> None:
    with serving_pool("--max-requests", "5", mode=thread_mode) as pool:
        pool.served_by(2)
        process = psutil.Process(pool.server.pid)
        before = process.num_fds()

        def replaced() -> bool:
            for _ in range(20):
                pool.body()
            return pool.server.stderr_text().count("is replaced by") >= 6

        wait_until(replaced, "workers come and go")
        pool.wait_for_workers(2)
        # Channels, sentinels, event loops, logs and sockets are closed: three times two have gone.
        wait_until(lambda: process.num_fds() < before + 10, "their descriptors are closed")
        wait_until(lambda: process.num_threads() < 10, "threads are gone")


def test_an_extension_that_needs_the_gil_makes_workers_processes(short_tmp_path: Path) -> None:
    mode = free_threaded()
    # What the interpreter says when a module that needs the GIL has been imported.
    app = "import sys\nsys._is_gil_enabled = lambda: True\n" + APP
    with serving_pool(app=app, mode=mode) as pool:
        pool.wait_for_log("turned the GIL on: workers are processes")
        assert "2 workers (process)" in pool.server.stderr_text()
        assert len(psutil.Process(pool.server.pid).children()) >= 2
        assert pool.served_by(2) == pool.pids()


@pytest.mark.parametrize("option", ["--worker-mode", "--lifespan"])
def test_rights_of_workers_alone_are_refused(option: str) -> None:
    value = "thread" if option == "--worker-mode" else "main"
    ended = run_pounce("a:b", option, value, "--user", "nobody", "--port", "0")
    assert ended.returncode == 2
    assert "excludes user and group" in ended.stderr


SCRIPT = """
import os
import pounce
from app import app

if __name__ == "__main__":
    pounce.run(app, workers=2, worker_mode="thread", control_socket=os.environ["CONTROL"])
"""


def test_an_application_object(thread_mode: Mode, short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text(textwrap.dedent(APP))
    script = short_tmp_path / "serve.py"
    script.write_text(SCRIPT)
    env = {"CONTROL": str(short_tmp_path / "control"), "PYTHONPATH": os.getcwd()}
    with ServerProcess(
        str(script), env=env, cwd=short_tmp_path, python=thread_mode.python
    ) as server:
        pool = Pool(server, short_tmp_path)
        assert pool.served_by(2) == pool.pids()
        assert pool.noted("imports") == [server.pid]


# A lifespan that runs once

COUNTED = """
import os
import time


class Settings:
    def __init__(self, pid):
        self.pid = pid


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["settings"] = Settings(os.getpid())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down in", os.getpid(), flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"{scope['state']['settings'].pid} {os.getpid()}".encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""


def test_a_lifespan_of_the_main_process(mode: Mode) -> None:
    with serving_pool("--lifespan", "main", app=COUNTED, mode=mode) as pool:
        pid = str(pool.server.pid)
        started, answered = pool.body().split()
        assert started == pid
        assert (answered == pid) is mode.has_threads
        if mode == PROCESS:
            first = pool.pids()
            os.kill(min(first), signal.SIGKILL)
            pool.wait_for_workers(2, without={min(first)})
            assert pool.body().split()[0] == pid
        assert pool.reload_and_wait()["result"] == "succeeded"
        wait_until(lambda: pid in pool.server.stdout_text(), "the lifespan shuts down")
        # The workers of before have gone by then.
        last = pool.body().split()[0]
        assert last != pid
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert pool.server.stdout_text() == f"shut down in {pid}\nshut down in {last}\n"


def test_a_delay_before_the_end_takes_nothing_from_the_lifespan() -> None:
    slow = COUNTED.replace(
        'print("shut', 'await __import__("asyncio").sleep(4)\n        print("shut'
    )
    options = ("--lifespan", "main", "--shutdown-delay", "7s", "--timeout-graceful-shutdown", "10s")
    with serving_pool(*options, app=slow, mode=PROCESS) as pool:
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0
        assert "shut down in" in pool.server.stdout_text()


def test_a_state_that_cannot_be_sent(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text(COUNTED.replace("Settings(os.getpid())", "receive"))
    ended = run_pounce(
        *("app:app", "--workers", "2", "--port", "0", "--control-socket", "off"),
        *("--lifespan", "main"),
        cwd=short_tmp_path,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 3
    assert "giving up: lifespan main: the state 'settings' cannot be sent" in ended.stderr
    assert "shut down in" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_a_startup_that_does_not_end(short_tmp_path: Path) -> None:
    (short_tmp_path / "app.py").write_text(
        COUNTED.replace("await receive()", "await __import__('asyncio').sleep(600)")
    )
    ended = run_pounce(
        *("app:app", "--workers", "2", "--port", "0", "--control-socket", "off"),
        *("--lifespan", "main", "--timeout-worker-boot", "200ms"),
        cwd=short_tmp_path,
        env={"PYTHONPATH": os.getcwd()},
    )
    assert ended.returncode == 3
    assert "application startup did not finish within 0.2 s" in ended.stderr
