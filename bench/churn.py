"""Requests lost while workers come and go: ``python -m bench.churn [--rate 2000] [--tls] ...``.

Starts the real program, keeps a steady load on it (see `churn_load`), and meanwhile reloads it,
replaces it as a whole, changes the number of its workers, and kills workers. Prints what became of
the requests in each phase. Exits with status 1 if one failed that should not: while workers are
killed, only those that were in flight on the killed one may.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.churn_load import FAILURES, INCOMPLETE, RESET, Request, read_records
from bench.environment import ROOT
from bench.errors import BenchError
from pounce.supervisor.control_client import ask
from pounce.supervisor.control_messages import ControlError

BOOT: Final = 30.0
"""Seconds that something may take besides the import."""
NOTICED: Final = 1.0
"""Seconds after a kill in which a client notices."""
SETTLE: Final = 1.0
"""Seconds between phases, which belong to the one before, and before the first, in which the load
opens its connections."""
POLL: Final = 0.02
LOOK: Final = 0.1
"""Seconds between two looks at the status while requests are timed: each takes the master 2 to 4 ms
of what the workers and the load share."""
SLOW: Final = 0.9
"""Seconds of a request that is worth a line of its own. A SYN is repeated after 1 s."""


@dataclass(slots=True)
class Kill:
    at: float
    """Monotonic seconds."""
    worker: int


@dataclass(slots=True)
class Phase:
    """What was done to the server from one moment to another, and how long each time took."""

    name: str
    begin: float
    end: float = 0.0
    ready_after: list[float] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Figures:
    requests: int
    failed: dict[str, int]
    excused: int
    """Of those that failed: in flight on a worker that was killed."""
    worst: float
    p99: float
    p50: float


def is_excused(request: Request, kills: Sequence[Kill]) -> bool:
    """Whether a failed request was in flight on a worker that was killed.

    On a kept connection it may have been sent before the client had learned of the end. Of a new
    one nobody can tell which worker had accepted it, so the time has to do.
    """
    if request.outcome not in (RESET, INCOMPLETE):
        return False
    failed = request.began + request.seconds
    for kill in kills:
        is_its_time = kill.at <= failed <= kill.at + NOTICED
        if is_its_time and request.worker == kill.worker:
            return True
        if is_its_time and not request.worker and request.began <= kill.at + POLL:
            return True
    return False


def figures(requests: Sequence[Request], phase: Phase, kills: Sequence[Kill]) -> Figures:
    """What became of the requests that began in a phase; `kills` are those of all phases."""
    of_phase = [each for each in requests if phase.begin <= each.began < phase.end]
    failed = [each for each in of_phase if each.outcome]
    times = sorted(each.seconds for each in of_phase if not each.outcome)
    return Figures(
        requests=len(of_phase),
        failed=dict(Counter(FAILURES[each.outcome] for each in failed)),
        excused=sum(is_excused(each, kills) for each in failed),
        worst=times[-1] if times else math.nan,
        p99=percentile(times, 0.99),
        p50=percentile(times, 0.5),
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """The least value that at least `part` of them do not exceed."""
    return ordered[math.ceil(part * len(ordered)) - 1] if ordered else math.nan


def describe(phase: Phase, found: Figures) -> str:
    failed = sum(found.failed.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.failed.items()))
    line = f"{phase.name:<10}{found.requests:>8} requests {failed:>5} failed"
    line += f"  worst {found.worst * 1000:7.1f} ms  p99 {found.p99 * 1000:6.1f} ms"
    line += f"  p50 {found.p50 * 1000:5.1f} ms"
    if phase.ready_after:
        times = sorted(phase.ready_after)
        line += f"  done in {percentile(times, 0.5):.2f} s, at most {times[-1]:.2f} s"
    if failed:
        line += f"\n{'':<10}{kinds}"
        if found.excused:
            line += f"; {found.excused} of them in flight on a killed worker"
    return line


class Program:
    """`pounce` with its control socket."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._control = folder / "control"
        self._patience = options.import_seconds + options.import_burn + BOOT
        command = [sys.executable, "-m", "pounce", "bench.apps.churn_app:app"]
        command += ["--workers", str(options.workers), "--control-socket", str(self._control)]
        command += ["--socket-strategy", options.socket_strategy, "--no-access-log"]
        command += ["--loop", options.loop]
        command += ["--uds", str(folder / "socket")] if options.uds else ["--port", "0"]
        if options.supervise:
            command.append("--supervise")
        self.ca_file = make_certificate(folder) if options.tls else None
        if options.tls:
            command += ["--ssl-certfile", str(folder / "cert.pem")]
            command += ["--ssl-keyfile", str(folder / "key.pem")]
        imports = {
            "CHURN_IMPORT_SLEEP": str(options.import_seconds),
            "CHURN_IMPORT_BURN": str(options.import_burn),
        }
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--log-format", "text"],
                cwd=ROOT,
                env={**os.environ, **imports},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.workers = options.workers
        self.target: str | int = str(folder / "socket") if options.uds else 0

    def wait_until_ready(self) -> None:
        self.wait_for(lambda status: len(ready(status)) == self.workers)
        if not self.target:
            self.target = int(self.status()["addresses"][0].rpartition(":")[2])

    def status(self) -> dict[str, Any]:
        return ask(self._control, "status")

    def wait_for(
        self, condition: Callable[[dict[str, Any]], bool], every: float = LOOK
    ) -> dict[str, Any]:
        """The first status that meets a condition, looked at in so many seconds."""
        deadline = time.monotonic() + self._patience
        while True:
            if self.process.poll() is not None:
                raise BenchError(f"the server has ended:\n{self.log_tail()}")
            with contextlib.suppress(ControlError):
                status = self.status()
                if condition(status):
                    return status
            if time.monotonic() > deadline:
                raise BenchError(f"the server does not get where it should:\n{self.log_tail()}")
            time.sleep(every)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def troubles(self) -> list[str]:
        """Lines of the log that tell of errors and warnings."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "error" in line.lower() or "warning" in line.lower()]

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=BOOT + 10)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGQUIT)
            self.process.wait(timeout=10)


def ready(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [worker for worker in status["workers"] if worker["state"] == "ready"]


def make_certificate(folder: Path) -> Path:
    import trustme

    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    for part in leaf.cert_chain_pems:
        part.write_to_path(folder / "cert.pem", append=True)
    return folder / "ca.pem"


@contextlib.contextmanager
def steady_load(
    program: Program, options: argparse.Namespace, folder: Path
) -> Iterator[Callable[[], list[Request]]]:
    """The load; what it yields ends it and gives the records."""
    settings = {
        "target": program.target,
        "rate": options.rate,
        "new_every": options.new_every,
        "timeout": options.timeout,
        "seconds": options.max_seconds,
        "ca_file": str(program.ca_file) if program.ca_file else None,
    }
    records = folder / "records"
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.churn_load", json.dumps(settings), str(records)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    assert process.stdout is not None
    process.stdout.readline()  # says that it has begun

    def finish() -> list[Request]:
        output, _ = process.communicate(timeout=options.timeout + 30)
        if process.returncode:
            raise BenchError("the load has failed")
        skipped = json.loads(output)["skipped"]
        if skipped:
            print(f"{skipped} requests were not sent, as too many were unanswered")
        return read_records(records)

    try:
        yield finish
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


# Phases


def reload(program: Program, phase: Phase) -> None:
    """One reload, to its end."""
    generation = program.status()["generation"]
    began = time.monotonic()
    program.signal(signal.SIGHUP)
    status = program.wait_for(
        lambda status: (
            status["generation"] > generation
            and len(ready(status)) >= program.workers
            and all(worker["generation"] > generation for worker in ready(status))
        )
    )
    phase.ready_after.append(time.monotonic() - began)
    if status["last_reload"] and status["last_reload"]["result"] != "succeeded":
        raise BenchError(f"a reload has failed: {status['last_reload']['reason']}")


def scale(program: Program, phase: Phase) -> None:
    """One worker more, and one less."""
    began = time.monotonic()
    program.signal(signal.SIGTTIN)
    program.wait_for(lambda status: len(ready(status)) == program.workers + 1)
    phase.ready_after.append(time.monotonic() - began)
    program.signal(signal.SIGTTOU)
    program.wait_for(lambda status: len(ready(status)) == program.workers)


def upgrade(program: Program, phase: Phase) -> None:
    """One new process of the program, until the old one has no worker left."""
    status = program.status()
    began = time.monotonic()
    os.kill(status["pid"], signal.SIGUSR2)
    old = {status["pid"], *(worker["pid"] for worker in status["workers"])}
    following = program.wait_for(
        lambda now: (
            (now["pid"] != status["pid"] and len(ready(now)) == program.workers)
            or (now["last_upgrade"] or {}).get("at", 0)
            > (status["last_upgrade"] or {"at": 0})["at"]
        )
    )
    if following["pid"] == status["pid"]:
        raise BenchError(f"an upgrade has failed: {following['last_upgrade']['reason']}")
    phase.ready_after.append(time.monotonic() - began)
    old.discard(program.process.pid)  # stays, as the keeper
    program.wait_for(lambda now: not any(map(is_running, old)))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(program: Program, phase: Phase) -> None:
    """One worker killed, the oldest, and its successor awaited; once a second at most."""
    victim = min(ready(program.status()), key=lambda worker: int(worker["worker_id"]))
    began = time.monotonic()
    os.kill(victim["pid"], signal.SIGKILL)
    phase.kills.append(Kill(began, victim["pid"]))
    program.wait_for(
        lambda status: (
            len(ready(status)) == program.workers
            and all(worker["pid"] != victim["pid"] for worker in ready(status))
        )
    )
    phase.ready_after.append(time.monotonic() - began)
    time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))


def run_phases(program: Program, options: argparse.Namespace) -> list[Phase]:
    phases = []
    plan: list[tuple[str, int, Callable[[Program, Phase], None]]] = [
        ("reloads", options.reloads, reload),
        ("upgrades", options.upgrades, upgrade),
        ("scalings", options.scalings, scale),
        ("kills", options.kills, kill),
    ]
    time.sleep(SETTLE)
    baseline = Phase("quiet", time.monotonic())
    time.sleep(options.quiet_seconds)
    baseline.end = time.monotonic()
    phases.append(baseline)
    for name, count, step in plan:
        if not count:
            continue
        phase = Phase(f"{count} {name}", time.monotonic())
        for _ in range(count):
            if phase.begin - baseline.begin > options.max_seconds:
                raise BenchError(f"not done within {options.max_seconds:g} s")
            step(program, phase)
        time.sleep(SETTLE)
        phase.end = time.monotonic()
        phases.append(phase)
    return phases


def measure(options: argparse.Namespace, folder: Path) -> bool:
    """Prints the figures; whether nothing was lost that should not be."""
    program = Program(options, folder)
    try:
        program.wait_until_ready()
        with steady_load(program, options, folder) as finish:
            phases = run_phases(program, options)
            requests = finish()
        kills = [kill for phase in phases for kill in phase.kills]
        lost = 0
        worst = {}
        for phase in phases:
            found = figures(requests, phase, kills)
            print(describe(phase, found), flush=True)
            lost += sum(found.failed.values()) - found.excused
            worst[phase.name] = found.worst
        for name in list(worst)[1:]:
            print(f"worst of {name}: {worst[name] / worst['quiet']:.1f} times that when quiet")
        if options.details:
            print_details(requests, phases, kills)
        print(f"{lost} lost")
        return lost == 0
    finally:
        program.end()
        if options.details:
            print("\n".join(program.troubles()[-40:]))


def print_details(
    requests: Sequence[Request], phases: Sequence[Phase], kills: Sequence[Kill]
) -> None:
    """Each request that failed or took long, and when it began in its phase."""
    for phase in phases:
        for each in requests:
            if not phase.begin <= each.began < phase.end:
                continue
            if not each.outcome and each.seconds < SLOW:
                continue
            outcome = FAILURES.get(each.outcome, "slow")
            if each.outcome:
                outcome += ", excused" if is_excused(each, kills) else ", LOST"
            print(
                f"{phase.name} +{each.began - phase.begin:.3f} s, {each.seconds:.4f} s,"
                f" {'kept' if each.kept else 'new'}, worker {each.worker}: {outcome}"
            )


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m bench.churn", description=__doc__)
    options.add_argument("--rate", type=float, default=2000, help="requests per second")
    options.add_argument(
        "--new-every", type=int, default=2, help="one request in so many on a new connection"
    )
    options.add_argument("--reloads", type=int, default=20)
    options.add_argument("--upgrades", type=int, default=5, help="new processes by USR2")
    options.add_argument("--scalings", type=int, default=20, help="pairs of TTIN and TTOU")
    options.add_argument("--kills", type=int, default=20, help="kill -9, one a second at most")
    options.add_argument("--import-seconds", type=float, default=0.0, help="the app sleeps")
    options.add_argument("--import-burn", type=float, default=0.0, help="the app burns CPU time")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--loop", choices=["auto", "uvloop", "asyncio"], default="auto")
    options.add_argument(
        "--socket-strategy", choices=["auto", "reuseport", "shared"], default="auto"
    )
    options.add_argument("--tls", action="store_true")
    options.add_argument("--uds", action="store_true", help="over a Unix socket")
    options.add_argument("--supervise", action="store_true")
    options.add_argument("--quiet-seconds", type=float, default=5.0, help="load without changes")
    options.add_argument("--timeout", type=float, default=15.0, help="of a request, in seconds")
    options.add_argument("--max-seconds", type=float, default=900.0, help="of all phases")
    options.add_argument("--details", action="store_true", help="print each failed request")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.workers == 1:
        options.supervise = True
    try:
        with tempfile.TemporaryDirectory(prefix="churn-") as folder:
            return 0 if measure(options, Path(folder)) else 1
    except (BenchError, ControlError, OSError) as error:
        print(f"bench.churn: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
