"""Does memory grow with requests? ``python -m bench.memory [--server pounce]``.

Serves 1,000,000 requests and compares the memory then with that after the first 100,000. Exits
with status 1 when it grew by more than the tolerance.
"""

import argparse
import sys
from collections.abc import Sequence

from bench.environment import choose_cores, only_one_benchmark, prepare, require_tools
from bench.errors import BenchError
from bench.measure import Memory, memory, run_wrk, wrk_command
from bench.servers import COMMANDS, RunningServer
from bench.workloads import WORKLOADS, check_answer

SLICE_SECONDS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        require_tools()
        with only_one_benchmark():
            first, last = measure(options)
    except BenchError as error:
        print(f"bench.memory: {error}", file=sys.stderr)
        return 1
    growth = last.rss - first.rss
    print(f"growth from the first to the last: {growth / 2**20:+.2f} MiB RSS")
    return 1 if growth > options.tolerance * 2**20 else 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench.memory")
    options.add_argument("--server", default="pounce", choices=sorted(set(COMMANDS) - {"baseline"}))
    options.add_argument("--workload", default="plain", choices=list(WORKLOADS))
    options.add_argument("--python", default=sys.executable)
    options.add_argument(
        "--first", type=int, default=100_000, help="requests before the comparison"
    )
    options.add_argument("--last", type=int, default=1_000_000, help="requests in all")
    options.add_argument("--tolerance", type=float, default=1.0, help="growth allowed, in MiB")
    return options


def measure(options: argparse.Namespace) -> tuple[Memory, Memory]:
    """Memory after the first and after all requests."""
    environment = prepare(options.python)
    workload = WORKLOADS[options.workload]
    server_cpu, client_cpu = choose_cores(None)
    with RunningServer(options.server, environment, workload, cpu=server_cpu) as server:
        server.wait_until_listening()
        check_answer(workload, server.port, environment.ca_file)
        readings = [_read(server, 0)]
        done = 0
        for wanted in (options.first, options.last):
            # wrk stops by time alone: slices of it, until there are enough.
            while done < wanted:
                command = wrk_command(workload, server.port, cpu=client_cpu, seconds=SLICE_SECONDS)
                done += run_wrk(command, timeout=SLICE_SECONDS + 30).requests
            readings.append(_read(server, done))
    return readings[1], readings[2]


def _read(server: RunningServer, requests: int) -> Memory:
    used = memory(server.pids())
    figures = f"{used.rss / 2**20:.2f} MiB RSS, {used.pss / 2**20:.2f} MiB PSS"
    print(f"{server.name} after {requests:,} requests: {figures}", flush=True)
    return used


if __name__ == "__main__":
    sys.exit(main())
