"""Many connections at once: ``python -m bench.connections [--server pounce] [--count 10000]``.

Opens them all, then asks once on each, then reads all the answers, and prints the server's memory
per connection. Both ends are on this machine. Exits with status 1 unless every connection was
answered and is still open.
"""

import argparse
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from bench.environment import choose_cores, only_one_benchmark, prepare, require_tools
from bench.errors import BenchError
from bench.measure import memory
from bench.servers import COMMANDS, RunningServer
from bench.workloads import WORKLOADS, check_answer

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TIMEOUT = 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        require_tools()
        raise_fd_limit(options.count)
        with only_one_benchmark():
            return 0 if measure(options) else 1
    except (BenchError, OSError) as error:
        print(f"bench.connections: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench.connections")
    options.add_argument("--server", default="pounce", choices=sorted(set(COMMANDS) - {"baseline"}))
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--python", default=sys.executable)
    return options


def raise_fd_limit(connections: int) -> None:
    """Raise this process's soft limit to the hard one; the server inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < connections + 100:
        raise BenchError(f"{connections} connections need a limit of open files above {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(options: argparse.Namespace) -> bool:
    """Print what the connections cost; whether all were answered and stayed open."""
    count: int = options.count
    environment = prepare(options.python)
    # As the idle workload: servers that close idle connections are told to wait longer.
    workload = replace(WORKLOADS["idle"], idle_connections=count)
    server_cpu, _ = choose_cores(None)
    with ExitStack() as stack:
        server = stack.enter_context(
            RunningServer(options.server, environment, workload, cpu=server_cpu)
        )
        server.wait_until_listening()
        check_answer(workload, server.port, environment.ca_file)
        empty = memory(server.pids()).rss

        def report(what: str, began: float) -> None:
            rss = memory(server.pids()).rss
            each = (rss - empty) / count / 1024
            elapsed = time.monotonic() - began
            print(f"{what}: {elapsed:.2f} s, {rss / 2**20:.1f} MiB RSS, {each:.2f} KiB each")

        print(f"{server.name}: no connection: {empty / 2**20:.1f} MiB RSS")
        began = time.monotonic()
        held = []
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT)
            held.append(stack.enter_context(connection))
        report(f"{count:,} open", began)
        began = time.monotonic()
        for connection in held:
            connection.sendall(REQUEST)
        answered = sum(has_answer(connection, workload.answer) for connection in held)
        report(f"{answered:,} answered", began)
        still_open = count - len(readable(held))
        print(f"{still_open:,} still open")
        return answered == still_open == len(held)


def has_answer(connection: socket.socket, body: bytes) -> bool:
    answer = b""
    while not answer.endswith(body):
        try:
            part = connection.recv(4096)
        except OSError:
            return False
        if not part:
            return False
        answer += part
    return answer.startswith(b"HTTP/1.1 200 ")


def readable(connections: Sequence[socket.socket]) -> list[tuple[int, int]]:
    """Those with something to read: nothing more was asked, so the server has closed them."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return poll.poll(0)


if __name__ == "__main__":
    sys.exit(main())
