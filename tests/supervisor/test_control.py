"""The control socket: commands are answered, and no client harms the master or another one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pounce.errors import SupervisorError
from pounce.supervisor import control as module
from pounce.supervisor import control_paths
from pounce.supervisor.control import ControlServer, start_control_server
from pounce.supervisor.control_messages import MAX_REQUEST, ControlError, encode_request
from tests.waiting import PATIENCE, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")

STATUS = encode_request("status", {})
TIMEOUT = PATIENCE


@pytest.fixture
def path(short_tmp_path: Path) -> Path:
    return short_tmp_path / "1.ctl"


async def echo(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"command": command, **arguments}


class Client:
    """A connection that may do what `pounce ctl` never does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def send_eof(self) -> None:
        self._writer.write_eof()

    async def answer(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self._reader.readline(), TIMEOUT)
        assert line.endswith(b"\n"), line
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def error(self) -> str:
        answer = await self.answer()
        assert answer.keys() == {"ok", "error"}
        assert answer["ok"] is False
        return str(answer["error"])

    async def result(self) -> Any:
        answer = await self.answer()
        assert answer.keys() == {"ok", "result"}
        assert answer["ok"] is True
        return answer["result"]

    async def has_ended(self) -> bool:
        """Whether nothing more comes, at the end of the connection."""
        try:
            return await asyncio.wait_for(self._reader.read(), TIMEOUT) == b""
        except ConnectionResetError:
            return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


