"""What every framework must be able to do here. A test class for a framework inherits these tests
and says where its framework differs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from tests.frameworks.apps import probe
from tests.frameworks.served_app import FILE_CONTENT, Client, ServedApp, serve
from tests.frameworks.steering import (
    assert_parts_arrive_when_made,
    open_gate,
    wait_for_events,
)
from tests.integration.server_process import parse_response, receive_until_closed

UPLOAD = random.Random(2).randbytes(3 * 1024 * 1024 + 1)


class FrameworkContract:
    """The tests; the attributes are what differs between frameworks."""

    lifespan_events: ClassVar[list[str]] = ["startup", "shutdown"]
    truncated_upload_events: ClassVar[list[str]] = ["began", "aborted"]
    error_log: ClassVar[str | None] = "ValueError: the handler broke"
    """What is logged of an exception in a handler; None: the framework keeps it to itself."""
    head_length: ClassVar[str | None] = "5"
    """Content-Length of the response to HEAD; the body to GET has 5 bytes."""
    options_status: ClassVar[int] = 405
    redirect_status: ClassVar[int] = 307
    redirect_below_root_path: ClassVar[str] = "/api/hello"
    """Where a redirect leads when the application is at /api for its clients."""
    etag: ClassVar[bool] = True
    """Whether a file is sent with validators and requests with them are answered 304."""

    # Routing

    def test_routes_a_path(self, client: httpx.Client) -> None:
        response = client.get("/hello")
        assert response.status_code == 200
        assert response.text == "hello"
        assert response.headers["content-type"].startswith("text/plain")

    def test_passes_path_and_query_parameters(self, client: httpx.Client) -> None:
        response = client.get("/items/a-name?q=a%20b&q=%C3%BC&plus=1+1&equals=a%3Db")
        assert response.json() == {
            "name": "a-name",
            "query": {"q": ["a b", "ü"], "plus": ["1 1"], "equals": ["a=b"]},
        }

    @pytest.mark.parametrize("name", ["naïve 大きさ", "100%", "a+b", "%41", "🐆", "a;b,c=d"])
    @pytest.mark.parametrize("prefix", ["items", "größe"])
    def test_decodes_a_path_once(self, client: httpx.Client, prefix: str, name: str) -> None:
        escaped = "".join(f"%{byte:02X}" for byte in name.encode())
        assert client.get(f"/{prefix}/{escaped}").json()["name"] == name

    def test_unknown_path_and_method_get_the_answers_of_the_framework(
        self, client: httpx.Client
    ) -> None:
        assert client.get("/nowhere").status_code == 404
        response = client.delete("/json")
        assert response.status_code == 405
        assert "POST" in response.headers["allow"]

    def test_head_is_answered_without_a_body(self, served: ServedApp, client: httpx.Client) -> None:
        raw = served.process.request(
            b"HEAD /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", ["HEAD"]
        )
        response = parse_response(raw, "HEAD")
        assert response.status == 200
        lengths = [value.decode() for value in response.values(b"content-length")]
        assert lengths == ([] if self.head_length is None else [self.head_length])

    def test_options_are_answered(self, served: ServedApp, client: httpx.Client) -> None:
        raw = served.process.request(
            b"OPTIONS /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", ["OPTIONS"]
        )
        response = parse_response(raw, "OPTIONS")
        assert response.status == self.options_status
        assert b"GET" in response.value(b"allow")

    def test_redirects(self, client: httpx.Client) -> None:
        response = client.get("/redirect")
        assert response.status_code == self.redirect_status
        target = client.base_url.join(response.headers["location"])
        assert target == client.base_url.join("/hello")
        assert client.get("/redirect", follow_redirects=True).text == "hello"

    def test_parallel_requests_are_kept_apart(
        self, served: ServedApp, client: httpx.Client
    ) -> None:
        """Several at once on several connections, and several in a row on each."""
        heads = [
            b"".join(
                b"GET /items/%d-%d?q=%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
                % (connection, number, number, b"Connection: close\r\n" if number == 4 else b"")
                for number in range(5)
            )
            for connection in range(8)
        ]
        socks = [served.process.connect() for _ in heads]
        try:
            for sock, head in zip(socks, heads, strict=True):
                sock.sendall(head)
            for connection, sock in enumerate(socks):
                data = receive_until_closed(sock)
                for number in range(5):
                    assert f'"{connection}-{number}"'.encode() in data
        finally:
            for sock in socks:
                sock.close()

    def test_works_below_the_path_of_a_proxy(self, tmp_path: Path, served: ServedApp) -> None:
        with (
            serve(served.app, tmp_path, "--root-path", "/api") as other,
            other.process.client() as client,
        ):
            assert client.get("/hello").text == "hello"
            assert client.get("/größe/%C3%BC").json()["name"] == "ü"
            location = client.get("/redirect").headers["location"]
            assert client.base_url.join(location).path == self.redirect_below_root_path

    # Bodies

    def test_json_of_some_mebibytes_goes_both_ways(self, client: httpx.Client) -> None:
        document = probe.large_document()
        response = client.get("/large")
        assert response.json() == document
        assert int(response.headers["content-length"]) == len(response.content) > 2_000_000
        assert client.post("/json", json=document).json() == document

    def test_a_multipart_upload_arrives_whole(self, client: httpx.Client) -> None:
        response = client.post(
            "/upload", files={"file": ("größe.bin", UPLOAD)}, data={"note": "für später"}
        )
        assert response.status_code == 200, response.text
        assert response.json() == {
            "filename": "größe.bin",
            "sha256": hashlib.sha256(UPLOAD).hexdigest(),
            "size": len(UPLOAD),
            "note": "für später",
        }

    def test_a_chunked_upload_arrives_whole(self, client: httpx.Client) -> None:
        def parts() -> Iterator[bytes]:
            for start in range(0, len(UPLOAD), 100_003):
                yield UPLOAD[start : start + 100_003]

        response = client.post("/digest", content=parts())
        assert "content-length" not in response.request.headers
        assert response.json() == {
            "sha256": hashlib.sha256(UPLOAD).hexdigest(),
            "size": len(UPLOAD),
        }

    def test_a_truncated_upload_is_not_taken_as_complete(
        self, served: ServedApp, client: httpx.Client, key: str
    ) -> None:
        assert "complete" not in self.truncated_upload_events
        head = f"POST /digest?key={key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        with served.process.connect() as sock:
            sock.sendall(head.encode() + b"x" * 999)
            if self.truncated_upload_events:
                wait_for_events(client, key, *self.truncated_upload_events[:1])
            sock.shutdown(1)
            assert b" 200 " not in receive_until_closed(sock)
        wait_for_events(client, key, *self.truncated_upload_events)

    def test_stream_parts_arrive_when_they_are_made(self, client: httpx.Client, key: str) -> None:
        assert_parts_arrive_when_made(client, key)

    def test_a_stream_is_closed_when_the_client_leaves(self, client: Client, key: str) -> None:
        with (
            client.another() as leaving,
            leaving.stream("GET", "/endless", params={"key": key}) as response,
        ):
            received = 0
            for part in response.iter_raw():
                received += len(part)
                if received >= 10 * len(probe.ENDLESS_PART):
                    break
        wait_for_events(client, key, "closed")

    def test_a_stream_is_closed_when_the_client_resets(
        self, served: ServedApp, client: httpx.Client, key: str
    ) -> None:
        with served.process.connect() as sock:
            sock.sendall(f"GET /endless?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert sock.recv(1)
            # Closing with unread data makes the kernel send a reset.
        wait_for_events(client, key, "closed")

    # Files

    def test_serves_a_file(self, client: httpx.Client) -> None:
        response = client.get("/file")
        assert response.headers["content-length"] == str(len(FILE_CONTENT))
        assert response.content == FILE_CONTENT
        if self.etag:
            again = client.get("/file", headers={"If-None-Match": response.headers["etag"]})
            assert again.status_code in (200, 304)
            assert again.content == (b"" if again.status_code == 304 else FILE_CONTENT)
        assert client.get("/hello").text == "hello"

    @pytest.mark.parametrize("path", ["/file", "/large"])
    def test_a_client_that_leaves_a_download_is_no_error(
        self, served: ServedApp, client: httpx.Client, path: str
    ) -> None:
        for length in (1, 1, 100_000, 1_000_000):
            with served.process.connect() as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                while length > 0:
                    length -= len(sock.recv(min(length, 65536)))
        assert client.get("/hello").text == "hello"

    # State

    def test_lifespan_runs_once_around_the_requests(
        self, tmp_path: Path, served: ServedApp
    ) -> None:
        assert served.lifespan_events() == self.lifespan_events[:1]
        with serve(served.app, tmp_path) as other, other.process.client() as client:
            assert client.get("/hello").text == "hello"
            assert other.lifespan_events() == self.lifespan_events[:1]
        assert other.lifespan_events() == self.lifespan_events

    def test_cookies_go_both_ways(self, client: httpx.Client) -> None:
        response = client.get("/cookies")
        assert response.json() == {}
        cookies = SimpleCookie()
        for line in response.headers.get_list("set-cookie"):
            cookies.load(line)
        assert cookies["first"].value == "1"
        assert cookies["first"]["max-age"] == "60"
        assert cookies["second"].value == "two words"
        sent_back = client.get("/cookies").json()
        assert sent_back["first"] == "1"
        assert sent_back["second"].strip('"') == "two words"

    def test_a_session_belongs_to_one_client(self, served: ServedApp, client: httpx.Client) -> None:
        client.post("/session", json={"user": "Zoë"})
        client.post("/session", json={"count": 2})
        assert client.get("/session").json() == {"user": "Zoë", "count": 2}
        with served.process.client() as other:
            assert other.get("/session").json() == {}

    def test_background_work_begins_after_the_response(
        self, client: httpx.Client, key: str
    ) -> None:
        response = client.post("/background", params={"key": key})
        assert (response.status_code, response.text) == (202, "accepted")
        # On the connection whose request has not come to its end for the application.
        wait_for_events(client, key, "began")
        open_gate(client, key)
        wait_for_events(client, key, "began", "ended")

    # Errors

    def test_an_exception_is_a_500_and_the_server_lives(
        self, served: ServedApp, client: httpx.Client
    ) -> None:
        response = client.get("/error")
        assert response.status_code == 500
        assert "Traceback" not in response.text
        assert "handler broke" not in response.text
        if self.error_log is not None:
            served.expect_log(self.error_log)
        assert client.get("/hello").text == "hello"

    def test_an_exception_handler_of_the_application_answers(self, client: httpx.Client) -> None:
        response = client.get("/teapot")
        assert response.status_code == 418
        assert response.json() == {"error": "short and stout"}
        assert client.get("/forbidden").status_code == 403

    def test_a_broken_stream_is_seen_to_be_incomplete(
        self, served: ServedApp, client: httpx.Client
    ) -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/failing-stream")
        served.expect_log("ValueError: the stream broke")
        assert client.get("/hello").text == "hello"
