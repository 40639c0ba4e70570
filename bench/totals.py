"""Whether every answer is counted, exactly once: ``python -m bench.totals [--requests 200000]``.

Starts `pounce` with four workers and sends a known mix of requests, each to its end before the next
one on its connection. Meanwhile workers are killed with SIGKILL and the pool is reloaded, and it is
scraped all the time. At the end what is scraped must be what was answered, but for requests that
were in progress when a worker was killed: the client did not see their answers, or they were
answered in the very moment and not counted (the log says how many). Those are listed. Exits with
status 1 when a number is not what it must be, or has ever fallen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.environment import ROOT
from bench.errors import BenchError
from bench.run import exit_on_term
from pounce.supervisor.control_client import ask
from pounce.supervisor.control_messages import ControlError

WORKERS: Final = 4
PATIENCE: Final = 60.0
KILL_ATTEMPTS: Final = 100
"""Seconds that the program has to boot, and to end."""
ATTEMPTS: Final = 200
IN_PROGRESS: Final = re.compile(rb"([A-Z]+ \S+) from 127\.0\.0\.1:(\d+), for [0-9.]+ s")
UNCOUNTED: Final = re.compile(rb"left (\d+) requests that it had answered, but not counted")
SAMPLE: Final = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([^ ]+)$", re.MULTILINE)
NEVER_FALLING: Final = ("_total", "_bucket", "_count", "_seconds_sum", "_bytes_sum")


class Kind(NamedTuple):
    """Requests that are alike."""

    method: str
    status: int
    received: int
    """Bytes of the request's content."""
    size: int
    """Bytes of the response's content."""

    @property
    def line(self) -> str:
        """Method and target."""
        return f"{self.method} /{self.status}/{self.size}"

    @property
    def message(self) -> bytes:
        """The request on the wire."""
        head = f"{self.line} HTTP/1.1\r\nHost: bench\r\n"
        length = f"Content-Length: {self.received}\r\n" if self.received else ""
        return f"{head}{length}\r\n".encode() + b"x" * self.received


class Loss(NamedTuple):
    """A connection that was gone before an answer."""

    port: int
    """The client's."""
    line: str
    """Method and target of the request without an answer."""
    before: str
    """Those of the request before it on the connection, which was answered; empty if there was
    none."""


MIX: Final = (
    *(Kind("GET", 203, 0, size) for size in (0, 13, 13, 13, 700, 20_000)),
    Kind("GET", 404, 0, 9),
    Kind("GET", 500, 0, 21),
    Kind("POST", 201, 100, 2),
    Kind("PUT", 200, 5_000, 300),
    Kind("DELETE", 204, 0, 0),
)
"""Drawn from at random. Nothing is asked with GET and answered 200: scrapes are."""


@dataclass(slots=True)
class Tally:
    """What the client has seen."""

    answered: Counter[Kind] = field(default_factory=Counter)
    unanswered: list[Kind] = field(default_factory=list)
    """Their connection was gone before the answer."""
    losses: list[Loss] = field(default_factory=list)


@dataclass(slots=True)
class Watch:
    """What successive scrapes have said."""

    scrapes: int = 0
    last: dict[str, float] = field(default_factory=dict)
    falls: list[str] = field(default_factory=list)

    def note(self, now: dict[str, float]) -> None:
        self.scrapes += 1
        for name, before in self.last.items():
            family = name.partition("{")[0]
            # What the system says of single processes goes with them.
            if "worker=" in name or not family.endswith(NEVER_FALLING):
                continue
            if now.get(name, 0.0) < before:
                self.falls.append(f"{name}: {before:.0f}, then {now.get(name)}")
        self.last = now


class Client:
    """Keeps connections busy until all requests were sent."""

    def __init__(self, port: int, requests: int, seed: int) -> None:
        self.tally = Tally()
        self._port = port
        self._rng = random.Random(seed)
        self._kinds = iter(self._rng.choices(MIX, k=requests))
        self.sent = 0

    async def run(self, connections: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(self._keep_asking())

    async def _keep_asking(self) -> None:
        stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        before = ""
        for kind in self._kinds:
            self.sent += 1
            if stream is None:
                stream, before = await self._connect(), ""
            reader, writer = stream
            try:
                writer.write(kind.message)
                stays = await _read_answer(reader, kind)
            except (OSError, asyncio.IncompleteReadError):
                self.tally.unanswered.append(kind)
                port = writer.get_extra_info("sockname")[1]
                self.tally.losses.append(Loss(port, kind.line, before))
                stays = False
            else:
                self.tally.answered[kind] += 1
                before = kind.line
            if not stays or self._rng.random() < 0.01:
                writer.close()
                stream = None
        if stream is not None:
            stream[1].close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(ATTEMPTS):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._port)
            await asyncio.sleep(0.05)
        raise BenchError("the server does not accept connections")


