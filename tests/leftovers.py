"""A test run must leave nothing behind: no process, no listening socket, no socket file, no
shared memory. What is left at its end fails the run and is named.

Processes are known by a mark that the run puts into its environment, which every process it
starts inherits, so orphans are found as well and other runs on the machine are told apart. Under
xdist each worker looks at its own children, sockets and files when its last test is done, and the
controller looks for everything, shared memory too, once the workers have gone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

MARK = "TEST_RUN_OF_POUNCE"
"""Name of the environment variable; Pounce reads options from those that begin with `POUNCE_`."""

SHARED_MEMORY = Path("/dev/shm")
GRACE_SECONDS = 10.0
"""How long what is ending already may take: orphans notice that their parent has gone."""

# Helpers of multiprocessing that live as long as the process that used it.
_EXPECTED_COMMANDS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


class LeftoverCheck:
    """The pytest plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._worker_findings: list[str] = []
        self._findings: list[str] = []
        self._mark = os.environ.setdefault(MARK, uuid.uuid4().hex)
        self._listening_before = set(_listening_sockets())
        self._segments_before = set(_shared_memory_segments())

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Keep what an xdist worker reported when it ended."""
        findings = getattr(node, "workeroutput", {}).get("leftovers", [])
        self._worker_findings += [f"{finding} (seen by {node.gateway.id})" for finding in findings]

    # Last, so that xdist has ended its workers and the fixtures have cleaned up.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._findings = self._worker_findings + self._wait_until_nothing_is_left()
        if not self._findings:
            return
        if self._is_worker:
            self._config.workeroutput["leftovers"] = self._findings  # type: ignore[attr-defined]
            return
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.stats.setdefault("error", []).append(self._report())

    def _report(self) -> pytest.TestReport:
        listed = "\n".join(f"  {finding}" for finding in self._findings)
        return pytest.TestReport(
            nodeid="the test run",
            location=("", None, "the test run"),
            keywords={},
            outcome="failed",
            longrepr=f"The test run left behind:\n{listed}",
            when="teardown",
        )

    def _wait_until_nothing_is_left(self) -> list[str]:
        deadline = time.monotonic() + GRACE_SECONDS
        while (findings := list(self._leftovers())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return findings

    def _leftovers(self) -> Iterator[str]:
        processes = set(psutil.Process().children(recursive=True))
        if not self._is_worker:
            processes |= set(_marked_processes(self._mark))
        for process in processes:
            yield from _describe_process(process)
        for address in set(_listening_sockets()) - self._listening_before:
            yield f"listening socket {address}"
        for path in _socket_files(self._basetemp()):
            yield f"socket file {path}"
        if not self._is_worker:
            for segment in set(_shared_memory_segments()) - self._segments_before:
                if not _is_mapped_by_a_stranger(segment, self._mark) and segment.exists():
                    yield f"shared memory {segment}"

    def _basetemp(self) -> Path | None:
        factory = getattr(self._config, "_tmp_path_factory", None)
        return factory.getbasetemp() if factory is not None else None


def _marked_processes(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        if process.pid != os.getpid() and _carries(process, mark):
            yield process


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def _describe_process(process: psutil.Process) -> Iterator[str]:
    try:
        command = " ".join(process.cmdline()) or process.name()
        status = process.status()
    except psutil.Error:
        return  # ended meanwhile
    if not any(expected in command for expected in _EXPECTED_COMMANDS):
        yield f"process {process.pid} ({status}): {command[:200]}"


def _listening_sockets() -> Iterator[str]:
    """The listening TCP, bound UDP and bound Unix sockets of this very process."""
    for connection in psutil.Process().net_connections(kind="all"):
        if isinstance(connection.laddr, str):
            # psutil cannot tell a listening Unix socket from one that was accepted by it.
            if connection.laddr:
                yield f"unix:{connection.laddr}"
        elif connection.status == psutil.CONN_LISTEN or (
            connection.status == psutil.CONN_NONE and connection.laddr and not connection.raddr
        ):
            yield f"{connection.laddr.ip}:{connection.laddr.port} (fd {connection.fd})"


def _socket_files(folder: Path | None) -> Iterator[Path]:
    if folder is None:
        return
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if _is_socket(path):
                yield path


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _shared_memory_segments() -> Iterator[Path]:
    if SHARED_MEMORY.is_dir():
        yield from SHARED_MEMORY.glob("pounce*")


def _is_mapped_by_a_stranger(segment: Path, mark: str) -> bool:
    """Whether a process of another run uses it, as when two runs share the machine. What belongs to
    an arena is used with it, but not mapped all the time."""
    arena = segment.with_name("-".join(segment.name.split("-")[:2]))
    for process in psutil.process_iter():
        if process.pid == os.getpid() or _carries(process, mark):
            continue
        with contextlib.suppress(OSError):
            if str(arena) in Path(f"/proc/{process.pid}/maps").read_text():
                return True
    return False
