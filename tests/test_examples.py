"""Every example does what it says, served as its first lines say."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.server_process import ROOT, ServerProcess, run_pounce
from tests.waiting import wait_until

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")
TESTED = ["demo", "embedded", "fastapi_app", "lifespan_state", "sync_fast_lane"]


def test_every_example_is_tested() -> None:
    assert EXAMPLES == TESTED


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with ServerProcess("examples.demo:app") as server, server.client() as client:
        yield client


class TestDemo:
    def test_the_page_is_html(self, client: httpx.Client) -> None:
        response = client.get("/")
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "is serving this page" in response.text

    def test_head_has_the_head_of_get(self, client: httpx.Client) -> None:
        head, get = client.head("/"), client.get("/")
        assert head.content == b""
        assert head.headers["content-length"] == str(len(get.content))

    def test_the_greeting_knows_the_name(self, client: httpx.Client) -> None:
        assert client.get("/api/hello").json() == {"message": "Hello, world!"}
        assert client.get("/api/hello", params={"name": "Zoë & co"}).json() == {
            "message": "Hello, Zoë & co!"
        }

    def test_requests_are_counted(self, client: httpx.Client) -> None:
        before = client.get("/api/status").json()["requests"]
        client.get("/api/hello")
        assert client.get("/api/status").json()["requests"] == before + 2

    def test_the_scope_is_shown(self, client: httpx.Client) -> None:
        shown = client.get("/api/request?a=b%20c", headers={"X-Test": "yes"}).json()
        assert shown["path"] == "/api/request"
        assert shown["query_string"] == "a=b%20c"
        assert ["x-test", "yes"] in shown["headers"]

    def test_events_arrive_one_by_one(self, client: httpx.Client) -> None:
        with client.stream("GET", "/events?count=3&interval=0.5") as response:
            assert response.headers["content-type"] == "text/event-stream"
            parts = [part for part in response.iter_raw() if part]
        assert b"".join(parts).count(b"\ndata: event ") == 3
        assert len(parts) >= 3
        assert parts[-1].endswith(b"data: that was all\n\n")

    def test_an_upload_is_hashed(self, client: httpx.Client) -> None:
        body = bytes(range(256)) * 4096
        answer = client.post("/upload", content=body).json()
        assert answer["bytes"] == len(body)
        assert answer["sha256"] == hashlib.sha256(body).hexdigest()

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/nothing", 404), ("DELETE", "/upload", 405), ("GET", "/events?count=x", 400)],
    )
    def test_mistakes_are_told(
        self, client: httpx.Client, method: str, path: str, status: int
    ) -> None:
        response = client.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]


def test_fastapi_takes_orders() -> None:
    with ServerProcess("examples.fastapi_app:app") as server, server.client() as client:
        created = client.post("/orders", json={"item": "tea", "quantity": 2})
        assert (created.status_code, created.json()) == (201, {"number": 1})
        assert client.get("/orders/1").json() == {"item": "tea", "quantity": 2}
        assert client.get("/orders/2").status_code == 404
        assert client.post("/orders", json={}).status_code == 422
        wait_until(
            lambda: client.get("/receipts").text == "2 x tea\n", "the background task has run"
        )


def test_the_lifespan_state_is_shared_by_requests() -> None:
    with ServerProcess("examples.lifespan_state:app") as server, server.client() as client:
        assert client.get("/a").text == "visit 1 of /a\n"
        assert client.get("/a").text == "visit 2 of /a\n"
        assert client.get("/b").text == "visit 1 of /b\n"


def test_the_fast_lane_leaves_the_rest_to_the_application() -> None:
    with ServerProcess("examples/sync_fast_lane.py") as server, server.client() as client:
        assert client.get("/ping").text == "pong\n"
        assert client.post("/ping").text == "from the application\n"
        assert client.get("/").text == "from the application\n"


def test_the_embedded_server_serves_and_stops() -> None:
    done = subprocess.run(
        [sys.executable, "examples/embedded.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "/one was served from a thread\n/two was served from a thread\n"


@pytest.mark.parametrize("app", ["demo:app", "fastapi_app:app", "lifespan_state:app"])
def test_check_finds_no_fault(app: str) -> None:
    done = run_pounce("check", f"examples.{app}", "--port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
