"""Connections that are not closed but reset, so that the client cannot take what it got for all,
and the kernel keeps nothing for it."""

from __future__ import annotations

import socket

import pytest

from tests.integration.endpoint import get
from tests.integration.server_process import ServerProcess
from tests.waiting import wait_until

APP = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": b"x" * 20000, "more_body": True}
        await send(part)
        while scope["path"] == "/flood":
            await send(part)
        raise RuntimeError("half way")
"""


def ends_in_a_reset(sock: socket.socket) -> bool:
    """Whether the connection was reset, rather than closed in peace."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_cut_response_whose_length_the_client_does_not_know(loop: str) -> None:
    with ServerProcess(APP, "--loop", loop) as server:
        for _ in range(5):
            with server.connect() as sock:
                sock.sendall(get("/", version="1.0"))
                assert ends_in_a_reset(sock)
        wait_until(
            lambda: server.stderr_text().count("RuntimeError: half way") == 5, "each is logged"
        )


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_that_stopped_reading(loop: str) -> None:
    with (
        ServerProcess(APP, "--loop", loop, "--timeout-write", "300ms") as server,
        server.connect() as sock,
    ):
        sock.sendall(get("/flood"))
        wait_until(lambda: "timed out: write" in server.stderr_text(), "it is cut")
        assert ends_in_a_reset(sock)
