"""The master's HTTP server, with real sockets."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pounce.addresses import parse_address
from pounce.metrics import admin
from pounce.metrics.admin import AdminServer
from pounce.metrics.interceptor import Answer, plain_answer
from pounce.net.sockets import bind_address
from tests.integration.responses import Response, parse_responses

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = "x" * (16 * 2**20)


def handle(method: str, target: str, fields: Sequence[tuple[bytes, bytes]]) -> Answer:
    if target == "/broken":
        raise LookupError(target)
    return plain_answer(200, LARGE if target == "/large" else f"{method} {target}")


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0") -> AsyncIterator[socket.socket]:
    """The listening socket of a server that runs meanwhile."""
    sockets = bind_address(parse_address(address))
    async with AdminServer(sockets, handle):
        yield sockets[0]


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes, *methods: str) -> list[Response]:
        """Exactly the responses to these requests."""
        self.writer.write(data)
        received = b""
        while True:
            part = await self.reader.read(65536)
            received += part
            try:
                found, rest = parse_responses(received, methods or ["GET"], closed=not part)
            except Exception:
                if not part:
                    raise
                continue
            assert not rest
            return found

    async def is_closed(self) -> bool:
        """Waits for the end of the connection, without anything before it."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True


def clients() -> list[admin._Client]:
    """Those of the server that runs."""
    return [each for server in list(admin._servers) for each in server._clients.values()]


async def until(condition: Callable[[], bool]) -> None:
    """Fails by the timeout of the test."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(listener: socket.socket) -> AsyncIterator[Client]:
    if listener.family == socket.AF_UNIX:
        streams = await asyncio.open_unix_connection(listener.getsockname())
    else:
        streams = await asyncio.open_connection(*listener.getsockname()[:2])
    try:
        yield Client(*streams)
    finally:
        streams[1].close()


def run(test: Callable[[Client], Awaitable[None]]) -> None:
    """A test with one client."""

    async def main() -> None:
        async with asyncio.timeout(60), serving() as listener, connected(listener) as client:
            await test(client)

    asyncio.run(main())


def test_requests_are_answered_one_after_the_other_on_one_connection() -> None:
    async def test(client: Client) -> None:
        for _ in range(3):
            (response,) = await client.ask(GET)
            assert (response.status, response.body) == (200, b"GET /healthz\n")
            assert response.value(b"date").endswith(b" GMT")
        first, second = await client.ask(GET + GET.replace(b"/healthz", b"/b"), "GET", "GET")
        assert (first.body, second.body) == (b"GET /healthz\n", b"GET /b\n")

    run(test)


def test_head_has_the_fields_and_no_content() -> None:
    async def test(client: Client) -> None:
        (response,) = await client.ask(GET.replace(b"GET", b"HEAD"), "HEAD")
        assert (response.body, response.value(b"content-length")) == (b"", b"14")
        assert (await client.ask(GET))[0].status == 200

    run(test)


def test_requests_may_come_byte_by_byte_and_from_clients_of_1_0() -> None:
    async def test(client: Client) -> None:
        for byte in GET[:-1]:
            client.writer.write(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.ask(GET[-1:]))[0].status == 200
        (response,) = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert response.closes
        assert await client.is_closed()

    run(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", 413),
    ],
)
def test_what_is_not_a_small_request_is_refused(request_: bytes, status: int) -> None:
    async def test(client: Client) -> None:
        (response,) = await client.ask(request_)
        assert response.status == status
        if status != 200:
            assert response.closes
            assert await client.is_closed()

    run(test)


def test_a_page_that_fails_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: Client) -> None:
        assert (await client.ask(GET.replace(b"/healthz", b"/broken")))[0].status == 500
        assert (await client.ask(GET))[0].status == 200

    run(test)
    assert "LookupError" in caplog.text


@pytest.mark.parametrize("begun", [b"", b"GET / HT", GET[:-1]])
def test_slow_clients_are_cut(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "HEAD_TIMEOUT", 0.1)

    async def test(client: Client) -> None:
        client.writer.write(begun)
        assert await client.is_closed()

    run(test)


def test_idle_clients_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "IDLE_TIMEOUT", 0.5)

    async def test(client: Client) -> None:
        assert (await client.ask(GET))[0].status == 200
        assert await client.is_closed()

    run(test)


def test_clients_that_do_not_read_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "WRITE_TIMEOUT", 0.1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60), serving() as listener:
            with socket.create_connection(listener.getsockname()) as sock:
                sock.setblocking(False)
                await loop.sock_sendall(sock, GET.replace(b"/healthz", b"/large"))
                await until(lambda: bool(select.select([sock], [], [], 0)[0]))
                received = 0
                await until(lambda: not clients())
                while part := await loop.sock_recv(sock, 2**20):
                    received += len(part)
                assert 0 < received < len(LARGE)

    asyncio.run(main())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MAX_CLIENTS", 2)


@pytest.mark.usefixtures("few")
def test_of_too_many_clients_the_one_that_is_idle_longest_goes() -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            serving() as listener,
            connected(listener) as first,
            connected(listener) as second,
        ):
            assert (await first.ask(GET))[0].status == 200
            assert (await second.ask(GET))[0].status == 200
            async with connected(listener) as third:
                assert (await third.ask(GET))[0].status == 200
                assert await first.is_closed()
                assert (await second.ask(GET))[0].status == 200

    asyncio.run(main())


@pytest.mark.usefixtures("few")
def test_where_no_client_is_idle_the_new_one_goes() -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            serving() as listener,
            connected(listener) as first,
            connected(listener) as second,
        ):
            for client in (first, second):
                assert (await client.ask(GET))[0].status == 200
                client.writer.write(GET[:5])
                await client.writer.drain()
            await until(lambda: not any(each.is_idle for each in clients()))
            async with connected(listener) as third:
                assert await third.is_closed()
            assert (await first.ask(GET[5:]))[0].status == 200

    asyncio.run(main())


def test_unix_sockets_are_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin"

    async def main() -> None:
        async with serving(f"unix:{path}") as listener, connected(listener) as client:
            assert (await client.ask(GET))[0].status == 200
        assert not path.exists()

    asyncio.run(main())


def test_the_end_lets_go_of_clients_at_once_where_they_are_idle() -> None:
    async def main() -> None:
        async with serving() as listener:
            address = listener.getsockname()
            streams = await asyncio.open_connection(*address)
            client = Client(*streams)
            assert (await client.ask(GET))[0].status == 200
        assert await client.is_closed()
        client.writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads
def test_a_forked_process_keeps_no_copy_of_the_sockets() -> None:
    async def main() -> None:
        async with serving() as listener, connected(listener) as client:
            assert (await client.ask(GET))[0].status == 200
            theirs = [listener.fileno(), *clients_of(client)]
            reading, writing = os.pipe()
            pid = os.fork()
            if not pid:
                open_ones = [fd for fd in theirs if is_open(fd)]
                os.write(writing, b"%d" % len(open_ones))
                os._exit(0)
            await asyncio.to_thread(os.waitpid, pid, 0)
            assert select.select([reading], [], [], 10)[0]
            assert os.read(reading, 9) == b"0"
            os.close(reading)
            os.close(writing)
            assert (await client.ask(GET))[0].status == 200

    asyncio.run(main())


def clients_of(client: Client) -> list[int]:
    """The descriptors of the server's end, in this same process."""
    peer = client.writer.get_extra_info("sockname")
    found = [each.sock.fileno() for each in clients() if each.sock.getpeername() == peer]
    assert found
    return found


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
