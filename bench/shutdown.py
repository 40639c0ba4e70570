"""How soon a pool ends, and how soon it answers: ``python -m bench.shutdown [--rounds 20]``.

Starts the real program and measures, from outside:

- from TERM until each worker was told: until it closes a kept connection that is idle;
- from TERM until an idle pool is gone, its master reaped;
- a status asked over the control socket, and the command `pounce ctl status` with the start of its
  interpreter, while a worker drains for `--drain` seconds.

Exits with status 1 when a worst time is above its target.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.environment import ROOT
from bench.errors import BenchError
from pounce.supervisor.control_client import ask
from pounce.supervisor.control_messages import ControlError

PATIENCE: Final = 60.0
"""Seconds for anything to happen at all."""
POLL: Final = 0.02

TARGETS: Final = {
    "TERM to told, the last worker": 0.1,
    "TERM to exit, an idle pool": 0.5,
    "status while a worker drains": 0.1,
}
"""Seconds; the rest is for information."""

GET: Final = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Pool:
    """The program with idle workers."""

    def __init__(self, folder: Path, workers: int, *options: str) -> None:
        self.control = folder / "control"
        self.log = folder / "log"
        command = [sys.executable, "-m", "pounce", "bench.apps.pid_app:app", "--port", "0"]
        command += ["--workers", str(workers), "--control-socket", str(self.control), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_for(lambda: len(self.workers("ready")) == workers)
        self.port = int(ask(self.control, "status")["addresses"][0].rpartition(":")[2])

    def workers(self, state: str) -> list[int]:
        with contextlib.suppress(ControlError):
            found: list[dict[str, Any]] = ask(self.control, "status")["workers"]
            return [worker["pid"] for worker in found if worker["state"] == state]
        return []

    def wait_for(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the server does not get there:\n{self.log.read_text()}")
            time.sleep(POLL)

    def ask(self, path: bytes) -> tuple[socket.socket, int]:
        """A connection whose request was begun to be answered, and the worker that did."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        sock.sendall(GET % path)
        data = b""
        while not (parts := data.partition(b"\r\n\r\n"))[2]:
            data += sock.recv(65536)
        # A stream comes in chunks, whose size is on a line of its own.
        return sock, int(parts[2].split(b"\r\n")[1 if b"chunked" in parts[0] else 0])

    def connections_to_all(self, workers: int) -> dict[socket.socket, int]:
        """An idle connection to each worker."""
        found: dict[int, socket.socket] = {}
        deadline = time.monotonic() + PATIENCE
        while len(found) < workers:
            if time.monotonic() > deadline:
                raise BenchError("some workers get no connections")
            sock, pid = self.ask(b"/")
            if pid in found:
                sock.close()
            else:
                found[pid] = sock
        return {sock: pid for pid, sock in found.items()}


@contextlib.contextmanager
def running(workers: int, *options: str) -> Iterator[Pool]:
    with tempfile.TemporaryDirectory(prefix="pounce-") as folder:
        pool = Pool(Path(folder), workers, *options)
        try:
            yield pool
        finally:
            if pool.process.poll() is None:
                pool.process.send_signal(signal.SIGQUIT)
            pool.process.wait(PATIENCE)


def time_stop(workers: int) -> tuple[list[float], float]:
    """From TERM until each worker was told, and until the program was gone."""
    with running(workers, "--no-access-log") as pool:
        idle = pool.connections_to_all(workers)
        told: list[float] = []
        exit_fd = os.pidfd_open(pool.process.pid)
        begun = time.perf_counter()
        pool.process.send_signal(signal.SIGTERM)
        waited_for: set[Any] = {*idle, exit_fd}
        gone = 0.0
        while waited_for:
            ended, _, _ = select.select(waited_for, [], [], PATIENCE)
            now = time.perf_counter() - begun
            if not ended:
                raise BenchError("the server does not end")
            waited_for.difference_update(ended)
            if exit_fd in ended:
                gone = now
            told += [now] * sum(each is not exit_fd for each in ended)
        os.close(exit_fd)
        for sock in idle:
            sock.close()
        return told, gone


def time_status(rounds: int, drain: float) -> tuple[list[float], list[float]]:
    """Of a pool one of whose workers drains: the answer alone, and the whole command."""
    with running(2, "--no-access-log", "--timeout-graceful-shutdown", f"{drain:g}s") as pool:
        stream, busy = pool.ask(b"/stream")
        with stream:
            os.kill(pool.process.pid, signal.SIGHUP)
            pool.wait_for(lambda: pool.workers("draining") == [busy])
            answers, commands = [], []
            words = ["ctl", "--socket", str(pool.control), "status"]
            for _ in range(rounds):
                begun = time.perf_counter()
                status = ask(pool.control, "status")
                answers.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "pounce", *words],
                    cwd=ROOT,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
                commands.append(time.perf_counter() - begun)
                if busy not in [worker["pid"] for worker in status["workers"]]:
                    raise BenchError("the worker has drained too soon: give more --drain")
            return answers, commands


def describe(name: str, seconds: Sequence[float]) -> bool:
    """Prints median and worst; whether the worst is within its target."""
    target, worst = TARGETS.get(name), max(seconds)
    verdict = "" if target is None else f"   target {target * 1e3:.0f} ms"
    missed = target is not None and worst >= target
    print(
        f"{name:<34} median {statistics.median(seconds) * 1e3:7.1f} ms   "
        f"worst {worst * 1e3:7.1f} ms{verdict}{', MISSED' if missed else ''}"
    )
    return not missed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.shutdown", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--drain", type=float, default=30.0, help="seconds")
    options = parser.parse_args(arguments)
    stops = [time_stop(options.workers) for _ in range(options.rounds)]
    answers, commands = time_status(options.rounds, options.drain)
    results = {
        "TERM to told, each worker": [each for told, _ in stops for each in told],
        "TERM to told, the last worker": [max(told) for told, _ in stops],
        "TERM to exit, an idle pool": [gone for _, gone in stops],
        "status while a worker drains": answers,
        "the command pounce ctl status": commands,
    }
    missed = [name for name, seconds in results.items() if not describe(name, seconds)]
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench.shutdown: {error}")
