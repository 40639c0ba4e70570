"""Pounce as users run it: a real process, real sockets.

```python
with ServerProcess(APP, "--timeout-keep-alive", "1s") as server:
    response = parse_response(server.request(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"))
```
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import pytest

from tests.integration.responses import (
    IncompleteResponse,
    MalformedResponse,
    Response,
    parse_response,
    parse_responses,
)
from tests.waiting import PATIENCE, wait_until

__all__ = [
    "IncompleteResponse",
    "MalformedResponse",
    "Response",
    "ServerProcess",
    "parse_response",
    "parse_responses",
    "receive_responses",
    "receive_until_closed",
    "run_pounce",
]

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 60.0
STOP_TIMEOUT = 45.0
SOCKET_TIMEOUT = PATIENCE
LOG_SHOWN = 5000
"""Characters from the beginning and from the end of the log that a failure shows."""

_IMPORT_STRING = re.compile(r"[\w.]+(:[\w.]+(\(\))?)?")
_LISTENING = re.compile(r"listening on (\S.*)")
# What asyncio and Python say about an error that nobody handled.
_UNHANDLED = re.compile(
    r"was never retrieved|Exception in callback|was never awaited|Fatal error on transport"
    r"|Exception ignored in|was destroyed but it is pending|ResourceWarning"
)


class ServerProcess:
    """`python -m pounce` serving an application, from its start until it has ended.

    Args:
        app: An import string, or the source of a module whose application is called `app`, or the
            path of a Python script (`.py`) that serves by itself.
        arguments: Options of the command. Where they name no address, `--port 0` is added for
            Pounce, and `POUNCE_PORT=0` to the environment of a script.
        env: Added to the environment, from which options of Pounce are removed first.
        python: The interpreter.
        cwd: Where it runs: by default a temporary folder when `app` is source, and else the root
            of the project.
        allow_unhandled: Do not fail the test for an unhandled error that was logged.
    """

    def __init__(
        self,
        app: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
        cwd: Path | None = None,
        allow_unhandled: bool = False,
    ) -> None:
        self._app = app
        self._arguments = list(arguments)
        self._env = _environment(env, python)
        self._python = python
        self._cwd = cwd
        self._allow_unhandled = allow_unhandled
        self._files = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._waited_for = False
        self.addresses: list[str] = []
        """The URLs it listens on, as it reported them."""

    def __enter__(self) -> Self:
        self._files = Path(tempfile.mkdtemp(prefix="pounce-test-"))
        try:
            self._start()
            self._wait_until_it_listens()
        except BaseException:
            self._kill()
            shutil.rmtree(self._files)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            problem = self._stop()
            if error is not None:
                error.add_note(self._describe())
            elif problem is not None:
                pytest.fail(f"{problem}\n{self._describe()}")
        finally:
            shutil.rmtree(self._files)

    # What it is

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """The first URL it listens on, without a slash at the end."""
        return self.addresses[0]

    @property
    def port(self) -> int:
        port = httpx.URL(self.url).port
        assert port is not None, f"no port in {self.url}"
        return port

    @property
    def uds(self) -> str | None:
        """The path of the Unix socket, if it listens on one."""
        kind, _, path = self.url.partition(":")
        return path if kind == "unix" else None

    def stderr_text(self) -> str:
        return (self._files / "stderr").read_text(errors="backslashreplace")

    def stdout_text(self) -> str:
        return (self._files / "stdout").read_text(errors="backslashreplace")

    # What one does to it

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The process stands still meanwhile: what a client does is one moment for it."""
        self.send_signal(signal.SIGSTOP)
        try:
            process = psutil.Process(self.pid)
            wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it stands still")
            yield
        finally:
            self.send_signal(signal.SIGCONT)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """The exit status; fails the test when the process does not end in time."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the server did not end within {timeout:g} s")
        self._waited_for = True
        return status

    def connect(self, timeout: float = SOCKET_TIMEOUT) -> socket.socket:
        """A new connection, without TLS."""
        if self.uds is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            try:
                sock.connect(self.uds)
            except OSError:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((httpx.URL(self.url).host, self.port), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def request(
        self,
        raw: bytes,
        methods: Sequence[str] = ("GET",),
        *,
        timeout: float = SOCKET_TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
    ) -> bytes:
        """Sends `raw` on a new connection and returns what comes back: everything until the end
        of the connection, or until there is a complete response for each of `methods`."""
        sock = self.connect(timeout)
        if ssl_context is not None:
            sock = ssl_context.wrap_socket(sock, server_hostname="localhost")
        with sock:
            sock.sendall(raw)
            return receive_responses(sock, methods)

    def client(self, **options: Any) -> httpx.Client:
        """An httpx client whose base URL is this server; to be closed by the caller."""
        options.setdefault("timeout", SOCKET_TIMEOUT)
        # Long before the server does: a request must not cross the end of an idle connection.
        options.setdefault("limits", httpx.Limits(keepalive_expiry=1.0))
        if self.uds is not None:
            options.setdefault("transport", httpx.HTTPTransport(uds=self.uds))
        base_url = "http://localhost" if self.uds is not None else self.url
        return httpx.Client(base_url=base_url, trust_env=False, **options)

    # How it starts and ends

    def _start(self) -> None:
        command, cwd = self._command()
        with (self._files / "stdout").open("wb") as out, (self._files / "stderr").open("wb") as err:
            self._process = subprocess.Popen(
                command, cwd=cwd, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def _command(self) -> tuple[list[str], Path]:
        """What to run, and where."""
        app, cwd = self._app, self._cwd or ROOT
        if app.endswith(".py"):
            self._env.setdefault("POUNCE_PORT", "0")
            return [self._python, app, *self._arguments], cwd
        if not _IMPORT_STRING.fullmatch(app):
            cwd = self._cwd or self._files
            (cwd / "app.py").write_text(textwrap.dedent(app))
            app = "app:app"
        if not {"--port", "--uds", "--fd", "--bind"} & {
            part.split("=")[0] for part in self._arguments
        }:
            self._arguments += ["--port", "0"]
        return [self._python, "-m", "pounce", app, *self._arguments], cwd

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not (addresses := self._listening_addresses()):
            if self.process.poll() is not None:
                pytest.fail(f"the server ended while it started\n{self._describe()}")
            if time.monotonic() > deadline:
                pytest.fail(f"the server did not start\n{self._describe()}")
            time.sleep(0.02)
        self.addresses = addresses

    def _listening_addresses(self) -> list[str]:
        for line in self.stderr_text().splitlines():
            if line.startswith("{"):
                record = json.loads(line)
                if str(record.get("message", "")).startswith("listening on"):
                    return [str(address) for address in record["addresses"]]
            elif match := _LISTENING.search(line):
                return match[1].split(", ")
        return self._addresses_of_a_quiet_server()

    def _addresses_of_a_quiet_server(self) -> list[str]:
        """Where the log level keeps it from saying so, the kernel knows what it listens on."""
        if not {"warning", "error", "critical"} & set(self._arguments):
            return []
        scheme = "https" if "--ssl-certfile" in self._arguments else "http"
        try:
            connections = psutil.Process(self.pid).net_connections(kind="tcp4")
        except psutil.Error:
            return []
        return [
            f"{scheme}://{connection.laddr.ip}:{connection.laddr.port}"
            for connection in connections
            if connection.status == psutil.CONN_LISTEN
        ]

    def _stop(self) -> str | None:
        """Ends the process as an operator would; what was wrong with how it ended, if anything."""
        if self.process.poll() is not None:
            if not self._waited_for:
                return f"the server ended by itself with status {self.process.returncode}"
        else:
            self.process.terminate()
            try:
                status = self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._kill()
                return f"the server did not end within {STOP_TIMEOUT:g} s of SIGTERM"
            if status != 0:
                return f"the server ended with status {status}"
        if not self._allow_unhandled and (match := _UNHANDLED.search(self.stderr_text())):
            return f"the server logged an unhandled error: {match[0]}"
        return None

    def _kill(self) -> None:
        """The last resort, for it and for every process that it started."""
        if self._process is None:
            return
        try:
            processes = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            processes = []
        self._process.kill()
        self._process.wait(STOP_TIMEOUT)
        for process in processes:
            if process.is_running():
                process.kill()

    def _describe(self) -> str:
        status = self._process.poll() if self._process is not None else None
        state = "running" if status is None else f"ended with status {status}"
        app = self._app if "\n" not in self._app else "app:app"
        command = " ".join([app, *self._arguments])
        log = self.stderr_text()
        if len(log) > 2 * LOG_SHOWN:
            log = f"{log[:LOG_SHOWN]}\n[...]\n{log[-LOG_SHOWN:]}"
        return f"--- {command} ({state}), standard error:\n{log}---"


def run_pounce(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
    cwd: Path = ROOT,
    timeout: float = START_TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m pounce ...` to its end: for what does not serve, or cannot start."""
    return subprocess.run(
        [python, "-m", "pounce", *arguments],
        cwd=cwd,
        env=_environment(env, python),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def receive_responses(sock: socket.socket, methods: Sequence[str] = ("GET",)) -> bytes:
    """What arrives until there is a complete response for each of `methods`, or the end."""
    data = b""
    while True:
        try:
            parse_responses(data, methods)
        except IncompleteResponse:
            pass
        else:
            return data
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def receive_until_closed(sock: socket.socket) -> bytes:
    """Everything that arrives until the peer closes; TimeoutError when it does not."""
    data = b""
    while True:
        try:
            part = sock.recv(65536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def _environment(extra: Mapping[str, str] | None, python: str) -> dict[str, str]:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("POUNCE_") and name != "FORWARDED_ALLOW_IPS"
    }
    env["PYTHONUNBUFFERED"] = "1"
    # Bytecode knows its source by size and whole second only: tests rewrite it faster than that.
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if python != sys.executable:
        env["PYTHONPATH"] = str(ROOT)
    return env | dict(extra or {})