@contextlib.asynccontextmanager
async def connected(server: ControlServer) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_unix_connection(server.path))
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def sending(server: ControlServer, data: bytes) -> AsyncIterator[Client]:
    """A client whose data is there when the server accepts it: no deadline comes before."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(server.path))
    sock.sendall(data)
    client = Client(*await asyncio.open_unix_connection(sock=sock))
    try:
        yield client
    finally:
        await client.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def number_of_clients(server: ControlServer) -> int:
    return int(repr(server).split()[-2])


def exists(path: Path) -> bool:
    return path.exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def serving(
    handler: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]], path: Path
) -> Callable[[Callable[[ControlServer], Awaitable[None]]], None]:
    """Runs the decorated test beside a server."""

    def run(test: Callable[[ControlServer], Awaitable[None]]) -> None:
        async def main() -> None:
            async with ControlServer(path, handler) as server:
                await test(server)

        asyncio.run(main())

    return run


# Commands and answers


def test_a_command_is_answered_by_the_handler(path: Path) -> None:
    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(encode_request("scale", {"workers": 3}))
            assert await client.result() == {"command": "scale", "workers": 3}


def test_a_connection_carries_several_commands_one_after_the_other(path: Path) -> None:
    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(STATUS)
            assert await client.result() == {"command": "status"}
            await client.send(STATUS + encode_request("stop", {}) + STATUS[:5])
            assert await client.result() == {"command": "status"}
            assert await client.result() == {"command": "stop", "now": False}
            await client.send(STATUS[5:])
            assert await client.result() == {"command": "status"}
            client.send_eof()
            assert await client.has_ended()


def test_a_client_that_has_said_all_gets_its_answer(path: Path) -> None:
    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(STATUS)
            client.send_eof()
            assert await client.result() == {"command": "status"}
            assert await client.has_ended()


def test_one_that_waits_does_not_keep_others_waiting(path: Path) -> None:
    release = asyncio.Event()

    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "reload":
            await release.wait()
        return {}

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as first, connected(server) as second:
            await first.send(encode_request("reload", {}))
            await second.send(STATUS)
            assert await second.result() == {}
            release.set()
            assert await first.result() == {}


def test_a_long_answer_arrives_whole(path: Path) -> None:
    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * 60_000}

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(STATUS)
            assert len((await client.result())["text"]) == 60_000


# Faults of the handler


def test_a_refusal_of_the_handler_is_told(path: Path) -> None:
    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        raise SupervisorError("not while the server stops")

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            for _ in range(2):
                await client.send(STATUS)
                assert await client.error() == "not while the server stops"


@pytest.mark.parametrize("fault", ["raise", "no json"])
def test_a_fault_of_the_handler_is_logged_and_not_shown(
    path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if fault == "raise":
            raise TimeoutError("secret detail")
        return {"secret detail": object()}

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            for _ in range(2):
                await client.send(STATUS)
                assert await client.error() == "internal error, see the log of the server"

    assert [record.message for record in caplog.records] == ["A control command failed"] * 2
    assert all(record.exc_info for record in caplog.records)


# Bad clients


def test_bad_input_is_refused_and_the_next_command_done(path: Path) -> None:
    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(b"GET / HTTP/1.1\r\n")
            assert await client.error() == "not a line of JSON"
            await client.send(b'{"version": 7}\n')
            assert await client.error() == "this server speaks version 1 of the control protocol"
            await client.send(b"\xff" * 100 + b"\n")
            assert await client.error() == "not a line of JSON"
            await client.send(encode_request("scale", {"workers": 0}))
            assert await client.error() == "workers must be a whole number of at least 1"
            await client.send(STATUS)
            assert await client.result() == {"command": "status"}


def test_the_longest_line_is_read_and_a_longer_one_is_not(path: Path) -> None:
    longest = b" " * (MAX_REQUEST - len(STATUS)) + STATUS
    assert len(longest) == MAX_REQUEST

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        too_long = f"a command takes at most {MAX_REQUEST} bytes"
        async with connected(server) as client:
            await client.send(longest)
            assert await client.result() == {"command": "status"}
            await client.send(b" " + longest)
            assert await client.error() == too_long
            assert await client.has_ended()
        async with connected(server) as client:
            await client.send(b"x" * MAX_REQUEST)
            assert await client.error() == too_long
            assert await client.has_ended()


def test_a_line_that_does_not_end_is_no_command(path: Path) -> None:
    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(STATUS.rstrip())
            client.send_eof()
            assert await client.error() == "the line does not end"
            assert await client.has_ended()


def test_a_silent_client_is_sent_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT", 0.05)

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as silent, sending(server, STATUS[:-1]) as slow:
            for client in (silent, slow):
                assert await client.error() == "no command came within 0.05 s"
                assert await client.has_ended()


def test_a_command_may_take_longer_than_a_client_may_be_silent(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT", 0.5)

    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(1)
        return {}

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        async with sending(server, STATUS) as client:
            assert await client.result() == {}


def test_a_client_that_does_not_read_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT", 0.1)
    asked: list[str] = []

    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        asked.append(command)
        return {"text": "x" * 8_000_000}

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(STATUS)
            await until(lambda: bool(asked))
            await until(lambda: number_of_clients(server) == 0)


def test_a_client_that_has_left_is_no_fault(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left, handled = asyncio.Event(), asyncio.Event()

    async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "reload":
            await left.wait()
            handled.set()
        return {}

    @serving(handle, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(encode_request("reload", {}))
        left.set()
        await asyncio.wait_for(handled.wait(), TIMEOUT)
        async with connected(server) as client:
            await client.send(STATUS)
            assert await client.result() == {}

    assert caplog.records == []


def test_too_many_clients_are_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 2)

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as first:
            async with connected(server) as second:
                for client in (first, second):
                    await client.send(STATUS)
                    await client.result()
                async with connected(server) as third:
                    assert await third.error() == "too many clients at once"
                    assert await third.has_ended()
            await until(lambda: number_of_clients(server) == 1)
            async with connected(server) as fourth:
                await fourth.send(STATUS)
                assert await fourth.result() == {"command": "status"}


# Who may talk to it


def test_the_socket_is_open_to_its_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:

        @serving(echo, path)
        async def run(server: ControlServer) -> None:
            assert mode_of(path) == 0o600

    finally:
        os.umask(before)


@pytest.mark.parametrize("uid", [0, None, "own"])
def test_root_and_the_owner_may_use_it(
    path: Path, uid: int | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = os.geteuid() if uid == "own" else uid
    monkeypatch.setattr(module, "peer_uid", lambda sock: peer)

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(STATUS)
            assert await client.result() == {"command": "status"}


@needs_root
def test_another_user_is_refused_even_where_the_mode_is_opened(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = (
        "import os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX)\n"
        "os.setgroups([]); os.setgid(3456789); os.setuid(3456789)\n"
        "sock.connect(sys.argv[1])\n"
        "sock.settimeout(10)\n"
        "print(sock.recv(4096).decode().strip(), sock.recv(1))\n"
    )

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        os.chmod(path.parent, 0o755)
        os.chmod(path, 0o666)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdout=subprocess.PIPE
        )
        told, _ = await process.communicate()
        assert process.returncode == 0
        message = "only the user of the server and root may control it"
        assert told.decode().strip() == json.dumps({"ok": False, "error": message}) + " b''"

    assert caplog.messages == ["User 3456789 was refused at the control socket"]


def test_a_client_whose_user_cannot_be_told_any_more_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peer_uid(sock: socket.socket) -> int:
        raise OSError(errno.ENOTCONN, "not connected")

    monkeypatch.setattr(module, "peer_uid", peer_uid)

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            assert await client.has_ended()


# Beginning and end


def test_the_socket_is_gone_at_the_end_and_clients_are_let_go(path: Path) -> None:
    async def main() -> None:
        server = ControlServer(path, echo)
        await server.start()
        async with connected(server) as idle, connected(server) as fresh:
            await idle.send(STATUS)
            await idle.result()
            await server.close()
            assert not exists(path)
            assert await idle.has_ended()
            assert await fresh.has_ended()
        await server.close()
        assert repr(server) == f"<ControlServer {path} closed>"

    asyncio.run(main())


def test_a_client_that_came_just_before_the_end_is_let_go(path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            async with ControlServer(path, echo) as server:
                client.connect(str(path))
                await until(lambda: number_of_clients(server) == 1)
            client.settimeout(TIMEOUT)
            assert client.recv(1) == b""

    asyncio.run(main())


def test_an_answer_under_way_is_finished_before_the_end(path: Path) -> None:
    async def main() -> None:
        begun, release = asyncio.Event(), asyncio.Event()

        async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
            begun.set()
            await release.wait()
            return {"done": True}

        server = ControlServer(path, handle)
        await server.start()
        async with connected(server) as client:
            await client.send(STATUS + STATUS)
            await begun.wait()
            closing = asyncio.create_task(server.close())
            await asyncio.sleep(0)
            release.set()
            assert await client.result() == {"done": True}
            assert await client.has_ended()
            await closing

    asyncio.run(main())


def test_who_waits_for_too_long_is_told_of_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_GRACE", 0.05)

    async def main() -> None:
        begun = asyncio.Event()

        async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        server = ControlServer(path, handle)
        await server.start()
        async with connected(server) as client:
            await client.send(encode_request("reload", {}))
            await begun.wait()
            await server.close()
            assert await client.error() == "the server stops"
            assert await client.has_ended()

    asyncio.run(main())


def test_a_handler_may_close_the_server(path: Path) -> None:
    async def main() -> None:
        async def handle(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
            await server.close()
            return {"stopping": True}

        server = ControlServer(path, handle)
        await server.start()
        async with connected(server) as client:
            await client.send(encode_request("stop", {}))
            assert await client.result() == {"stopping": True}
            assert await client.has_ended()

    asyncio.run(main())


def test_a_relative_path_outlives_a_change_of_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)

    async def main() -> None:
        async with ControlServer(path.name, echo) as server:
            os.chdir("/")
            assert server.path == path
        assert not exists(path)

    asyncio.run(main())


# What is in the place of the socket


def start_fails(path: Path) -> str:
    async def main() -> str:
        with pytest.raises(ControlError) as caught:
            await ControlServer(path, echo).start()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return asyncio.run(main())


def test_the_socket_of_a_live_server_stays(path: Path) -> None:
    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        with pytest.raises(ControlError, match=r"^a server answers on .*1\.ctl$"):
            await ControlServer(path, echo).start()
        async with connected(server) as client:
            await client.send(STATUS)
            assert await client.result() == {"command": "status"}


def test_the_socket_of_a_dead_server_gives_way(path: Path) -> None:
    for name in (path, f"{path}.new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(name))
            dead.listen(1)

    @serving(echo, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            await client.send(STATUS)
            assert await client.result() == {"command": "status"}

    assert os.listdir(path.parent) == []


def test_a_file_is_not_replaced(path: Path) -> None:
    path.write_text("precious")
    assert start_fails(path) == f"{path} exists and is not a socket"
    assert path.read_text() == "precious"


def test_a_place_that_cannot_be_used_is_named(path: Path) -> None:
    nowhere = path.parent / "none" / "1.ctl"
    assert start_fails(nowhere) == (
        f"control socket {nowhere} cannot be made: No such file or directory"
    )
    below_file = path / "1.ctl"
    path.touch()
    assert start_fails(below_file) == (
        f"control socket {below_file} cannot be made: Not a directory"
    )
    long = path.parent / ("x" * 100)
    assert start_fails(long) == f"{long} is too long for a Unix socket"
    assert os.listdir(path.parent) == ["1.ctl"]


def test_the_next_master_takes_the_place_of_the_old_one(path: Path) -> None:
    async def old(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"old": True}

    @serving(old, path)
    async def run(server: ControlServer) -> None:
        async with connected(server) as client:
            successor = ControlServer(path, echo)
            await successor.start(take_over=True)
            async with connected(successor) as new:
                await new.send(STATUS)
                assert await new.result() == {"command": "status"}
            await client.send(STATUS)
            assert await client.result() == {"old": True}
        await server.close()
        assert exists(path)
        await successor.close()
        assert not exists(path)


# Without a path of its own


@pytest.fixture
def places(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory; what is taken for /tmp does not exist."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp_path))
    monkeypatch.setattr(control_paths, "TEMPORARY", short_tmp_path / "none")
    return short_tmp_path


def test_off_is_no_socket(places: Path) -> None:
    assert asyncio.run(start_control_server("off", echo)) is None
    assert os.listdir(places) == []


def test_by_itself_it_is_in_a_private_place_under_the_pid(places: Path) -> None:
    async def main() -> None:
        server = await start_control_server("auto", echo)
        assert server is not None
        assert server.path == places / "pounce" / f"{os.getpid()}.ctl"
        assert mode_of(server.path.parent) == 0o700
        async with connected(server) as client:
            await client.send(STATUS)
            assert await client.result() == {"command": "status"}
        await server.close()
        assert os.listdir(server.path.parent) == []

    asyncio.run(main())


def test_what_killed_masters_have_left_is_removed_and_live_ones_stay(places: Path) -> None:
    folder = places / "pounce"
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "4000001.ctl"))
        dead.listen(1)

    async def main() -> None:
        async with ControlServer(folder / "4000002.ctl", echo) as other:
            server = await start_control_server("auto", echo)
            assert server is not None
            assert sorted(os.listdir(folder)) == sorted([other.path.name, server.path.name])
            await server.close()

    asyncio.run(main())


def test_a_path_of_ones_own_is_used(path: Path) -> None:
    async def main() -> None:
        server = await start_control_server(str(path), echo)
        assert server is not None
        assert server.path == path
        await server.close()

    asyncio.run(main())


def test_a_path_of_ones_own_must_work(path: Path) -> None:
    path.touch()
    with pytest.raises(ControlError, match=r"exists and is not a socket$"):
        asyncio.run(start_control_server(str(path), echo))


def test_without_any_place_the_server_runs_without_a_socket(
    places: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (places / "pounce").touch()
    assert asyncio.run(start_control_server("auto", echo)) is None
    (message,) = caplog.messages
    assert message.startswith("There is no control socket for pounce ctl: ")


# Processes of their own

FORKING = """
import asyncio, os, sys
from pounce.supervisor.control import ControlServer

