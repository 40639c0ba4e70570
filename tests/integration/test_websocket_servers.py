"""WebSockets by the real program and clients of `websockets`: one worker, many, threads, TLS."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.endpoint import Certificates
from tests.integration.pool_process import serving_pool
from tests.integration.server_process import ServerProcess
from tests.integration.worker_modes import mode_named
from tests.metrics.scraping import parse_text, value
from tests.waiting import PATIENCE, wait_until

APP = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"http"})
        return
    await receive()
    if scope["path"] == "/denied":
        await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    if scope["path"] == "/closed":
        await send({"type": "websocket.close"})
        return
    protocols = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": protocols[0] if protocols else None})
    if scope["path"] == "/broken":
        raise LookupError("on purpose")
    await send({"type": "websocket.send", "text": f"{scope['scheme']} {os.getpid()}"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            print("closed", message["code"], message["reason"], flush=True)
            return
        if message.get("text") == "close":
            await send({"type": "websocket.close", "code": 4000, "reason": "as you like"})
        else:
            await send({**message, "type": "websocket.send"})
"""


@contextlib.contextmanager
def joined(server: Any, path: str = "/", **options: Any) -> Iterator[ClientConnection]:
    """A client of a server that listens on TCP."""
    process: ServerProcess = getattr(server, "server", server)
    scheme = "wss" if process.url.startswith("https") else "ws"
    options.setdefault("open_timeout", PATIENCE)
    options.setdefault("max_size", None)
    host = "localhost" if scheme == "wss" else "127.0.0.1"
    if scheme == "wss":
        options.setdefault("sock", process.connect())
    with connect(f"{scheme}://{host}:{process.port}{path}", proxy=None, **options) as client:
        yield client


def converse(client: ClientConnection) -> None:
    """What any WebSocket must be able to do."""
    for message in ("é" * 10, b"\x00\xff", "", b"", "x" * 70_000, bytes(300_000)):
        client.send(message)
        assert client.recv(timeout=PATIENCE) == message
    client.send(["in ", "three ", "parts"])
    assert client.recv(timeout=PATIENCE) == "in three parts"
    assert client.ping("here").wait(PATIENCE)
    for i in range(500):
        client.send(str(i))
    assert [client.recv(timeout=PATIENCE) for _ in range(500)] == [str(i) for i in range(500)]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("compression", ["deflate", None])
def test_a_client_and_one_worker(loop: str, compression: Any) -> None:
    with ServerProcess(APP, "--loop", loop) as server:
        with joined(server, compression=compression, subprotocols=["a"]) as client:
            assert client.subprotocol == "a"
            assert client.recv(timeout=PATIENCE) == f"ws {server.pid}"
            converse(client)
            client.send("close")
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=PATIENCE)
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "as you like")
        with joined(server) as client:
            client.close(3001, "bye")
        wait_until(
            lambda: server.stdout_text() == "closed 4000 as you like\nclosed 3001 bye\n",
            "the application is told of both ends",
        )
        wait_until(lambda: server.stderr_text().count('"GET / HTTP/1.1" 101 ') == 2, "both logged")


