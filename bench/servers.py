"""The servers under test: how each is started, waited for and ended."""

import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.environment import BENCH, ROOT, Environment
from bench.errors import BenchError
from bench.measure import process_tree
from bench.workloads import Workload

START_SECONDS = 20.0
STOP_SECONDS = 10.0
LOG_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What a command line is made from."""

    environment: Environment
    workload: Workload
    port: int
    access_log: Path
    extra: tuple[str, ...] = ()

    def module(self, *arguments: str) -> list[str]:
        return [str(self.environment.python), "-m", *arguments, *self.extra]


def pounce_command(launch: Launch) -> list[str]:
    arguments = ["pounce", launch.workload.app, "--host", "127.0.0.1", "--port", str(launch.port)]
    if launch.workload.access_log:
        arguments += ["--access-log", "--access-log-file", str(launch.access_log)]
    else:
        arguments += ["--no-access-log"]
    if launch.workload.tls:
        arguments += ["--ssl-keyfile", str(launch.environment.key_file)]
        arguments += ["--ssl-certfile", str(launch.environment.cert_file)]
    if launch.workload.is_h2:
        # h2load does not open a connection anew when it is told to.
        arguments += ["--limit-keep-alive-requests", "0"]
    if launch.workload.idle_connections:
        arguments += ["--timeout-keep-alive", "75"]
    return launch.module(*arguments)


def pounce_metrics_command(launch: Launch) -> list[str]:
    return [*pounce_command(launch), "--metrics"]


def pounce_h2_library_command(launch: Launch) -> list[str]:
    """With the h2 library instead of the engine of its own."""
    return [*pounce_command(launch), "--metrics", "--http2-engine", "h2"]


def uvicorn_command(launch: Launch) -> list[str]:
    arguments = ["uvicorn", launch.workload.app, "--host", "127.0.0.1", "--port", str(launch.port)]
    arguments += ["--http", "httptools", "--loop", "uvloop", "--ws", "websockets-sansio"]
    # Its access log goes to standard output, which the harness sends to the same kind of file.
    arguments += ["--access-log" if launch.workload.access_log else "--no-access-log"]
    if launch.workload.tls:
        arguments += ["--ssl-keyfile", str(launch.environment.key_file)]
        arguments += ["--ssl-certfile", str(launch.environment.cert_file)]
    if launch.workload.idle_connections:
        arguments += ["--timeout-keep-alive", "75"]
    return launch.module(*arguments)


def granian_command(launch: Launch) -> list[str]:
    """With the settings of granian's own published benchmarks of ASGI."""
    arguments = ["granian", launch.workload.app, "--host", "127.0.0.1", "--port", str(launch.port)]
    arguments += ["--interface", "asgi", "--loop", "uvloop", "--workers", "1"]
    arguments += ["--ws" if launch.workload.message_size else "--no-ws"]
    arguments += ["--http", "2" if launch.workload.is_h2 else "1"]
    arguments += ["--runtime-mode", "st", "--runtime-threads", "1"]
    arguments += ["--access-log" if launch.workload.access_log else "--no-access-log"]
    if launch.workload.tls:
        arguments += ["--ssl-keyfile", str(launch.environment.key_file)]
        arguments += ["--ssl-certificate", str(launch.environment.cert_file)]
    if launch.workload.idle_connections:
        # Connections beyond the backpressure, by default 1,024, wait in the backlog.
        arguments += ["--backpressure", str(launch.workload.idle_connections + 1024)]
    return launch.module(*arguments)


def hypercorn_command(launch: Launch) -> list[str]:
    arguments = ["hypercorn", launch.workload.app, "--bind", f"127.0.0.1:{launch.port}"]
    arguments += ["--worker-class", "uvloop", "--workers", "1"]
    if launch.workload.access_log:
        arguments += ["--access-logfile", "-"]
    if launch.workload.tls:
        arguments += ["--keyfile", str(launch.environment.key_file)]
        arguments += ["--certfile", str(launch.environment.cert_file)]
    if launch.workload.idle_connections:
        arguments += ["--keep-alive", "75"]
    return launch.module(*arguments)


def floor_command(launch: Launch) -> list[str]:
    return [str(launch.environment.python), str(BENCH / "floor.py"), str(launch.port)]


COMMANDS: dict[str, Callable[[Launch], list[str]]] = {
    "pounce": pounce_command,
    "pounce-metrics": pounce_metrics_command,
    "pounce-h2-library": pounce_h2_library_command,
    "baseline": pounce_command,
    "baseline-metrics": pounce_metrics_command,
    "uvicorn": uvicorn_command,
    "granian": granian_command,
    "hypercorn": hypercorn_command,
    "floor": floor_command,
}


def serves(name: str, workload: Workload) -> bool:
    """Whether a server can do a workload at all."""
    if name == "floor":
        return workload.fits_floor
    if name == "pounce-h2-library":
        return workload.is_h2
    return name != "uvicorn" or not workload.is_h2


class RunningServer:
    """A server pinned to one core; a context manager that ends it and all its children."""

    def __init__(
        self,
        name: str,
        environment: Environment,
        workload: Workload,
        *,
        cpu: int,
        source: Path = ROOT,
        extra: tuple[str, ...] = (),
    ) -> None:
        """``source`` is the checkout that ``pounce`` is imported from."""
        self.name = name
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="pounce-bench-")
        folder = Path(self._folder.name)
        self._stderr = folder / "stderr"
        # Standard output is appended to the same file that a server with an option for it writes.
        self.access_log = folder / "access.log"
        launch = Launch(environment, workload, self.port, self.access_log, extra)
        self.command = ["taskset", "-c", str(cpu), *COMMANDS[name](launch)]
        variables = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        if name.startswith(("pounce", "baseline")):
            variables["PYTHONPATH"] = str(source)
        with self.access_log.open("ab") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self.command,
                cwd=BENCH,
                env=variables,
                stdout=stdout,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def command_line(self) -> str:
        return shlex.join(self.command)

    def pids(self) -> list[int]:
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended: {self.output()}")
        return process_tree(self._process.pid)

    def output(self) -> str:
        """The end of what the server printed, for an error message."""
        text = self._stderr.read_text(errors="replace") + self.access_log.read_text(
            errors="replace"
        )
        return f"exit code {self._process.poll()}, {self.command_line}\n{text[-3000:]}"

    def wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.pids()
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    message = f"{self.name} does not listen after {START_SECONDS:.0f} s"
                    raise BenchError(f"{message}: {self.output()}") from error
                time.sleep(0.05)
            else:
                return

    def clear_access_log(self) -> None:
        """All servers append, so they go on at the start of the emptied file."""
        os.truncate(self.access_log, 0)

    def wait_for_log_lines(self, count: int) -> None:
        """Wait until as many lines are written: a log written late is part of the cost."""
        deadline = time.monotonic() + LOG_SECONDS
        while (lines := self._log_lines()) < count:
            if time.monotonic() > deadline:
                raise BenchError(f"the access log has {lines} lines after {count} requests")
            time.sleep(0.05)

    def _log_lines(self) -> int:
        with self.access_log.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

    def stop(self) -> None:
        """TERM to the first process, then KILL, by pid, to what is left of its session."""
        try:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            for pid in _session_members(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _session_members(session: int) -> list[int]:
    """The processes of a session: each server leads its own, so these are it and its children."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(ProcessLookupError):
                if os.getsid(int(entry)) == session:
                    members.append(int(entry))
    return members


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
