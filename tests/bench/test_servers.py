import os
import shutil
import sys
from pathlib import Path

import pytest

from bench.environment import Environment
from bench.errors import BenchError
from bench.measure import cpu_seconds, memory
from bench.servers import COMMANDS, Launch, RunningServer
from bench.workloads import WORKLOADS, check_answer

needs_taskset = pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset")


@pytest.fixture
def environment() -> Environment:
    return Environment(
        python=Path(sys.executable),
        interpreter={},
        versions={},
        ca_file=Path("/ca.pem"),
        cert_file=Path("/cert.pem"),
        key_file=Path("/key.pem"),
    )


@pytest.mark.parametrize("name", ["pounce", "uvicorn", "granian", "hypercorn"])
def test_command_follows_the_workload(name: str, environment: Environment) -> None:
    def command(workload: str) -> str:
        launch = Launch(environment, WORKLOADS[workload], 8000, Path("/log"), ("--more", "1"))
        return " ".join(COMMANDS[name](launch))

    plain = command("plain")
    assert "apps.plain:app" in plain
    assert plain.endswith("--more 1")
    assert ".pem" not in plain
    assert "/key.pem" in command("tls")
    assert "/cert.pem" in command("tls")
    assert "apps.starlette_app:app" in command("json")
    assert command("access-log") != plain
    assert command("idle") != plain


@needs_taskset
def test_a_server_runs_pinned_and_leaves_nothing(environment: Environment) -> None:
    cpu = max(os.sched_getaffinity(0))
    with RunningServer("floor", environment, WORKLOADS["plain"], cpu=cpu) as server:
        server.wait_until_listening()
        check_answer(WORKLOADS["plain"], server.port, environment.ca_file)
        pids = server.pids()
        assert os.sched_getaffinity(pids[0]) == {cpu}
        assert cpu_seconds(pids) > 0
        assert memory(pids).pss > 0
        folder = server.access_log.parent
    assert not folder.exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@needs_taskset
def test_a_server_that_ends_at_once_is_shown_with_its_output(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        COMMANDS, "floor", lambda _: [sys.executable, "-c", "raise SystemExit('no such app')"]
    )
    cpu = max(os.sched_getaffinity(0))
    with (
        RunningServer("floor", environment, WORKLOADS["plain"], cpu=cpu) as server,
        pytest.raises(BenchError, match=r"floor ended: exit code 1(?s:.*)no such app"),
    ):
        server.wait_until_listening()


@needs_taskset
def test_log_lines_are_waited_for(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.servers.LOG_SECONDS", 0.2)
    cpu = max(os.sched_getaffinity(0))
    with RunningServer("floor", environment, WORKLOADS["plain"], cpu=cpu) as server:
        server.access_log.write_text("one\ntwo\n")
        server.wait_for_log_lines(2)
        with pytest.raises(BenchError, match="2 lines after 3 requests"):
            server.wait_for_log_lines(3)
        server.clear_access_log()
        with pytest.raises(BenchError, match="0 lines"):
            server.wait_for_log_lines(1)
