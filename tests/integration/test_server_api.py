"""`pounce.run` and `Server`, as a program that embeds them uses them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pounce
from pounce import AppLoadError, BindError, ConfigError, LifespanError, Server, ServerConfig
from pounce.asgi.types import Receive, Scope, Send
from tests.integration.endpoint import get
from tests.integration.server_process import ROOT
from tests.integration.server_thread import LoggerState, ServerThread
from tests.integration.steered_app import app
from tests.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    state = LoggerState()
    yield
    state.restore()


def quiet(**options: Any) -> ServerConfig:
    defaults: dict[str, Any] = {"port": 0, "access_log": False, "log_level": "error"}
    return ServerConfig(**(defaults | options))


async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"served"})


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_it_serves_until_it_is_shut_down_from_another_thread(loop: str) -> None:
    with ServerThread(app, loop=loop) as thread:
        server = thread.server
        host, port = thread.address
        assert host == "127.0.0.1"
        assert port > 0
        assert thread.ask(get("/x")).body == b"/x"
        thread.stop()
        server.shutdown()
        assert server.bound_addr is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port), 5)


def test_bound_addr_of_each_kind_of_socket(short_tmp_path: Path) -> None:
    server = Server(quiet(), app)
    assert server.bound_addr is None
    path = str(short_tmp_path / "s")
    with ServerThread(app, uds=path) as thread:
        assert thread.server.bound_addr == (path, 0)
        assert thread.ask(get("/unix")).body == b"/unix"
    assert not os.path.exists(path)
    with ServerThread(app, host="::1") as thread:
        assert thread.address[0] == "::1"
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        ServerThread(app, fd=os.dup(sock.fileno())) as thread,
    ):
        assert thread.server.bound_addr == sock.getsockname()
        assert thread.ask(get("/fd")).body == b"/fd"


def test_shutdown_before_run_makes_it_return_at_once() -> None:
    server = Server(quiet(), None, app_path="no.such.module:app")
    server.shutdown()
    server.shutdown()
    server.run()
    assert server.bound_addr is None


def test_shutdown_during_startup_ends_it() -> None:
    starting = threading.Event()
    cancelled = threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        starting.set()
        try:
            await receive()
        finally:
            cancelled.set()

    server = Server(quiet(), slow)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert starting.wait(PATIENCE)
    server.shutdown()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert cancelled.is_set()


def test_an_application_may_shut_its_server_down() -> None:
    servers: list[Server] = []

    async def ends(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        servers[0].shutdown()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"the last"})

    with ServerThread(ends) as thread:
        servers.append(thread.server)
        response = thread.ask(get("/"))
        assert response.body == b"the last"
        wait_until(lambda: thread.server.bound_addr is None, "it has ended")


def test_several_servers_in_one_process() -> None:
    with ServerThread(app) as first, ServerThread(app) as second:
        assert first.address != second.address
        assert first.ask(get("/1")).body == b"/1"
        first.stop()
        assert second.ask(get("/2")).body == b"/2"


def test_an_application_without_lifespan() -> None:
    with ServerThread(without_lifespan) as thread:
        assert thread.ask(get("/")).body == b"served"


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_a_startup_that_fails(lifespan: str) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    server = Server(quiet(lifespan=lifespan), fails)
    with pytest.raises(LifespanError, match="application startup failed: no database"):
        server.run()
    assert server.bound_addr is None


def test_lifespan_on_for_an_application_without() -> None:
    with pytest.raises(LifespanError, match="does not support lifespan"):
        Server(quiet(lifespan="on"), without_lifespan).run()


def test_no_lifespan() -> None:
    scopes: list[Scope] = []

    async def notes(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await without_lifespan(scope, receive, send)

    with ServerThread(notes, lifespan="off") as thread:
        thread.ask(get("/"))
    assert [scope["type"] for scope in scopes] == ["http"]
    assert "state" not in scopes[0]


def test_an_address_that_is_taken() -> None:
    started: list[Scope] = []

    async def notes(scope: Scope, receive: Receive, send: Send) -> None:
        started.append(scope)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(BindError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            Server(quiet(port=port), notes).run()
    assert "\n" not in str(caught.value)
    assert started == []


def test_an_address_that_is_taken_during_startup_shuts_the_application_down() -> None:
    """Two programs can bind an address of which neither listens on it yet."""
    events: list[str] = []

    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))

        async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            rival.listen()
            events.append("startup")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})

        port = rival.getsockname()[1]
        with pytest.raises(BindError, match=f"port {port} on 127.0.0.1 is in use"):
            Server(quiet(port=port), lifespan).run()
    assert events == ["startup", "shutdown"]


def test_an_application_that_is_not_there() -> None:
    with pytest.raises(AppLoadError):
        Server(quiet(), None, app_path="tests.integration.steered_app:nothing").run()
    with pytest.raises(ConfigError):
        Server(quiet(), None)


def test_run_takes_options_or_a_configuration() -> None:
    with pytest.raises(TypeError, match="config"):
        pounce.run(app, config=quiet(), port=0)
    with pytest.raises(ConfigError, match="hots"):
        pounce.run(app, hots="127.0.0.1")
    with pytest.raises(AppLoadError):
        pounce.run("tests.integration.steered_app:nothing", port=0)


PROGRAM = """
    import signal
    import pounce

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({{"type": "http.response.start", "status": 200}})
        await send({{"type": "http.response.body", "body": b"embedded"}})

    def mine(number, frame):
        print("my handler", number)

    if __name__ == "__main__":
        signal.signal(signal.SIGTERM, mine)
        signal.signal(signal.SIGINT, mine)
        {call}
        print("after run")
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize(
    "call",
    [
        "pounce.run(app, port=0)",
        "pounce.run('program:app', port=0)",
        "pounce.run(app, config=pounce.ServerConfig(port=0, loop='asyncio'))",
        "pounce.Server(pounce.ServerConfig(port=0), app).run()",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_returns_after_a_signal_and_gives_the_handlers_back(
    call: str, number: signal.Signals
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = PROGRAM.format(call=call)
        Path(folder, "program.py").write_text(textwrap.dedent(source))
        process = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            while "listening on" not in line:
                assert line, process.wait()
                line = process.stderr.readline()
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, err
        assert out.splitlines() == ["after run", "my handler 15", "my handler 2"]
