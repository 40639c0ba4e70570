"""What the operating system and wrk say: CPU time and memory of a process tree, one wrk run."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.workloads import Workload

WEBSOCKET_LOAD = Path(__file__).with_name("ws_load.py")
LOAD_SCRIPT = Path(__file__).with_name("load.lua")
PROC = Path("/proc")


def process_tree(pid: int, *, proc: Path = PROC) -> list[int]:
    """``pid`` and all its living descendants, parents before children."""
    tree = [pid]
    for parent in tree:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            for task in (proc / str(parent) / "task").iterdir():
                tree.extend(int(child) for child in (task / "children").read_text().split())
    return tree


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that these processes have used, all threads (also ended ones).

    Read from each process's CPU clock (clock_getcpuclockid(3)), in nanoseconds: the sum that
    /proc/PID/stat gives in ticks of 10 ms.
    """
    total = 0.0
    for pid in pids:
        try:
            total += time.clock_gettime(
                (~pid << 3) | 2
            )  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
        except OSError as error:
            raise BenchError(f"process {pid} ended while it was measured") from error
    return total


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes over a process tree: resident, and with shared pages divided among their users."""

    rss: int
    pss: int


def memory(pids: Iterable[int], *, proc: Path = PROC) -> Memory:
    rss = pss = 0
    for pid in pids:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            field, _, value = line.partition(":")
            if field == "Rss":
                rss += int(value.split()[0]) * 1024
            elif field == "Pss":
                pss += int(value.split()[0]) * 1024
    return Memory(rss, pss)


def core_busy_seconds(cpu: int, *, proc: Path = PROC) -> float:
    """Time that one core was not idle, whoever used it, stolen time included."""
    for line in (proc / "stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(t) for t in ticks[:8])
            busy = user + nice + system + irq + softirq + steal
            return busy / os.sysconf("SC_CLK_TCK")
    raise BenchError(f"/proc/stat has no cpu{cpu}")


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What wrk counted. Times in microseconds."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    connect_errors: int
    read_errors: int
    write_errors: int
    timeouts: int
    bad_status: int

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.duration_us * 1e6

    @property
    def faults(self) -> dict[str, int]:
        """What must not happen in a valid run; empty when all went well."""
        counts = {
            "connect errors": self.connect_errors,
            "read errors": self.read_errors,
            "write errors": self.write_errors,
            "timeouts": self.timeouts,
            "answers with an error status": self.bad_status,
        }
        return {what: count for what, count in counts.items() if count}


def parse_wrk(output: str) -> WrkResult:
    """The ``@result`` line of load.lua in wrk's output."""
    for line in output.splitlines():
        if line.startswith("@result "):
            return WrkResult(**json.loads(line.removeprefix("@result ")))
    raise BenchError(f"wrk printed no result:\n{output}")


def load_command(workload: Workload, port: int, *, cpu: int, seconds: int) -> list[str]:
    """wrk, or what does the same over WebSockets."""
    if not workload.message_size:
        return wrk_command(workload, port, cpu=cpu, seconds=seconds)
    script = [sys.executable, str(WEBSOCKET_LOAD), str(port), workload.path]
    figures = (workload.message_size, workload.connections, seconds)
    return ["taskset", "-c", str(cpu), *script, *map(str, figures)]


def wrk_command(workload: Workload, port: int, *, cpu: int, seconds: int) -> list[str]:
    command = [
        "taskset",
        "-c",
        str(cpu),
        "wrk",
        "-t1",
        f"-c{workload.connections}",
        f"-d{seconds}s",
    ]
    command += ["--timeout", "10s", "-s", str(LOAD_SCRIPT)]
    for name, value in workload.headers:
        command += ["-H", f"{name}: {value}"]
    prefix = f"{time.time_ns():x}-" if workload.unique_header else "-"
    url = f"{workload.scheme}://127.0.0.1:{port}{workload.path}"
    arguments = [workload.method, str(workload.body_size), prefix]
    return [*command, url, "--", *arguments]


def run_wrk(command: Sequence[str], *, timeout: float) -> WrkResult:
    """Run wrk to its end; any failed request is an error, for it would make the rest look fast."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"wrk did not end within {timeout:.0f} s: {command}") from error
    if done.returncode != 0:
        raise BenchError(f"wrk failed: {done.stdout}{done.stderr}")
    result = parse_wrk(done.stdout)
    if result.faults:
        raise BenchError(f"wrk saw {result.faults} in {result.requests} requests")
    if not result.requests:
        raise BenchError("wrk completed no request")
    return result
