"""The program and the system around it: addresses, pidfile, service manager, user and umask."""

from __future__ import annotations

import os
import signal
import socket
import stat
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.pool_process import serving_pool
from tests.integration.server_process import ServerProcess, run_pounce
from tests.integration.service_manager import Manager
from tests.waiting import PATIENCE, wait_until

APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    path = scope["path"]
    if path == "/write":
        with open(os.environ["WRITE_TO"], "w") as file:
            file.write("x")
    body = f"{os.getuid()} {os.getgid()} {sorted(os.getgroups())} {os.getpid()}".encode()
    if path == "/environment":
        body = " ".join(sorted(os.environ)).encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")

MODES = pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "pool"])


def get(url: str, path: str = "/") -> httpx.Response:
    if url.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=url.removeprefix("unix:"))
        with httpx.Client(transport=transport, trust_env=False, timeout=PATIENCE) as client:
            return client.get(f"http://localhost{path}")
    return httpx.get(url + path, trust_env=False, timeout=PATIENCE)


# Addresses


@MODES
def test_several_addresses_are_served_at_once(options: tuple[str, ...], tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    binds = ["127.0.0.1:0", "127.0.0.2:0", *(f"unix:{path}" for path in paths)]
    if socket.has_ipv6:
        binds.append("[::1]:0")
    arguments = [part for bind in binds for part in ("--bind", bind)]
    with ServerProcess(APP, *arguments, "--uds-permissions", "640", *options) as server:
        assert len(server.addresses) == len(binds)
        for url in server.addresses:
            assert get(url).status_code == 200
        for path in paths:
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not any(path.exists() for path in paths)


def test_addresses_exclude_what_else_says_where_to_listen() -> None:
    result = run_pounce("x:app", "--bind", "127.0.0.1:0", "--port", "1", "--uds", "/tmp/x")
    assert result.returncode == 2
    assert "bind and port exclude each other" in result.stderr
    assert "bind and uds exclude each other" in result.stderr


def test_what_is_no_address_is_one_clear_line() -> None:
    result = run_pounce("x:app", "--bind", "::1:8000")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "--bind: expected brackets around an IPv6 address" in line


@needs_root
@MODES
def test_the_socket_file_belongs_to_its_owner(options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    owner = ("--uds-owner", "nobody:65533")
    with ServerProcess(APP, "--uds", str(path), *owner, *options):
        status = path.stat()
        assert (status.st_uid, status.st_gid) == (65534, 65533)


def test_an_owner_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    result = run_pounce(
        "tests.integration.endpoint:missing",
        "--supervise",
        "--uds",
        str(tmp_path / "socket"),
        "--uds-owner",
        "no-such-user",
    )
    assert result.returncode != 0
    assert "user 'no-such-user' is unknown" in result.stderr


LAUNCHER = """
import os, socket, sys

os.environ.pop("POUNCE_PORT")
sockets = []
for number, name in enumerate(sys.argv[1].split(",")):
    sock = socket.socket(socket.AF_UNIX if "/" in name else socket.AF_INET)
    sock.bind(name if "/" in name else ("127.0.0.1", int(name)))
    sock.listen()
    sockets.append(sock)
kept = [os.dup(sock.fileno()) for sock in sockets]
kept = [__import__("fcntl").fcntl(fd, 1030, 50) for fd in kept]  # F_DUPFD_CLOEXEC, above 49
for number, fd in enumerate(kept):
    os.dup2(fd, 3 + number)
os.environ.update(
    LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES="web:admin"
)
os.execv(sys.executable, [sys.executable, "-m", "pounce", "app:app", *sys.argv[2:]])
"""


@MODES
def test_sockets_of_systemd_take_the_place_of_host_and_port(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "launch.py").write_text(LAUNCHER)
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    path = tmp_path / "socket"
    with ServerProcess("launch.py", f"0,{path}", *options, cwd=tmp_path) as server:
        tcp, unix = server.addresses
        assert unix == f"unix:{path}"
        for url in (tcp, unix):
            assert get(url).status_code == 200
        names = get(tcp, "/environment").text.split()
        assert not [name for name in names if name.startswith("LISTEN_")]
    path.unlink()  # it was systemd's, and so it was left where it is


def test_a_chosen_address_is_served_beside_those_of_systemd(tmp_path: Path) -> None:
    (tmp_path / "launch.py").write_text(LAUNCHER)
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    with ServerProcess("launch.py", "0", "--bind", "127.0.0.2:0", cwd=tmp_path) as server:
        assert len(server.addresses) == 2
        for url in server.addresses:
            assert get(url).status_code == 200


# The pidfile


@MODES
def test_the_pidfile_names_the_program_while_it_runs(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    with ServerProcess(APP, "--pidfile", str(path), *options) as server:
        assert path.read_text() == f"{server.pid}\n"
        second = run_pounce("examples.demo:app", "--port", "0", "--pidfile", str(path), *options)
        assert second.returncode != 0
        assert f"belongs to a running server (pid {server.pid})" in second.stderr
        assert path.read_text() == f"{server.pid}\n"
    assert not path.exists()


# The user


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with the application that every user can read."""
    with tempfile.TemporaryDirectory(prefix="pounce-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "app.py").write_text(textwrap.dedent(APP))
        yield folder


@needs_root
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one", "two"])
def test_workers_run_as_the_user_and_the_master_does_not(
    options: tuple[str, ...], open_folder: Path
) -> None:
    identity = ("--user", "nobody", "--group", "65533")
    with ServerProcess("app:app", *identity, *options, cwd=open_folder) as server:
        uid, gid, rest = get(server.url).text.split(" ", 2)
        assert (uid, gid) == ("65534", "65533")
        assert "0" not in rest.split("]")[0].strip("[").split(", ")
        assert psutil.Process(server.pid).uids().real == 0
        for worker in psutil.Process(server.pid).children():
            with suppress(psutil.NoSuchProcess):  # a helper that has ended meanwhile
                if worker.name().startswith("pounce: w"):
                    assert set(worker.uids()) == {65534}


@needs_root
def test_a_reload_and_a_crash_bring_workers_of_the_same_user(open_folder: Path) -> None:
    code = ("--app-dir", str(open_folder))
    with serving_pool("--user", "nobody", *code, app="") as pool:
        before = pool.pids()
        assert pool.reload_and_wait()["result"] == "succeeded"
        after = pool.wait_for_workers(2, without=before)
        for pid in after:
            assert psutil.Process(pid).uids().effective == 65534
            os.kill(pid, signal.SIGKILL)
        for pid in pool.wait_for_workers(2, without=after):
            assert psutil.Process(pid).uids().effective == 65534


def test_a_user_that_does_not_exist_is_one_clear_line() -> None:
    result = run_pounce("examples.demo:app", "--port", "0", "--user", "no-such-user")
    assert result.returncode != 0
    [line] = [line for line in result.stderr.splitlines() if "error" in line]
    assert "there is no user 'no-such-user'" in line


@MODES
def test_new_files_get_what_the_umask_leaves(options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "written"
    with ServerProcess(APP, "--umask", "027", *options, env={"WRITE_TO": str(path)}) as server:
        get(server.url, "/write")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


# The service manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path / "notify") as found:
        yield found


@MODES
def test_the_service_manager_is_told_when_it_is_true(
    options: tuple[str, ...], manager: Manager
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(
            ServerProcess(APP, *options, env={"NOTIFY_SOCKET": str(manager.path)})
        )
        manager.wait_for("READY")
        assert "NOTIFY_SOCKET" not in get(server.url, "/environment").text.split()
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        manager.wait_for("READY", "STOPPING")


def test_ready_is_not_told_before_every_worker_serves(manager: Manager) -> None:
    slow = """
import os, time
try:
    os.close(os.open("first", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
    with ExitStack() as stack:
        folder = manager.path.parent
        (folder / "app.py").write_text(slow + textwrap.dedent(APP))
        env = {"NOTIFY_SOCKET": str(manager.path)}
        arguments = ("--workers", "2", "--port", "0", "--log-level", "warning")
        server = stack.enter_context(ServerProcess("app:app", *arguments, env=env, cwd=folder))
        assert get(server.url).status_code == 200  # one of the two serves
        assert manager.states() == []
        (folder / "go").touch()
        manager.wait_for("READY")


def test_a_reload_is_told_from_its_begin_to_its_end(manager: Manager) -> None:
    with serving_pool(env={"NOTIFY_SOCKET": str(manager.path)}) as pool:
        manager.wait_for("READY")
        assert pool.reload_and_wait()["result"] == "succeeded"
        manager.wait_for("READY", "RELOADING", "READY")
        assert "MONOTONIC_USEC" in manager.messages[1]
        pool.write_app("this is no Python")
        assert pool.reload_and_wait()["result"] == "failed"
        manager.wait_for("READY", "RELOADING", "READY", "RELOADING", "READY")
        assert "failed" in manager.messages[-1]["STATUS"]


@MODES
def test_signs_of_life_come_while_a_watchdog_waits_for_them(
    options: tuple[str, ...], manager: Manager
) -> None:
    env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"}
    with ServerProcess(APP, *options, env=env):
        wait_until(
            lambda: sum("WATCHDOG" in message for message in manager.read()) >= 3,
            "three signs of life",
        )
