"""The steady load of `bench.churn`, a process of its own: some of the requests on new connections,
the others on kept ones, at a fixed rate whether the server keeps up or not.

It ends when its standard input does, or when its time is over, and leaves a record of every request
in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, cast

OK: Final = 0
FAILURES: Final = {
    1: "refused",
    2: "reset",
    3: "incomplete",
    4: "timeout",
    5: "status",
    6: "other",
}
"""Kinds of failure: no connection; reset; the server closed before the whole answer; no answer in
time; another status than 200; anything else, such as a TLS alert."""
REFUSED, RESET, INCOMPLETE, TIMEOUT, STATUS, OTHER = FAILURES

PACE: Final = 0.005
"""Seconds between two looks at how many requests are due."""
KEPT_CONNECTIONS: Final = 64
"""Connections that are kept; a request waits for one, as in the pool of any client. A client that
opens another when it is late is later still, and over TLS never recovers."""
IN_FLIGHT: Final = 8000
"""Requests at once; those that would be due then are skipped, and counted."""
SOURCES: Final = [f"127.0.0.{last}" for last in range(2, 12)]
"""Addresses to connect from, so that closed connections do not use up the ports of one."""

_RECORD: Final = struct.Struct("<ddBBi")
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: churn\r\n\r\n"
_LAST_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: churn\r\nConnection: close\r\n\r\n"
_KINDS_BY_ERROR: Final = {
    errno.ECONNREFUSED: REFUSED,
    errno.EAGAIN: REFUSED,  # the queue of a Unix socket is full
    errno.ENOENT: REFUSED,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    errno.ECONNABORTED: RESET,
    errno.ETIMEDOUT: TIMEOUT,
}


class Request(NamedTuple):
    """What became of one request."""

    began: float
    """Monotonic seconds."""
    seconds: float
    outcome: int
    """`OK`, or one of `FAILURES`."""
    kept: bool
    """Whether it was sent on a connection that had been used before."""
    worker: int
    """Process id of who answered, or who had answered on that connection before; 0: unknown."""


def kind_of(error: BaseException | None) -> int:
    """The kind of failure that an error of a connection is; None is an orderly end."""
    if error is None:
        return INCOMPLETE
    if isinstance(error, TimeoutError):
        return TIMEOUT
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, ConnectionError):
        return RESET
    if isinstance(error, OSError) and error.errno in _KINDS_BY_ERROR:
        return _KINDS_BY_ERROR[error.errno]
    return OTHER


class Answer(NamedTuple):
    status: int
    closes: bool
    worker: int


def parse_answer(data: bytes) -> Answer | None:
    """A complete response; None while something is missing.

    Raises:
        ValueError: It is no response to this program's requests.
    """
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return None
    status_line, *lines = head.split(b"\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip().lower()
    missing = int(fields.get(b"content-length", b"0")) - len(body)
    if missing > 0:
        return None
    if missing < 0 or not status_line.startswith(b"HTTP/1.1 "):
        raise ValueError(f"no response: {data[:100]!r}")
    worker = int(fields.get(b"x-worker", b"0"))
    return Answer(int(status_line[9:12]), fields.get(b"connection") == b"close", worker)


def write_records(path: Path, requests: Iterable[Request]) -> None:
    path.write_bytes(b"".join(_RECORD.pack(*request) for request in requests))


def read_records(path: Path) -> list[Request]:
    return [
        Request(began, seconds, outcome, bool(kept), worker)
        for began, seconds, outcome, kept, worker in _RECORD.iter_unpack(path.read_bytes())
    ]


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[Answer] | None = None
        self.transport: asyncio.Transport | None = None
        self.gone = False
        self.used = False
        self.worker = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        assert self.transport is not None
        self._buffer = b""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            answer = parse_answer(self._buffer)
        except ValueError as error:
            self._end(error)
            return
        if answer is None or self._answer is None:
            return
        self.worker = answer.worker
        self.used = True
        if answer.closes:
            self.gone = True
        if not self._answer.done():
            self._answer.set_result(answer)

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        self.gone = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or EOFError())

    def close(self) -> None:
        self.gone = True
        if self.transport is not None:
            self.transport.close()


class Load:
    """Args: see `main`; `target` is a path or a port, and one request in `new_every` is sent on a
    new connection."""

    def __init__(
        self,
        target: str | int,
        rate: float,
        timeout: float,
        context: ssl.SSLContext | None,
        new_every: int = 2,
    ) -> None:
        self._target = target
        self._rate = rate
        self._timeout = timeout
        self._context = context
        self._new_every = new_every
        self._sources = itertools.cycle(SOURCES)
        self._idle: deque[Client] = deque()
        self._room = asyncio.Semaphore(KEPT_CONNECTIONS)
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[Request] = []
        self.skipped = 0

    async def run(self, seconds: float, stop: asyncio.Event) -> None:
        """Sends requests until the time is over or `stop` is set, and awaits their answers."""
        began = time.monotonic()
        sent = 0
        while not stop.is_set() and (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * self._rate)
            for number in range(sent, due):
                if len(self._tasks) >= IN_FLIGHT:
                    self.skipped += 1
                    continue
                task = asyncio.ensure_future(self._request(keep=number % self._new_every != 0))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            sent = due
            await asyncio.sleep(PACE)
        if self._tasks:
            await asyncio.wait(self._tasks)
        for client in self._idle:
            client.close()

    async def _request(self, *, keep: bool) -> None:
        began = time.monotonic()
        if keep:
            async with self._room:
                await self._ask(began, keep=True)
        else:
            await self._ask(began, keep=False)

    async def _ask(self, began: float, *, keep: bool) -> None:
        client = None
        kept, outcome = False, OK
        try:
            async with asyncio.timeout(self._timeout):
                client = self._take_idle() if keep else None
                if client is None:
                    client = await self._connect()
                kept = client.used
                answer = await client.ask(_REQUEST if keep else _LAST_REQUEST)
            outcome = OK if answer.status == 200 else STATUS
        except EOFError:
            outcome = INCOMPLETE
        except (OSError, ValueError) as error:
            outcome = kind_of(error)
        worker = 0 if client is None else client.worker
        self.requests.append(Request(began, time.monotonic() - began, outcome, kept, worker))
        if client is not None:
            if keep and outcome == OK and not client.gone:
                self._idle.append(client)
            else:
                client.close()

    def _take_idle(self) -> Client | None:
        while self._idle:
            client = self._idle.popleft()
            if not client.gone:
                return client
            client.close()
        return None

    async def _connect(self) -> Client:
        loop = asyncio.get_running_loop()
        client = Client()
        name = None if self._context is None else "localhost"
        if isinstance(self._target, str):
            await loop.create_unix_connection(
                lambda: client, self._target, ssl=self._context, server_hostname=name
            )
        else:
            await loop.create_connection(
                lambda: client,
                "127.0.0.1",
                self._target,
                ssl=self._context,
                server_hostname=name,
                local_addr=(next(self._sources), 0),
            )
        return client


async def run(settings: dict[str, object], out: Path) -> None:
    target, ca_file = settings["target"], settings["ca_file"]
    assert isinstance(target, str | int)
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else None
    load = Load(
        target,
        float(str(settings["rate"])),
        float(str(settings["timeout"])),
        context,
        int(str(settings["new_every"])),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), stop.set)
    print("begun", flush=True)
    try:
        await load.run(float(str(settings["seconds"])), stop)
    finally:
        loop.remove_reader(sys.stdin.fileno())
        write_records(out, load.requests)
    print(json.dumps({"skipped": load.skipped}))


def main() -> None:
    """Arguments: the settings as JSON, and the file for the records."""
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run(json.loads(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
