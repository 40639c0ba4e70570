from pathlib import Path
from types import SimpleNamespace
from typing import Self, cast

import pytest

from bench import run
from bench.environment import Environment, choose_cores, require_tools
from bench.errors import BenchError
from bench.run import Plan, make_plan, parser, run_workload
from bench.workloads import Workload


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2, 5}, raising=False)


def test_server_gets_the_last_core_and_the_client_the_first() -> None:
    assert choose_cores(None) == (5, 1)
    assert choose_cores("2,5") == (2, 5)


@pytest.mark.parametrize("wish", ["0,1", "1", "1,1", "a,b", ""])
def test_wrong_cores_are_refused(wish: str) -> None:
    with pytest.raises(BenchError, match="--cpus"):
        choose_cores(wish)


def test_one_core_is_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    with pytest.raises(BenchError, match="two cores"):
        choose_cores(None)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="wrk and taskset not found: apt-get install wrk util-lin"):
        require_tools()


def test_plan_of_the_options() -> None:
    arguments = "--workloads browser,plain --servers uvicorn,pounce,pounce --rounds 2"
    plan = make_plan(
        parser().parse_args([*arguments.split(), "--pounce-args", "--debug --x 'a b'"])
    )
    assert [workload.name for workload in plan.workloads] == ["browser", "plain"]
    assert plan.servers == ["uvicorn", "pounce"]
    assert plan.subject == "pounce"
    assert plan.pounce_args == ("--debug", "--x", "a b")


@pytest.mark.parametrize(("options", "starts"), [([], 1), (["--restart"], 3)])
def test_servers_are_started_anew_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: list[str], starts: int
) -> None:
    running: list[str] = []
    started: list[str] = []

    class Server:
        command = ("serve",)
        port = 1

        def __init__(self, plan: Plan, environment: Environment, load: Workload, name: str) -> None:
            self.name = name

        def __enter__(self) -> Self:
            running.append(self.name)
            started.append(self.name)
            return self

        def __exit__(self, *_: object) -> None:
            running.remove(self.name)

        def wait_until_listening(self) -> None:
            assert self.name in running

        def output(self) -> str:
            return ""

    def measure(plan: Plan, workload: Workload, server: Server) -> int:
        assert server.name in running
        if server.name == "floor":
            raise BenchError("it fails")
        return len(started)

    monkeypatch.setattr(run, "_server", Server)
    monkeypatch.setattr(run, "check_answer", lambda *_: None)
    monkeypatch.setattr(run, "measure_server", measure)
    arguments = ["--rounds", "3", "--servers", "pounce,floor,uvicorn", "--workloads", "plain"]
    plan = make_plan(parser().parse_args([*arguments, *options]))
    outcome = run_workload(
        plan, cast(Environment, SimpleNamespace(ca_file=None)), plan.workloads[0]
    )
    assert not running
    assert {name: len(samples) for name, samples in outcome.rounds.items()} == {
        "pounce": 3,
        "uvicorn": 3,
    }
    assert list(outcome.faults) == ["floor"]
    assert started.count("pounce") == starts
    assert started.count("floor") == 1


def test_a_baseline_joins_the_servers() -> None:
    plan = make_plan(parser().parse_args(["--servers", "pounce", "--baseline", "."]))
    assert plan.servers == ["pounce", "baseline"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workloads", "plain,nope"], "no workload 'nope'"),
        (["--servers", "apache"], "no server 'apache'"),
        (["--servers", "baseline"], "--baseline DIR"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_wrong_options_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(BenchError, match=message):
        make_plan(parser().parse_args(arguments))
