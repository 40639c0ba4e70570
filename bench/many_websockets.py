"""Many WebSockets at once: ``python -m bench.many_websockets [--count 5000]``.

Opens them all on one worker, waits until the server has pinged every one, answers, then has a
message echoed on each, and prints memory and CPU time. Exits with status 1 unless every socket was
pinged and echoed, and is still open.
"""

import argparse
import select
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench.connections import raise_fd_limit, readable
from bench.environment import choose_cores, only_one_benchmark, prepare, require_tools
from bench.errors import BenchError
from bench.measure import cpu_seconds, memory
from bench.servers import RunningServer
from bench.workloads import WORKLOADS
from bench.ws_load import echo_once, masked_frame, open_websocket

PING = b"\x89\x00"
PONG = b"\x8a" + masked_frame(b"")[1:]
INTERVAL = 10
"""Seconds of silence before a ping; all sockets must be open by then."""
OPTIONS = ("--ws-ping-interval", f"{INTERVAL}s", "--ws-ping-timeout", "20s")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        require_tools()
        raise_fd_limit(options.count)
        with only_one_benchmark():
            return 0 if measure(options) else 1
    except (BenchError, OSError) as error:
        print(f"bench.many_websockets: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench.many_websockets")
    options.add_argument("--count", type=int, default=5_000)
    options.add_argument("--python", default=sys.executable)
    return options


def measure(options: argparse.Namespace) -> bool:
    """Print what the sockets cost; whether all were pinged, echoed and stayed open."""
    count: int = options.count
    environment = prepare(options.python)
    server_cpu, _ = choose_cores(None)
    with ExitStack() as stack:
        server = stack.enter_context(
            RunningServer("pounce", environment, WORKLOADS["ws-64b"], cpu=server_cpu, extra=OPTIONS)
        )
        server.wait_until_listening()
        pids = server.pids()
        empty = memory(pids).rss

        def report(what: str, began: float, cpu_before: float) -> None:
            rss = memory(pids).rss
            each = (rss - empty) / count / 1024
            cpu = (cpu_seconds(pids) - cpu_before) / count * 1e6
            elapsed = time.monotonic() - began
            print(f"{what}: {elapsed:.2f} s, {cpu:.1f} CPU us and {each:.2f} KiB RSS each")

        began, cpu = time.monotonic(), cpu_seconds(pids)
        held = [stack.enter_context(open_websocket(server.port, "/")) for _ in range(count)]
        report(f"{count:,} open", began, cpu)
        if time.monotonic() - began > INTERVAL:
            raise BenchError("the machine is too slow to open as many before they are pinged")
        began, cpu = time.monotonic(), cpu_seconds(pids)
        pinged = answer_pings(held, INTERVAL + 15)
        report(f"{pinged:,} pinged", began, cpu)
        began, cpu = time.monotonic(), cpu_seconds(pids)
        for connection in held:
            echo_once(connection, b"x" * 64)
        report(f"{count:,} echoed", began, cpu)
        still_open = count - len(readable(held))
        print(f"{still_open:,} still open and silent")
        return pinged == still_open == count


def answer_pings(held: Sequence[socket.socket], seconds: float) -> int:
    """How many were pinged in time; each gets its pong at once."""
    by_descriptor = {connection.fileno(): connection for connection in held}
    epoll = select.epoll()
    for descriptor in by_descriptor:
        epoll.register(descriptor, select.EPOLLIN)
    pinged = 0
    end = time.monotonic() + seconds
    while pinged < len(held) and time.monotonic() < end:
        for descriptor, _ in epoll.poll(1):
            connection = by_descriptor[descriptor]
            if connection.recv(64) != PING:
                raise BenchError("something else than a ping came")
            connection.sendall(PONG)
            epoll.unregister(descriptor)
            pinged += 1
    return pinged


if __name__ == "__main__":
    sys.exit(main())
