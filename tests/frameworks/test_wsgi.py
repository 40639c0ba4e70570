"""A WSGI application (Flask) through the adapters a2wsgi and asgiref."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import httpx
import pytest

from tests.frameworks.served_app import FILE_CONTENT, Client, ServedApp, serve
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=["a2wsgi", "asgiref"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedApp]:
    app = f"tests.frameworks.apps.wsgi_app:{request.param}_app"
    with serve(app, tmp_path_factory.mktemp("served"), "--http2-cleartext") as served:
        yield served


def test_the_environment_is_complete(served: ServedApp, client: Client) -> None:
    response = client.get("/items/gr%C3%B6%C3%9Fe?q=%C3%BC&q=2", headers={"X-Token": "abc"})
    assert response.json() == {
        "name": "größe",
        "query": {"q": ["ü", "2"]},
        "scheme": "http",
        "protocol": "HTTP/2" if client.http2 else "HTTP/1.1",
        "port": str(served.process.port),
        "header": "abc",
    }


def test_requests_in_a_row_are_all_answered(client: httpx.Client) -> None:
    # The end of a response is often seen by the client before the thread of the application has
    # told the server that there is no more.
    assert [client.get("/items/a").status_code for _ in range(100)] == [200] * 100


def test_a_body_arrives_whole(client: httpx.Client) -> None:
    response = client.post("/digest", content=FILE_CONTENT)
    assert response.json() == {
        "sha256": hashlib.sha256(FILE_CONTENT).hexdigest(),
        "size": len(FILE_CONTENT),
    }


def test_a_stream_arrives_whole(client: httpx.Client) -> None:
    expected = b"".join(b"part %d\n" % number * 1000 for number in range(100))
    assert client.get("/stream").content == expected


def test_an_exception_is_a_500_and_the_server_lives(
    served: ServedApp, client: httpx.Client
) -> None:
    assert client.get("/error").status_code == 500
    if served.app.endswith("asgiref_app"):
        served.expect_log("ValueError: the handler broke")
    else:  # a2wsgi gives the application standard output for its errors.
        wait_until(lambda: "ValueError" in served.process.stdout_text(), "the error is written")
    assert client.get("/items/a").json()["name"] == "a"
