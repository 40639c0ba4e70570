"""One run of h2load (nghttp2), which speaks HTTP/2 as wrk speaks HTTP/1.1."""

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.measure import WrkResult
from bench.workloads import Workload

_REQUESTS = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, "
    r"(\d+) errored, (\d+) timeout",
    re.MULTILINE,
)


def h2load_command(
    workload: Workload, port: int, *, cpu: int, seconds: int, folder: Path
) -> list[str]:
    """The command; what it sends and writes is in `folder`."""
    command = ["taskset", "-c", str(cpu), "h2load", "-t1", f"-D{seconds}"]
    command += [f"-c{workload.connections}", f"-m{workload.streams}"]
    command += [f"--log-file={folder / 'log'}"]
    if workload.body_size:
        body = folder / "body"
        body.write_bytes(b"x" * workload.body_size)
        command += ["-d", str(body)]
    for name, value in workload.headers:
        command += ["-H", f"{name}: {value}"]
    return [*command, f"{workload.scheme}://127.0.0.1:{port}{workload.path}"]


def run_h2load(workload: Workload, port: int, *, cpu: int, seconds: int) -> WrkResult:
    """Run h2load to its end; any failed request is an error."""
    with tempfile.TemporaryDirectory(prefix="pounce-bench-") as name:
        folder = Path(name)
        command = h2load_command(workload, port, cpu=cpu, seconds=seconds, folder=folder)
        started = time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + 30, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"h2load did not end in time: {command}") from error
        elapsed = time.monotonic() - started
        if done.returncode != 0:
            raise BenchError(f"h2load failed: {done.stdout}{done.stderr}")
        result = parse_h2load(done.stdout, (folder / "log").read_text(), seconds)
    if result.faults:
        raise BenchError(f"h2load saw {result.faults} in {result.requests} requests")
    if elapsed > seconds + 5:
        raise BenchError(f"h2load took {elapsed:.0f} s for {seconds}")
    if not result.requests:
        raise BenchError("h2load completed no request")
    return result


def parse_h2load(output: str, log: str, seconds: int) -> WrkResult:
    """What h2load printed, and the times of requests in its log file, in microseconds."""
    found = _REQUESTS.search(output)
    if found is None:
        raise BenchError(f"h2load printed no result:\n{output}")
    _total, _started, _done, succeeded, failed, errored, timeout = map(int, found.groups())
    lines = [line.split("\t") for line in log.splitlines()]
    times = sorted(int(line[2]) for line in lines)
    return WrkResult(
        requests=succeeded,
        duration_us=seconds * 1_000_000,
        p50_us=_percentile(times, 50),
        p99_us=_percentile(times, 99),
        connect_errors=0,
        read_errors=errored,
        write_errors=0,
        timeouts=timeout,
        bad_status=failed + sum(line[1] != "200" for line in lines),
    )


def _percentile(ordered: Sequence[int], percent: int) -> int:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0
