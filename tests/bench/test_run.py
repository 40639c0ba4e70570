from pathlib import Path

import pytest

from bench.environment import choose_cores, require_tools
from bench.errors import BenchError
from bench.run import make_plan, parser


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
