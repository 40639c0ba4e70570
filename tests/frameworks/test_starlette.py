"""Starlette, with what it does beyond the other frameworks: pathsend, ranges, early hints."""

from __future__ import annotations

import signal
import socket
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import httpx
import pytest

from tests.frameworks.contract import FrameworkContract
from tests.frameworks.served_app import FILE_CONTENT, Client, ServedApp, serve
from tests.frameworks.steering import assert_events_arrive_when_made, events, wait_for_events
from tests.integration.endpoint import Certificates
from tests.integration.server_process import ServerProcess, parse_responses
from tests.waiting import wait_until

APP = "tests.frameworks.apps.starlette_app:app"
SIZE = len(FILE_CONTENT)


class TestStarlette(FrameworkContract):
    def test_requests_get_copies_of_the_lifespan_state(self, client: httpx.Client) -> None:
        first = client.get("/state").json()
        second = client.get("/state").json()
        assert first["greeting"] == second["greeting"] == "from startup"
        # What the state refers to is shared: the copy is shallow.
        assert second["shared"] == [*first["shared"], len(first["shared"])]

    def test_a_file_is_sent_by_the_server(self, client: httpx.Client, key: str) -> None:
        response = client.get("/file", params={"record": key})
        assert response.content == FILE_CONTENT
        assert events(client, key) == ["http.response.start", "http.response.pathsend"]

    @pytest.mark.parametrize("path", ["/file", "/static/file.bin"])
    def test_a_file_that_the_client_has_is_not_sent(self, client: httpx.Client, path: str) -> None:
        response = client.head(path)
        assert response.headers["content-length"] == str(SIZE)
        assert response.content == b""
        headers = {"If-None-Match": response.headers["etag"]}
        expected = 304 if path.startswith("/static") else 200
        assert client.get(path, headers=headers).status_code == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("bytes=0-0", FILE_CONTENT[:1]),
            ("bytes=70000-2000000", FILE_CONTENT[70000:2000001]),
            ("bytes=-100", FILE_CONTENT[-100:]),
            (f"bytes={SIZE - 1}-", FILE_CONTENT[-1:]),
        ],
    )
    @pytest.mark.parametrize("path", ["/file", "/static/file.bin"])
    def test_serves_a_range(
        self, client: httpx.Client, path: str, value: str, expected: bytes
    ) -> None:
        response = client.get(path, headers={"Range": value})
        assert response.status_code == 206
        assert response.headers["content-length"] == str(len(expected))
        assert response.headers["content-range"].endswith(f"/{SIZE}")
        assert response.content == expected
        head = client.head(path, headers={"Range": value})
        assert (head.status_code, head.content) == (206, b"")

    def test_serves_several_ranges(self, client: httpx.Client) -> None:
        response = client.get("/file", headers={"Range": "bytes=10-19,1000000-1000099"})
        assert response.status_code == 206
        head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode("ascii")
        message = BytesParser().parsebytes(head + response.content)
        parts = message.get_payload()
        assert isinstance(parts, list)
        ranges = [part["content-range"] for part in parts if isinstance(part, Message)]
        assert ranges == [f"bytes 10-19/{SIZE}", f"bytes 1000000-1000099/{SIZE}"]
        assert FILE_CONTENT[10:20] in response.content
        assert FILE_CONTENT[1000000:1000100] in response.content

    def test_refuses_a_range_beyond_the_end(self, client: httpx.Client) -> None:
        response = client.get("/file", headers={"Range": f"bytes={SIZE}-"})
        assert response.status_code == 416
        assert response.headers["content-range"] == f"bytes */{SIZE}"

    def test_events_arrive_when_they_are_made(self, client: Client, key: str) -> None:
        assert_events_arrive_when_made(client, key)

    def test_early_hints_come_before_the_response(
        self, served: ServedApp, client: httpx.Client
    ) -> None:
        raw = served.process.request(b"GET /hints HTTP/1.1\r\nHost: localhost\r\n\r\n")
        responses, rest = parse_responses(raw)
        assert rest == b""
        assert [response.status for response in responses] == [103, 200]
        assert responses[0].value(b"link") == b"</style.css>; rel=preload; as=style"
        assert responses[1].body == b"styled"

    @pytest.mark.parametrize("leave", [socket.SHUT_WR, socket.SHUT_RDWR])
    def test_an_application_that_asks_is_told_that_the_client_left(
        self, served: ServedApp, client: httpx.Client, key: str, leave: int
    ) -> None:
        with served.process.connect() as sock:
            head = f"GET /wait-for-disconnect?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            sock.sendall(head.encode())
            wait_for_events(client, key, "waiting")
            sock.shutdown(leave)
            wait_for_events(client, key, "waiting", "gone")

    @pytest.mark.parametrize("query", ["", "?length"])
    def test_a_buffer_may_be_used_again_once_it_was_sent(
        self, client: httpx.Client, query: str
    ) -> None:
        response = client.get(f"/reused-buffer{query}")
        assert response.text == "".join(f"{number:03d}\n" for number in range(100))

    def test_makes_urls_from_what_the_client_asked_for(self, client: httpx.Client) -> None:
        base = f"{client.base_url}/"
        assert client.get("/where?a=1").json()["url"] == f"{base}where?a=1"
        assert client.get("/mounted/where").json()["url"] == f"{base}mounted/where"
        response = client.get("/hello/")
        assert response.status_code == 307
        assert response.headers["location"] == f"{base}hello"

    def test_believes_a_proxy_on_the_same_host(self, client: httpx.Client) -> None:
        response = client.get(
            "/where",
            headers={
                "Host": "shop.example",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-For": "192.0.2.7",
            },
        )
        assert response.json() == {
            "url": "https://shop.example/where",
            "base": "https://shop.example/",
            "client": ["192.0.2.7", 0],
        }

    def test_knows_that_it_is_served_over_tls(self, tmp_path: Path) -> None:
        certificates = Certificates(tmp_path)
        with (
            serve(APP, tmp_path, *certificates.options) as served,
            served.process.client(verify=certificates.client_context()) as client,
        ):
            assert client.get("/where").json()["url"] == f"{served.process.url}/where"
            assert client.get("/redirect").headers["location"].startswith("https://")
            assert client.get("/file").content == FILE_CONTENT
            assert client.post("/json", json=[1, 2]).json() == [1, 2]

    def test_has_no_client_address_on_a_unix_socket(
        self, tmp_path: Path, short_tmp_path: Path
    ) -> None:
        socket_file = short_tmp_path / "socket"
        with (
            serve(APP, tmp_path, "--uds", str(socket_file)) as served,
            served.process.client() as client,
        ):
            assert client.get("/where").json() == {
                "url": "http://localhost/where",
                "base": "http://localhost/",
                "client": None,
            }
            assert client.get("/file").content == FILE_CONTENT


def test_work_after_the_response_ends_before_the_server(tmp_path: Path) -> None:
    source = f"""
        import asyncio, pathlib
        from starlette.applications import Starlette
        from starlette.background import BackgroundTask
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        folder = pathlib.Path({str(tmp_path)!r})

        async def work():
            while not (folder / "go").exists():
                await asyncio.sleep(0.01)
            (folder / "done").touch()

        async def hello(request):
            return PlainTextResponse("hello", background=BackgroundTask(work))

        app = Starlette(routes=[Route("/", hello)])
    """
    with ServerProcess(source) as server:
        with server.client() as client:
            assert client.get("/").text == "hello"
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: "shutting down" in server.stderr_text(), "it stops")
        assert server.process.poll() is None
        (tmp_path / "go").touch()
        assert server.wait() == 0
    assert (tmp_path / "done").exists()