async def _read_answer(reader: asyncio.StreamReader, kind: Kind) -> bool:
    """Reads the answer, which must be right. Whether the connection stays."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(kind.size)
    if not head.startswith(b"HTTP/1.1 %d " % kind.status):
        raise BenchError(f"{kind} was answered {head[:60]!r}")
    return b"connection: close" not in head.lower()


class Program:
    """`pounce` with its control socket and its log."""

    def __init__(self, folder: Path) -> None:
        self._control = folder / "control"
        self.log = folder / "log"
        command = [sys.executable, "-m", "pounce", "bench.apps.mix_app:app", "--port", "0"]
        command += ["--workers", str(WORKERS), "--metrics", "--no-access-log"]
        command += ["--control-socket", str(self._control)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.port = 0

    async def __aenter__(self) -> Program:
        deadline = time.monotonic() + PATIENCE
        while not await self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                await self.__aexit__()
                raise BenchError(f"pounce did not start: {self.log.read_text()}")
            await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                await asyncio.to_thread(self.process.wait, PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    async def _is_ready(self) -> bool:
        try:
            status = await self._ask("status")
        except ControlError:
            return False
        self.port = int(status["addresses"][0].rpartition(":")[2])
        return len(_ready(status)) == WORKERS

    async def ready_pids(self) -> list[int]:
        return _ready(await self._ask("status"))

    async def reload(self) -> None:
        await self._ask("reload")

    async def _ask(self, command: str) -> dict[str, Any]:
        return await asyncio.to_thread(ask, self._control, command, timeout=PATIENCE)

    async def scrape(self) -> dict[str, float]:
        """All samples, of any worker."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError("no answer to the scrape")
        return {
            f"{name}{{{labels}}}" if labels else name: float(value)
            for name, labels, value in SAMPLE.findall(body.decode())
        }

    def uncounted(self) -> int:
        """Requests that killed workers had answered but not counted."""
        return sum(map(int, UNCOUNTED.findall(self.log.read_bytes())))

    def in_progress(self) -> list[tuple[str, int]]:
        """Method, target and client port of what killed workers left, but for scrapes."""
        lines = {kind.line for kind in MIX}
        found = IN_PROGRESS.findall(self.log.read_bytes())
        return [(line.decode(), int(port)) for line, port in found if line.decode() in lines]


def _ready(status: dict[str, Any]) -> list[int]:
    return [each["pid"] for each in status["workers"] if each["state"] == "ready"]


@contextlib.asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def keep_scraping(program: Program, watch: Watch) -> None:
    while True:
        with contextlib.suppress(OSError):  # its worker was killed
            watch.note(await program.scrape())
        await asyncio.sleep(0.05)


async def disturb(program: Program, client: Client, requests: int, kills: int, reloads: int) -> int:
    """Kills and reloads, spread evenly over the requests. The number of kills."""
    rng = random.Random(requests)
    steps = ["kill"] * kills + ["reload"] * reloads
    rng.shuffle(steps)
    killed = 0
    for number, step in enumerate(steps, 1):
        while client.sent < requests * number / (len(steps) + 1):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if step == "reload":
            await program.reload()
        else:
            killed += await kill_one(program, rng)
    return killed