@pytest.mark.parametrize("mode", ["process", "thread", "free-threaded"])
def test_a_pool(mode: str) -> None:
    with serving_pool("--metrics", app=APP, mode=mode_named(mode)) as pool:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(joined(pool)) for _ in range(20)]
            for client in clients:
                client.recv(timeout=PATIENCE)
                converse(client)
        with pool.server.client() as http:

            def counted() -> dict[Any, float]:
                return parse_text(http.get("/metrics").content)

            wait_until(
                lambda: value(counted(), "http_connections_active", protocol="ws") == 0,
                "all are gone",
            )
            wait_until(
                lambda: value(counted(), "http_websocket_closes_total", code="1000") == 20,
                "all ends are counted",
            )
            samples = counted()
        assert value(samples, "http_connections_total", protocol="ws") == 20
        assert value(samples, "http_connections_active", protocol="h1") == 1
        assert value(samples, "http_websocket_closes_total", code="1000") == 20
        for direction, greetings in (("received", 0), ("sent", 20)):
            name = f"http_websocket_messages_{direction}_total"
            assert value(samples, name, type="text") == 20 * 504 + greetings
            assert value(samples, name, type="binary") == 20 * 3


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_over_tls(loop: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    with (
        ServerProcess(APP, "--loop", loop, *certificates.options) as server,
        joined(server, ssl=certificates.client_context(), server_hostname="localhost") as client,
    ):
        assert client.recv(timeout=PATIENCE) == f"wss {server.pid}"
        converse(client)


def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with ServerProcess(APP, "--uds", str(path)):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        with connect("ws://localhost/", sock=sock, proxy=None, open_timeout=PATIENCE) as client:
            client.recv(timeout=PATIENCE)
            client.send("x")
            assert client.recv(timeout=PATIENCE) == "x"


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "status", "body"), [("/denied", 418, b"no"), ("/closed", 403, b"")]
    )
    def test_by_the_application(self, path: str, status: int, body: bytes) -> None:
        with ServerProcess(APP) as server:
            with pytest.raises(InvalidStatus) as caught, joined(server, path):
                pass
            assert caught.value.response.status_code == status
            assert caught.value.response.body == body
            line = f'"GET {path} HTTP/1.1" {status} '
            wait_until(lambda: line in server.stderr_text(), "it is logged")

    def test_where_they_are_not_wanted(self) -> None:
        with ServerProcess(APP, "--ws", "none") as server:
            with pytest.raises(InvalidStatus) as caught, joined(server):
                pass
            assert caught.value.response.status_code == 200
            assert caught.value.response.body == b"http"


def test_a_failing_application_closes_with_1011() -> None:
    with ServerProcess(APP) as server:
        with joined(server, "/broken") as client, pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=PATIENCE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1011
        wait_until(lambda: "LookupError: on purpose" in server.stderr_text(), "it is logged")


def send_too_much(client: ClientConnection) -> None:
    """The end may come before the last fragment, which is empty, is sent."""
    client.send([bytes(1000), bytes(25)])
    client.recv(timeout=PATIENCE)


def test_messages_have_a_limit() -> None:
    with ServerProcess(APP, "--ws-max-size", "1KiB") as server, joined(server) as client:
        client.recv(timeout=PATIENCE)
        client.send(bytes(1024))
        assert client.recv(timeout=PATIENCE) == bytes(1024)
        with pytest.raises(ConnectionClosed) as caught:
            send_too_much(client)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009


def test_a_silent_client_is_cut() -> None:
    options = ("--ws-ping-interval", "100ms", "--ws-ping-timeout", "20s", "--metrics")
    with ServerProcess(APP, *options) as server:
        # A client that answers stays.
        with joined(server) as lively:
            lively.recv(timeout=PATIENCE)
            with server.connect() as sock:
                sock.sendall(
                    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
                    b"Sec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
                data = b""
                while part := sock.recv(65536):
                    data += part
            assert data.endswith(b"\x89\x00\x88\x11\x03\xf3no pong in time")
            lively.send("still here")
            assert lively.recv(timeout=PATIENCE) == "still here"
        with server.client() as http:
            samples = parse_text(http.get("/metrics").content)
        assert value(samples, "http_timeouts_total", reason="ws_ping") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_at_the_end_every_client_is_told_1012(number: signal.Signals) -> None:
    with ServerProcess(APP) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(joined(server)) for _ in range(5)]
        for client in clients:
            client.recv(timeout=PATIENCE)
        server.send_signal(number)
        for client in clients:
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
        assert server.wait() == 0
        assert server.stdout_text() == "closed 1012 \n" * 5


def test_a_reload_moves_clients_to_new_workers() -> None:
    with serving_pool(app=APP) as pool, contextlib.ExitStack() as stack:
        before = {worker["pid"] for worker in pool.workers()}
        clients = [stack.enter_context(joined(pool)) for _ in range(6)]
        for client in clients:
            client.recv(timeout=PATIENCE)
        pool.server.send_signal(signal.SIGHUP)
        for client in clients:
            with pytest.raises(ConnectionClosed) as caught:
                client.recv(timeout=PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1012
        wait_until(lambda: not before & {worker["pid"] for worker in pool.workers()}, "all are new")
        with joined(pool) as again:
            again.recv(timeout=PATIENCE)
            converse(again)
