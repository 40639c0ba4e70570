import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.measure import (
    core_busy_seconds,
    cpu_seconds,
    memory,
    parse_wrk,
    process_tree,
    run_wrk,
    wrk_command,
)
from bench.workloads import WORKLOADS

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RESULT = (
    '@result {"requests": 5000, "duration_us": 2000000, "p50_us": 1200, "p99_us": 3400, '
    '"connect_errors": %d, "read_errors": 0, "write_errors": 0, "timeouts": 0, "bad_status": %d}'
)
OUTPUT = f"""Running 2s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
  5000 requests in 2.00s, 1.00MB read
Requests/sec:   2500.00
{RESULT}
"""


def test_parse_wrk_finds_the_result_line() -> None:
    result = parse_wrk(OUTPUT % (0, 0))
    assert result.requests_per_second == 2500
    assert (result.p50_us, result.p99_us) == (1200, 3400)
    assert result.faults == {}


def test_parse_wrk_names_what_went_wrong() -> None:
    result = parse_wrk(OUTPUT % (3, 17))
    assert result.faults == {"connect errors": 3, "answers with an error status": 17}


def test_parse_wrk_refuses_output_without_a_result() -> None:
    with pytest.raises(BenchError, match="no result"):
        parse_wrk("Running 2s test\nunable to connect\n")


def echo_command(text: str, status: int = 0) -> list[str]:
    return [sys.executable, "-c", f"print({text!r}); raise SystemExit({status})"]


def test_run_wrk_fails_when_requests_failed() -> None:
    assert run_wrk(echo_command(RESULT % (0, 0)), timeout=30).requests == 5000
    with pytest.raises(BenchError, match="error status"):
        run_wrk(echo_command(RESULT % (0, 1)), timeout=30)


def test_run_wrk_fails_when_wrk_fails_or_hangs() -> None:
    with pytest.raises(BenchError, match="no such host"):
        run_wrk(echo_command("no such host", 1), timeout=30)
    with pytest.raises(BenchError, match="did not end"):
        run_wrk([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)


def test_wrk_command_of_a_post() -> None:
    command = wrk_command(WORKLOADS["post-1k"], 8000, cpu=0, seconds=3)
    assert command[:3] == ["taskset", "-c", "0"]
    assert {"-c64", "-d3s"} <= set(command)
    assert command[-5:] == ["http://127.0.0.1:8000/echo", "--", "POST", "1024", "-"]


def test_unique_header_differs_between_commands() -> None:
    commands = [wrk_command(WORKLOADS["browser-unique"], 8000, cpu=0, seconds=1) for _ in "ab"]
    assert commands[0][-1] != commands[1][-1]


def fake_process(proc: Path, pid: int, children: str, rollup: str = "") -> None:
    task = proc / str(pid) / "task" / str(pid)
    task.mkdir(parents=True)
    (task / "children").write_text(children)
    (proc / str(pid) / "smaps_rollup").write_text(rollup)


def test_process_tree_has_children_of_every_thread(tmp_path: Path) -> None:
    fake_process(tmp_path, 10, "11 12 ")
    fake_process(tmp_path, 11, "")
    fake_process(tmp_path, 12, "13 ")
    fake_process(tmp_path, 13, "")
    thread = tmp_path / "10" / "task" / "99"
    thread.mkdir()
    (thread / "children").write_text("14 ")
    fake_process(tmp_path, 14, "")
    assert sorted(process_tree(10, proc=tmp_path)) == [10, 11, 12, 13, 14]


def test_memory_is_summed_over_the_tree(tmp_path: Path) -> None:
    text = "5643-7ffc ---p 00000000 00:00 0 [rollup]\nRss: {0} kB\nPss: {1} kB\nPss_Anon: 9 kB\n"
    fake_process(tmp_path, 10, "", text.format(100, 60))
    fake_process(tmp_path, 11, "", text.format(50, 30))
    used = memory([10, 11], proc=tmp_path)
    assert (used.rss, used.pss) == (150 * 1024, 90 * 1024)


def test_core_busy_seconds_leaves_idle_out(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 10 20 30 5000 700 4 5 6 0 0\n"
    )
    assert core_busy_seconds(1, proc=tmp_path) == 75 / os.sysconf("SC_CLK_TCK")
    with pytest.raises(BenchError, match="cpu7"):
        core_busy_seconds(7, proc=tmp_path)


@linux_only
def test_cpu_seconds_agrees_with_this_process() -> None:
    pid = os.getpid()
    before = time.process_time()
    read = cpu_seconds([pid])
    assert before <= read <= time.process_time()


@linux_only
def test_cpu_and_tree_of_a_real_child() -> None:
    code = "import os; print(sum(range(3_000_000)), os.times()[0], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        own = float(child.stdout.readline().split()[1])
        assert child.pid in process_tree(os.getpid())
        assert cpu_seconds([child.pid]) >= own
        assert memory([child.pid]).rss > 2**20
        child.communicate("\n", timeout=30)
    with pytest.raises(BenchError, match="ended"):
        cpu_seconds([child.pid])
