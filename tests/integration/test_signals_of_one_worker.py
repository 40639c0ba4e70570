"""Signals to a worker that runs without a master."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.integration.server_process import ServerProcess
from tests.waiting import wait_until

APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})
"""


def test_a_hangup_has_it_replaced_by_a_new_process() -> None:
    with ServerProcess(APP) as server, server.client() as client:
        server.send_signal(signal.SIGHUP)
        wait_until(lambda: " serves, after" in server.stderr_text(), "there is another one")
        assert client.get("/").status_code == 200


def test_it_reopens_its_access_log(tmp_path: Path) -> None:
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    with ServerProcess(APP, "--access-log-file", str(log)) as server, server.client() as client:
        client.get("/first")
        wait_until(lambda: "/first" in log.read_text(), "the first line")
        log.rename(rotated)
        server.send_signal(signal.SIGUSR1)
        wait_until(log.exists, "a new file")
        client.get("/second")
        wait_until(lambda: "/second" in log.read_text(), "the second line")
    assert "/second" not in rotated.read_text()
