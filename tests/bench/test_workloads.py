import asyncio
import socket
import threading
from collections.abc import Iterator, MutableMapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.apps.plain import app
from bench.errors import BenchError
from bench.workloads import BROWSER_HEADERS, WORKLOADS, Workload, check_answer

PLAIN = [
    workload
    for workload in WORKLOADS.values()
    if workload.app == "apps.plain:app" and not workload.message_size
]


async def ask(workload: Workload) -> list[MutableMapping[str, Any]]:
    """What the application sends when the body comes in two parts."""
    body = b"x" * workload.body_size
    parts = [(body[:10], True), (body[10:], False)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        part, more = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": more}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "path": workload.path}, receive, send)
    return sent


@pytest.mark.parametrize("workload", PLAIN, ids=lambda workload: workload.name)
def test_application_gives_the_expected_answer(workload: Workload) -> None:
    start, *bodies = asyncio.run(ask(workload))
    assert start["status"] == 200
    assert b"".join(message["body"] for message in bodies) == workload.answer
    assert bodies[-1].get("more_body", False) is False
    lengths = [int(value) for name, value in start["headers"] if name == b"content-length"]
    assert lengths == ([] if workload.name == "stream" else [len(workload.answer)])


@pytest.mark.parametrize("kind", ["text", "bytes"])
def test_application_echoes_messages(kind: str) -> None:
    content = "x" if kind == "text" else b"x"
    received: list[MutableMapping[str, Any]] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", kind: content},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return received.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.accept"}, {"type": "websocket.send", kind: content}]


def test_application_completes_lifespan() -> None:
    received = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return received.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app({"type": "lifespan"}, receive, send))
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_a_browser_sends_fourteen_headers() -> None:
    assert len({"Host", *(name for name, _ in BROWSER_HEADERS)}) == 14


class Answer(BaseHTTPRequestHandler):
    status = 200
    body = b"Hello, World!"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[int]:
    handler = type("Handler", (Answer,), request.param)
    with HTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("server", [{}], indirect=True)
def test_a_right_answer_passes(server: int) -> None:
    check_answer(WORKLOADS["plain"], server, Path("unused"))


@pytest.mark.parametrize("server", [{"status": 500}, {"body": b"Hello, World"}], indirect=True)
def test_a_wrong_answer_is_an_error(server: int) -> None:
    with pytest.raises(BenchError, match="wrong answer"):
        check_answer(WORKLOADS["plain"], server, Path("unused"))


def test_no_answer_is_an_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(BenchError, match="no answer"):
            check_answer(WORKLOADS["plain"], unused.getsockname()[1], Path("unused"))
