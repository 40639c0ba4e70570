"""The command: options, the rounds, the result file."""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from bench.environment import (
    BENCH,
    ROOT,
    Environment,
    choose_cores,
    machine,
    only_one_benchmark,
    prepare,
    require_tools,
)
from bench.errors import BenchError
from bench.h2load import run_h2load
from bench.measure import WrkResult, core_busy_seconds, cpu_seconds, load_command, memory, run_wrk
from bench.report import Sample, summarise, table
from bench.servers import COMMANDS, RunningServer, serves
from bench.workloads import WORKLOADS, Workload, check_answer

WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one run of the benchmark was asked to do."""

    workloads: list[Workload]
    servers: list[str]
    rounds: int
    seconds: int
    server_cpu: int
    client_cpu: int
    baseline: Path | None
    pounce_args: tuple[str, ...]
    restart: bool
    """Whether servers are started anew for each round."""

    @property
    def subject(self) -> str:
        """The server that the ratios are about."""
        first = self.servers[0]
        return "pounce" if "pounce" in self.servers and first != "pounce-metrics" else first


def main(arguments: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, exit_on_term)
    options = parser().parse_args(arguments)
    try:
        plan = make_plan(options)
        require_tools(h2=any(workload.is_h2 for workload in plan.workloads))
        with only_one_benchmark():
            environment = prepare(options.python)
            faultless = run(plan, environment, options.json)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if faultless else 1


def exit_on_term(number: int, frame: FrameType | None) -> None:
    """A handler of SIGTERM: what was started is ended on the way out."""
    sys.exit(128 + number)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    options.add_argument(
        "--workloads", default=",".join(WORKLOADS), help="default: all of %(default)s"
    )
    options.add_argument(
        "--servers",
        default="pounce,uvicorn,granian,hypercorn,floor",
        help="in the order they run (default: %(default)s; also: pounce-metrics, "
        "pounce-h2-library, baseline, baseline-metrics)",
    )
    options.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    options.add_argument("--seconds", type=int, default=5, help="of load per round (default: 5)")
    options.add_argument("--python", default=sys.executable, help="the interpreter of all servers")
    options.add_argument("--json", type=Path, help="result file (default: one in bench/results/)")
    options.add_argument("--cpus", help="SERVER,CLIENT cores (default: the last and the first)")
    options.add_argument(
        "--baseline", type=Path, help="another checkout of Pounce: the server 'baseline'"
    )
    options.add_argument(
        "--restart",
        action="store_true",
        help="start the servers anew for each round: two starts of one may differ by a fifth",
    )
    options.add_argument(
        "--pounce-args", default="", help="more options for Pounce, as one quoted string"
    )
    return options


def make_plan(options: argparse.Namespace) -> Plan:
    servers = _names(options.servers, COMMANDS, "server")
    baselines = [name for name in servers if name.startswith("baseline")]
    if options.baseline is not None and not baselines:
        servers.append("baseline")
    if baselines and options.baseline is None:
        raise BenchError(f"the server {baselines[0]!r} needs --baseline DIR")
    if options.rounds < 1 or options.seconds < 1:
        raise BenchError("--rounds and --seconds must be at least 1")
    server_cpu, client_cpu = choose_cores(options.cpus)
    return Plan(
        workloads=[WORKLOADS[name] for name in _names(options.workloads, WORKLOADS, "workload")],
        servers=servers,
        rounds=options.rounds,
        seconds=options.seconds,
        server_cpu=server_cpu,
        client_cpu=client_cpu,
        baseline=options.baseline and options.baseline.resolve(),
        pounce_args=tuple(shlex.split(options.pounce_args)),
        restart=options.restart,
    )


def _names(text: str, known: dict[str, Any], kind: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise BenchError(f"no {kind} {', '.join(unknown)!r}; there are: {', '.join(known)}")
    return names


def run(plan: Plan, environment: Environment, json_file: Path | None) -> bool:
    """All workloads one after the other, a table after each, the file written as it goes.

    Returns whether every server did every workload without a fault.
    """
    results: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, "-m", "bench", *sys.argv[1:]]),
        "machine": machine(),
        "interpreter": environment.interpreter,
        "versions": environment.versions,
        "subject": plan.subject,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "restart": plan.restart,
        "cpus": {"server": plan.server_cpu, "client": plan.client_cpu},
        "workloads": {},
    }
    print(_heading(results), flush=True)
    if json_file is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        json_file = BENCH / "results" / f"{stamp}-py{environment.interpreter['version']}.json"
    json_file.parent.mkdir(parents=True, exist_ok=True)
    faultless = True
    for workload in plan.workloads:
        outcome = run_workload(plan, environment, workload)
        faultless = faultless and not outcome.faults
        results["workloads"][workload.name] = {
            "summary": workload.summary,
            "connections": workload.connections,
            **asdict(outcome),
            **summarise(outcome.rounds, plan.subject),
        }
        title = f"{workload.name}: {workload.summary}, {workload.connections} connections"
        print(f"\n{table(title, outcome.rounds, plan.subject)}", flush=True)
        for name, fault in outcome.faults.items():
            print(f"FAILED {name}: {fault}", flush=True)
        json_file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{json_file}")
    return faultless


def _heading(results: dict[str, Any]) -> str:
    interpreter, host = results["interpreter"], results["machine"]
    servers = ("uvicorn", "httptools", "granian", "hypercorn", "uvloop")
    versions = ", ".join(f"{name} {results['versions'].get(name, '?')}" for name in servers)
    load = host["load_average_before"][0]
    lines = [
        f"{interpreter['implementation']} {interpreter['version']}, {versions}",
        f"{host['cpu']}, {host['cores']} cores, {host['kernel']}, load average {load:.2f}",
        f"{results['rounds']} rounds of {results['seconds']} s per server",
    ]
    if load > 0.5:
        lines.append(
            "warning: the machine is busy with something else; wait or distrust the figures"
        )
    return "\n".join(lines)


@dataclass(slots=True)
class Outcome:
    """What came out of one workload, by server. A server with a fault has no samples."""

    commands: dict[str, list[str]] = field(default_factory=dict)
    rounds: dict[str, list[Sample]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def drop(self, server: RunningServer, error: BenchError) -> None:
        """A server that fails is out of this workload: a part of its figures would mislead."""
        self.rounds.pop(server.name, None)
        self.faults[server.name] = f"{error}\n{server.output()}"


def run_workload(plan: Plan, environment: Environment, workload: Workload) -> Outcome:
    """Start the servers, check their answers, measure them in turn."""
    outcome = Outcome()
    outcome.rounds = {name: [] for name in plan.servers if serves(name, workload)}
    starts = plan.rounds if plan.restart else 1
    for start in range(starts):
        with ExitStack() as stack:
            servers = [
                stack.enter_context(_server(plan, environment, workload, name))
                for name in outcome.rounds
            ]
            for server in servers:
                outcome.commands[server.name] = server.command
                try:
                    server.wait_until_listening()
                    check_answer(workload, server.port, environment.ca_file)
                except BenchError as error:
                    outcome.drop(server, error)
            for number in range(start, start + plan.rounds // starts):
                for server in servers:
                    if server.name not in outcome.rounds:
                        continue
                    _progress(f"{workload.name}: round {number + 1}/{plan.rounds}, {server.name}")
                    try:
                        outcome.rounds[server.name].append(measure_server(plan, workload, server))
                    except BenchError as error:
                        outcome.drop(server, error)
    _progress("")
    return outcome


def _server(plan: Plan, environment: Environment, workload: Workload, name: str) -> RunningServer:
    baseline = plan.baseline if name.startswith("baseline") else None
    source = ROOT if baseline is None else baseline
    extra = plan.pounce_args if name.startswith("pounce") else ()
    return RunningServer(
        name, environment, workload, cpu=plan.server_cpu, source=source, extra=extra
    )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def measure_server(plan: Plan, workload: Workload, server: RunningServer) -> Sample:
    """One round of one server: warm up, load, and what it cost."""

    def load(seconds: int) -> WrkResult:
        cpu = plan.client_cpu
        if workload.is_h2:
            return run_h2load(workload, server.port, cpu=cpu, seconds=seconds)
        command = load_command(workload, server.port, cpu=cpu, seconds=seconds)
        return run_wrk(command, timeout=seconds + 30)

    with idle_connections(workload, server.port, plan.client_cpu):
        warm_up = load(WARM_UP_SECONDS)
        if workload.access_log:
            server.wait_for_log_lines(warm_up.requests)
            server.clear_access_log()
        pids = server.pids()
        core_before, clock_before = core_busy_seconds(plan.server_cpu), time.monotonic()
        cpu_before = cpu_seconds(pids)
        result = load(plan.seconds)
        if workload.access_log:
            server.wait_for_log_lines(result.requests)
        cpu = cpu_seconds(pids) - cpu_before
        elapsed = time.monotonic() - clock_before
        core = core_busy_seconds(plan.server_cpu) - core_before
        if server.pids() != pids:
            raise BenchError("its processes changed while it was measured")
        used = memory(pids)
    return Sample(
        requests=result.requests,
        requests_per_second=result.requests_per_second,
        cpu_us=cpu / result.requests * 1e6,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        rss=used.rss,
        pss=used.pss,
        disturbance=max(0.0, (core - cpu) / elapsed),
    )


@contextmanager
def idle_connections(workload: Workload, port: int, cpu: int) -> Iterator[None]:
    """Hold the workload's idle connections from a process of their own; all must stay open."""
    if not workload.idle_connections:
        yield
        return
    script = [sys.executable, str(BENCH / "idle.py"), str(port), str(workload.idle_connections)]
    with subprocess.Popen(
        ["taskset", "-c", str(cpu), *script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline().strip() != "ready":
                raise BenchError(f"could not open {workload.idle_connections} idle connections")
            yield
            still_open = int(holder.communicate(timeout=10)[0])
            if still_open != workload.idle_connections:
                raise BenchError(f"only {still_open} idle connections were still open at the end")
        finally:
            holder.kill()