async def handle(command, arguments):
    return {}

async def main():
    server = ControlServer(sys.argv[1], handle)
    await server.start()
    reader, writer = await asyncio.open_unix_connection(sys.argv[1])
    writer.write(b'{"version": 1, "command": "status"}\\n')
    await reader.readline()
    worker = os.fork()
    if worker == 0:
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    # What the worker did to its copies has not disturbed the master.
    writer.write(b'{"version": 1, "command": "status"}\\n')
    assert await reader.readline() == b'{"ok": true, "result": {}}\\n'
    print(worker, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_a_forked_worker_does_not_keep_the_socket_of_a_killed_master_alive(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as master:
        assert master.stdin is not None
        assert master.stdout is not None
        worker = int(master.stdout.readline())
        wait_until(lambda: master.poll() is not None, "the master is dead")
        assert exists(path)
        # The master may be gone before the worker has had a turn.
        wait_until(lambda: not control_paths.is_answered(path), "nobody answers")
        os.kill(worker, 0)
        master.stdin.close()
    path.unlink()


FULL_TABLE = """
import asyncio, os, resource, socket, sys
from pounce.supervisor import control

control.ACCEPT_PAUSE = 0.05

async def handle(command, arguments):
    return {}

async def main():
    async with control.ControlServer(sys.argv[1], handle):
        client = socket.socket(socket.AF_UNIX)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, hard))
        client.connect(sys.argv[1])
        client.send(b'{"version": 1, "command": "status"}\\n')
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        reading = asyncio.create_task(loop.sock_recv(client, 4096))
        done, _ = await asyncio.wait([reading], timeout=0.2)
        print(len(done))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        print((await asyncio.wait_for(reading, 10)).decode())
        client.close()

asyncio.run(main())
"""


def test_a_full_table_of_descriptors_makes_clients_wait_and_nothing_else(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_TABLE, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:2] == ["0", '{"ok": true, "result": {}}'], done.stderr
    assert "The control socket cannot accept: Too many open files" in done.stderr
    assert done.returncode == 0
