"""The helper that the other integration tests stand on says what it sees."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.server_process import (
    ServerProcess,
    parse_response,
    parse_responses,
    run_pounce,
)

HELLO = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})
"""
UNHANDLED = """
    import asyncio

    async def fail():
        raise RuntimeError("nobody looks at this")

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        task = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
"""
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "options",
    [[], ["--log-format", "json"], ["--log-level", "error"]],
    ids=["text", "json", "quiet"],
)
def test_it_learns_the_address(options: list[str]) -> None:
    with ServerProcess(HELLO, *options) as server:
        assert server.port > 0
        response, *_ = parse_responses(server.request(GET % 1))[0]
        assert (response.status, response.body) == (200, b"/1")
        with server.client() as client:
            assert client.get("/two").text == "/two"


def test_it_talks_through_a_unix_socket(short_tmp_path: Path) -> None:
    with ServerProcess(HELLO, "--uds", str(short_tmp_path / "s")) as server:
        assert parse_responses(server.request(GET % 1))[0][0].body == b"/1"
        with server.client() as client:
            assert client.get("/two").text == "/two"


def test_the_file_of_a_unix_socket_is_removed_at_the_end(short_tmp_path: Path) -> None:
    with ServerProcess(HELLO, "--uds", str(short_tmp_path / "s")):
        pass
    assert not list(short_tmp_path.iterdir())


def test_it_reads_several_responses_on_one_connection() -> None:
    with ServerProcess(HELLO) as server:
        answer = server.request(GET % 1 + GET % 2 + GET % 3, ["GET"] * 3)
    responses, rest = parse_responses(answer, ["GET"] * 3)
    assert [response.body for response in responses] == [b"/1", b"/2", b"/3"]
    assert rest == b""


def test_it_reads_until_the_connection_ends() -> None:
    with ServerProcess(HELLO) as server:
        answer = server.request(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", ["GET"] * 2
        )
    assert parse_response(answer).closes


def test_it_reports_the_exit_status() -> None:
    with ServerProcess(HELLO) as server:
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_server_that_cannot_start_fails_the_test() -> None:
    with (
        pytest.raises(pytest.fail.Exception, match="ended while it started"),
        ServerProcess("json:nothing"),
    ):
        pass


def serve_and_kill() -> None:
    with ServerProcess(HELLO) as server:
        server.send_signal(signal.SIGKILL)
        server.process.wait()


def test_a_server_that_dies_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"ended by itself with status -9"):
        serve_and_kill()


def test_an_unhandled_error_fails_the_test() -> None:
    with (
        pytest.raises(pytest.fail.Exception, match="was never retrieved"),
        ServerProcess(UNHANDLED) as server,
    ):
        server.request(GET % 1)


def test_a_command_that_ends_is_captured() -> None:
    done = run_pounce("--version")
    assert done.returncode == 0
    assert "0." in done.stdout
