"""WebSockets of frameworks, served by the real program to a client of `websockets`."""

from __future__ import annotations

import json
import re

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.integration.server_process import ROOT, ServerProcess
from tests.waiting import PATIENCE

APPS = "tests.frameworks.apps.websocket_apps"
COMPLAINT = re.compile(r"\b(WARNING|ERROR|Traceback|\w*Error:|Exception)")


@pytest.mark.parametrize(
    ("framework", "denial"),
    [("starlette", 401), ("fastapi", 403), ("litestar", 403), ("channels", 403), ("quart", 401)],
)
def test_a_conversation_and_a_refusal(framework: str, denial: int) -> None:
    with ServerProcess(f"{APPS}:{framework}", "--factory", cwd=ROOT) as server:
        url = server.url.replace("http", "ws")
        with connect(
            f"{url}/echo/n%C3%A4me",
            subprotocols=[Subprotocol("chat")],
            proxy=None,
            open_timeout=PATIENCE,
        ) as client:
            assert client.subprotocol == "chat"
            assert json.loads(client.recv(timeout=PATIENCE)) == {"name": "näme"}
            for text in ("hello", "é" * 5000, ""):
                client.send(text)
                assert client.recv(timeout=PATIENCE) == text
        # One that goes away without a word.
        with connect(
            f"{url}/echo/x", proxy=None, open_timeout=PATIENCE, subprotocols=[Subprotocol("chat")]
        ) as client:
            client.recv(timeout=PATIENCE)
            client.socket.close()
        with (
            pytest.raises(InvalidStatus) as caught,
            connect(f"{url}/denied", proxy=None, open_timeout=PATIENCE),
        ):
            pass
        assert caught.value.response.status_code == denial
        server.process.terminate()
        assert server.wait() == 0
        found = COMPLAINT.search(server.stderr_text())
        assert found is None, server.stderr_text()