async def kill_one(program: Program, rng: random.Random) -> bool:
    """Whether a worker could be killed: one that is to leave may have left meanwhile."""
    for _ in range(KILL_ATTEMPTS):
        pids = await program.ready_pids()
        for pid in rng.sample(pids, len(pids)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        await asyncio.sleep(0.05)
    return False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a run."""

    tally: Tally
    watch: Watch
    kills: int
    uncounted: int
    """Requests that killed workers had answered but not counted, by the log."""
    noted_late: int = 0
    """Requests that the log has as in progress at a kill although the client has their answer: it
    was written, but not noted."""

    @property
    def excepted(self) -> int:
        """Answers that need not be counted, each of which the log has."""
        return self.uncounted + self.noted_late


async def run(
    requests: int, *, connections: int = 32, kills: int = 12, reloads: int = 4, seed: int = 1
) -> Outcome:
    """All of it."""
    with tempfile.TemporaryDirectory(prefix="pounce-totals-") as folder:
        async with Program(Path(folder)) as program:
            client, watch = Client(program.port, requests, seed), Watch()
            async with in_background(keep_scraping(program, watch)), asyncio.TaskGroup() as group:
                work = group.create_task(disturb(program, client, requests, kills, reloads))
                await client.run(connections)
            watch.note(await settled(program))
            kills = work.result()
            uncounted = program.uncounted()
            noted_late = late_notes(program.in_progress(), client.tally.losses)
            return Outcome(client.tally, watch, kills, uncounted, noted_late)


def late_notes(in_progress: Sequence[tuple[str, int]], losses: Sequence[Loss]) -> int:
    """How many of the requests that the log has as in progress the client has the answers to.

    Of a lost connection it may be the request before the lost one, whose answer the client had
    already replied to with the next. Where both are alike that cannot be told, and it is taken to
    be so.

    Args:
        in_progress: Method and target, and the client's port.
        losses: Connections that the client lost.
    """
    missing = Counter((loss.line, loss.port) for loss in losses if loss.line != loss.before)
    return (Counter(in_progress) - missing).total()


async def settled(program: Program) -> dict[str, float]:
    """The first scrape after which no more requests are counted, but scrapes."""
    deadline = time.monotonic() + PATIENCE
    before: dict[tuple[str, int], float] = {}
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ControlError):
            now = await program.scrape()
            counted = by_status(now)
            if counted == before and len(await program.ready_pids()) == WORKERS:
                return now
            before = counted
        await asyncio.sleep(0.3)
    raise BenchError("the totals do not come to rest")


def by_status(samples: dict[str, float]) -> dict[tuple[str, int], float]:
    """Requests by method and status, those of the mix alone."""
    wanted = {(kind.method, kind.status) for kind in MIX}
    found = {}
    for method, status in sorted(wanted):
        name = f'http_requests_total{{method="{method}",status="{status}"}}'
        found[method, status] = samples.get(name, 0.0)
    return found


def complaints(outcome: Outcome) -> Iterator[str]:
    """What is not as it must be, one line each."""
    tally, found = outcome.tally, by_status(outcome.watch.last)
    missing = 0
    for (method, status), counted in found.items():

        def number(kinds: Counter[Kind], key: tuple[str, int] = (method, status)) -> int:
            return sum(count for kind, count in kinds.items() if kind[:2] == key)

        answered, unanswered = number(tally.answered), number(Counter(tally.unanswered))
        missing += max(0, answered - int(counted))
        if counted > answered + unanswered:
            yield f"{method} {status}: {counted:.0f} counted, {answered} answered"
    if missing > outcome.excepted:
        yield f"{missing} answers are not counted, the log tells of {outcome.excepted}"
    contents = {(kind.method, kind.status): kind.received for kind in MIX}
    expected = sum(contents[key] * counted for key, counted in found.items())
    summed = outcome.watch.last["http_request_size_bytes_sum"]
    if abs(summed - expected) > outcome.excepted * max(contents.values()):
        yield f"the contents of requests are {summed:.0f} bytes, not {expected:.0f}"
    yield from outcome.watch.falls


def report(outcome: Outcome) -> Iterator[str]:
    tally, found = outcome.tally, by_status(outcome.watch.last)
    answered = Counter[tuple[str, int]]()
    for kind, count in tally.answered.items():
        answered[kind.method, kind.status] += count
    yield f"{answered.total()} requests answered, {outcome.kills} workers killed,"
    yield f"{outcome.watch.scrapes} scrapes"
    for key, counted in found.items():
        yield f"  {key[0]:<7}{key[1]}  answered {answered[key]:>8}  counted {counted:>8.0f}"
    yield f"in progress when a worker ended, the client saw no answer: {len(tally.unanswered)}"
    for kind, count in sorted(Counter(tally.unanswered).items()):
        yield f"  {count} {kind.method} /{kind.status}/{kind.size}"
    yield f"in progress by the log, though the client has the answer: {outcome.noted_late}"
    yield f"answered but not counted, by the log: {outcome.uncounted}"


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m bench.totals")
    options.add_argument("--requests", type=int, default=200_000)
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--kills", type=int, default=12)
    options.add_argument("--reloads", type=int, default=4)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args(arguments)
    signal.signal(signal.SIGTERM, exit_on_term)
    begin = time.monotonic()
    try:
        outcome = asyncio.run(
            run(
                chosen.requests,
                connections=chosen.connections,
                kills=chosen.kills,
                reloads=chosen.reloads,
                seed=chosen.seed,
            )
        )
    except BenchError as error:
        print(f"totals: {error}", file=sys.stderr)
        return 1
    print("\n".join(report(outcome)))
    wrong = list(complaints(outcome))
    print("\n".join(wrong) if wrong else f"all is right, in {time.monotonic() - begin:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
