"""The middlewares of Starlette and FastAPI, all of them at once."""

from __future__ import annotations

import httpx
import pytest

from tests.frameworks.apps.middleware_app import TEXT
from tests.frameworks.served_app import FILE_CONTENT, Client, ServedApp
from tests.frameworks.steering import (
    assert_parts_arrive_when_made,
    events,
    open_gate,
    wait_for_events,
)

APP = "tests.frameworks.apps.middleware_app:app"

PREFLIGHT = {
    "Origin": "https://app.example",
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "X-Token",
}


def test_http_middlewares_add_headers(client: httpx.Client) -> None:
    response = client.get("/hello")
    assert response.text == "hello"
    assert response.headers["x-middleware"] == "class"
    assert response.headers["x-function"] == "function"


def test_a_long_response_is_compressed(client: httpx.Client) -> None:
    response = client.get("/text")
    assert response.headers["content-encoding"] == "gzip"
    assert response.text == TEXT
    plain = client.get("/text", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == TEXT


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_stream_parts_arrive_when_they_are_made(
    client: httpx.Client, key: str, encoding: str
) -> None:
    client.headers["Accept-Encoding"] = encoding
    assert_parts_arrive_when_made(client, key)


def test_a_body_passes_all_middlewares(client: httpx.Client) -> None:
    assert client.post("/echo", content=FILE_CONTENT).content == FILE_CONTENT


def test_a_file_is_sent_by_the_server(client: httpx.Client, key: str) -> None:
    response = client.get("/file", params={"record": key})
    assert response.content == FILE_CONTENT
    assert events(client, key) == ["http.response.start", "http.response.pathsend"]


def test_a_stream_is_closed_when_the_client_leaves(client: Client, key: str) -> None:
    with (
        client.another() as leaving,
        leaving.stream("GET", "/endless", params={"key": key}) as response,
    ):
        next(response.iter_raw())
    wait_for_events(client, key, "closed")


def test_background_work_begins_after_the_response(client: httpx.Client, key: str) -> None:
    response = client.post("/background", params={"key": key})
    assert (response.status_code, response.text) == (202, "accepted")
    wait_for_events(client, key, "began")
    open_gate(client, key)
    wait_for_events(client, key, "began", "ended")


def test_cors_is_answered_to_the_known_origin_only(client: httpx.Client) -> None:
    response = client.options("/hello", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    assert "PUT" in response.headers["access-control-allow-methods"]
    assert client.options("/hello", headers=PREFLIGHT | {"Origin": "https://x"}).status_code == 400
    response = client.get("/hello", headers={"Origin": "https://app.example"})
    assert response.headers["access-control-allow-credentials"] == "true"


def test_an_unknown_host_is_refused(client: httpx.Client) -> None:
    response = client.get("/hello", headers={"Host": "elsewhere.example"})
    assert response.status_code == 400
    assert response.text == "Invalid host header"


def test_an_exception_passes_all_middlewares(served: ServedApp, client: httpx.Client) -> None:
    assert client.get("/error").status_code == 500
    served.expect_log("ValueError: the handler broke")
    # BaseHTTPMiddleware completes a stream that broke before it raises.
    assert client.get("/failing-stream").text == "part 0\n"
    served.expect_log("ValueError: the stream broke")
    assert client.get("/hello").text == "hello"
