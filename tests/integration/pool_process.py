"""A real pool of workers, how a test talks to it, and the application that it serves.

The application is steered by files beside it, because a test cannot choose which worker answers.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from pounce.shm.leftovers import remove_leftovers
from pounce.supervisor.control_client import ask
from tests.integration.endpoint import PATIENT, Certificates, Connection, Endpoint, get
from tests.integration.server_process import ServerProcess
from tests.integration.worker_modes import PROCESS, Mode
from tests.waiting import PATIENCE, wait_until

GRACEFUL = ("--timeout-graceful-shutdown", "100s")
"""Longer than a test waits for an end, so that an end which waits for it is found out; and long
enough for what a test does while a worker is busy."""

APP = """
import asyncio
import os
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "one"
with (HERE / "imports").open("a") as file:
    print(os.getpid(), file=file)


def worker():
    if threading.current_thread() is threading.main_thread():
        return os.getpid()
    return threading.get_native_id()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            with (HERE / kind).open("a") as file:
                print(os.getpid(), file=file)
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    body = str(worker())
    match scope["path"].removeprefix(scope["root_path"]).split("/")[1:]:
        case ["hold", key]:
            (HERE / f"held-{key}").touch()
            while not (HERE / f"go-{key}").exists():
                await asyncio.sleep(0.01)
        case ["block"]:
            (HERE / "blocks").touch()
            while True:
                time.sleep(1)
        case ["exit", code]:
            if worker() == os.getpid():
                os._exit(int(code))
            # What takes the event loop of a thread along.
            asyncio.get_running_loop().call_soon(sys.exit, int(code))
            await asyncio.sleep(60)
        case ["take"]:
            while (await receive()).get("more_body"):
                pass
        case ["version"]:
            body = VERSION
        case ["root"]:
            body = scope["root_path"]
    body = body.encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""


class Pool(Endpoint):
    """A running master with its workers.

    Args:
        server: The program.
        folder: Where the application and the control socket are.
        certificates: Of a server that speaks TLS.
    """

    def __init__(
        self, server: ServerProcess, folder: Path, certificates: Certificates | None = None
    ) -> None:
        super().__init__(
            server, certificates.client_context() if certificates is not None else None
        )
        self.folder = folder
        self.control = folder / "control"

    def command(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What `pounce ctl` would be told."""
        return ask(self.control, command, arguments or None, timeout=PATIENCE)

    def reload_and_wait(self) -> dict[str, Any]:
        return ask(self.control, "reload", {"wait": True}, timeout=None)

    def status(self) -> dict[str, Any]:
        return self.command("status")

    def workers(self, state: str | None = "ready") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.status()["workers"]
        return [worker for worker in found if state is None or worker["state"] == state]

    def pids(self) -> set[int]:
        """Of those that serve."""
        return {worker["pid"] for worker in self.workers()}

    def wait_for_workers(self, number: int, without: set[int] | None = None) -> set[int]:
        """The pids when so many workers serve, none of them one of `without`, and no others are
        left."""

        def settled() -> set[int]:
            every = self.workers(None)
            ready = {worker["pid"] for worker in every if worker["state"] == "ready"}
            fits = len(ready) == len(every) == number and not ready & (without or set())
            return ready if fits else set()

        return wait_until(settled, f"{number} workers are ready")

    def body(self, path: str = "/") -> str:
        """The answer to a request on a new connection."""
        response = self.ask(get(path, "Connection: close"))
        assert response.status == 200, response
        return response.body.decode()

    def served_by(self, number: int) -> set[int]:
        """The pids that answer, once there are so many different ones."""
        seen: set[int] = set()

        def enough() -> bool:
            seen.add(int(self.body()))
            return len(seen) >= number

        wait_until(enough, f"{number} workers answer")
        return seen

    def hold(self, key: str) -> Connection:
        """A connection whose request is in progress until it is let `go`."""
        connection = self.connect()
        connection.send(get(f"/hold/{key}"))
        self.wait_for_file(f"held-{key}")
        return connection

    def go(self, key: str) -> None:
        (self.folder / f"go-{key}").touch()

    def wait_for_file(self, name: str) -> None:
        wait_until((self.folder / name).exists, f"there is a file {name}")

    def noted(self, name: str) -> list[int]:
        """The pids that the application has written to a file."""
        path = self.folder / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def write_app(self, source: str) -> None:
        # Who imports it meanwhile reads the one or the other.
        fresh = self.folder / "app.new"
        fresh.write_text(textwrap.dedent(source))
        fresh.replace(self.folder / "app.py")

    def signal(self, number: signal.Signals) -> None:
        self.server.send_signal(number)


@contextlib.contextmanager
def serving_pool(
    *options: str,
    workers: int = 2,
    app: str = APP,
    via: str = "tcp",
    mode: Mode = PROCESS,
    **more: Any,
) -> Iterator[Pool]:
    """Runs `pounce app:app --workers 2` in a folder of its own, until all workers serve.

    Args:
        options: Of the command.
        workers: How many.
        app: The source of the module, or the name of a script, which is already there if `more`
            says where.
        via: "tcp", "tls" or "unix".
        mode: What the workers are.
        more: For `ServerProcess`.
    """
    with tempfile.TemporaryDirectory(prefix="pounce-") as name:
        folder = Path(name)
        (folder / "app.py").write_text(textwrap.dedent(app))
        arguments = ["--workers", str(workers), "--control-socket", str(folder / "control")]
        arguments += [*mode.options, *PATIENT]
        more.setdefault("python", mode.python)
        certificates = None
        if via == "tls":
            certificates = Certificates(folder)
            arguments += certificates.options
        elif via == "unix":
            arguments += ["--uds", str(folder / "socket")]
        with ServerProcess("app:app", *arguments, *options, cwd=folder, **more) as server:
            children = psutil.Process(server.pid).children(recursive=True)
            yield Pool(server, folder, certificates)
            children += _children(server.pid)
        psutil.wait_procs(children, timeout=30)
        left = [child for child in children if child.is_running()]
        assert not left, f"still there: {left}\n"
        remove_leftovers()  # of a master that the test has killed; the next server would do it
        assert not (folder / "socket").exists()
        assert not (folder / "control").exists()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def is_free(port: int) -> bool:
    """Whether a program may listen on a port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
    return True
