"""The load over WebSockets, against the real server."""

from __future__ import annotations

import subprocess
import sys

from bench.measure import WEBSOCKET_LOAD, load_command, parse_wrk
from bench.workloads import WORKLOADS
from tests.integration.server_process import ROOT, ServerProcess


def test_messages_are_echoed_and_counted() -> None:
    with ServerProcess("bench.apps.plain:app", "--metrics", cwd=ROOT) as server:
        command = [sys.executable, str(WEBSOCKET_LOAD), str(server.port), "/", "1000", "4", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        result = parse_wrk(done.stdout)
        assert result.requests > 10
        assert 1e6 <= result.duration_us < 60e6
        with server.client() as client:
            page = client.get("/metrics").text
        line = 'http_websocket_messages_received_total{type="binary"} '
        counted = float(page.partition(line)[2].split("\n")[0])
        # Those that were on their way at the end are counted by the server alone.
        assert result.requests <= counted <= result.requests + 4


def test_a_refusal_is_an_error() -> None:
    with ServerProcess("bench.apps.plain:app", "--ws", "none", cwd=ROOT) as server:
        command = [sys.executable, str(WEBSOCKET_LOAD), str(server.port), "/", "10", "1", "0.1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode != 0
        assert "refused" in done.stderr


def test_which_load_a_workload_has() -> None:
    command = load_command(WORKLOADS["ws-64k"], 8000, cpu=0, seconds=3)
    assert command[-4:] == ["/", "65536", "32", "3"]
    assert load_command(WORKLOADS["plain"], 8000, cpu=0, seconds=3)[3] == "wrk"
