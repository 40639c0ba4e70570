"""The two sides of an upgrade, and what becomes of one when the other does not behave."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pounce.supervisor import successor
from pounce.supervisor.origin import ORIGIN
from pounce.supervisor.successor import Successor, SuccessorFailed

ROOT = Path(__file__).parents[2]
PREAMBLE = "from pounce.supervisor.takeover import *\nimport asyncio, os, sys, time\n"
TAKES = PREAMBLE + "takeover = Takeover.of_this_process()\n"
STATE = {"version": 1, "listeners": {}, "keeper": None}


def run(
    monkeypatch: pytest.MonkeyPatch, program: str, work: Callable[[Successor], Awaitable[None]]
) -> None:
    """Has `program` be the successor of this process."""
    origin = replace(ORIGIN, command=(sys.executable, "-c", program), directory=str(ROOT))
    monkeypatch.setattr(successor, "ORIGIN", origin)

    async def main() -> None:
        process = Successor.start([], {})
        try:
            async with asyncio.timeout(60):
                await work(process)
        finally:
            await process.end()

    asyncio.run(main())


def test_a_large_state_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(process: Successor) -> None:
        await process.give({**STATE, "listeners": {"fill": "x" * 2_000_000}})
        with pytest.raises(SuccessorFailed, match=r"^2000000$"):
            await process.expect("prepared")

    run(monkeypatch, TAKES + "takeover.failed(str(len(takeover.listeners['fill'])))", work)


def test_it_goes_on_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(process: Successor) -> None:
        await process.give(STATE)
        await process.expect("prepared")
        process.tell("take over")
        await process.expect("done")

    program = """
async def main():
    await takeover.wait_for_go()
    takeover.done()
    await asyncio.sleep(60)
asyncio.run(main())
"""
    run(monkeypatch, TAKES + program, work)


async def give_and_expect(process: Successor) -> None:
    await process.give(STATE)
    await process.expect("prepared")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (PREAMBLE + "report_failure('no luck')", "no luck"),
        (TAKES + "report_failure('no luck')", "no luck"),
        (TAKES + "os._exit(7)", "exited with code 7"),
        (TAKES + "os.kill(os.getpid(), 9)", "was killed"),
        (TAKES + 'takeover._line.send(b\'{"kind": "x"}\\n\'); time.sleep(60)', "it said 'x'"),
        ("raise SystemExit(2)", "exited with code 2"),
    ],
)
def test_why_it_failed_is_known(monkeypatch: pytest.MonkeyPatch, program: str, reason: str) -> None:
    async def work(process: Successor) -> None:
        with pytest.raises(SuccessorFailed, match=reason):
            await give_and_expect(process)

    run(monkeypatch, program, work)


def test_why_it_failed_is_known_when_it_had_ended_before_it_was_told_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(process: Successor) -> None:
        await process._exited.wait()
        with pytest.raises(SuccessorFailed, match="no luck"):
            await give_and_expect(process)

    run(monkeypatch, PREAMBLE + "report_failure('no luck')", work)


def test_one_that_does_not_read_its_state_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(process: Successor) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await process.give({**STATE, "listeners": {"fill": "x" * 2_000_000}})

    run(monkeypatch, "import time\ntime.sleep(600)", work)


def test_one_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successor, "TERM_PATIENCE", 0.3)

    async def work(process: Successor) -> None:
        await process.give(STATE)
        await process.expect("prepared")

    program = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
takeover._line.send(b'{"kind": "prepared"}\\n')
time.sleep(600)
"""
    run(monkeypatch, TAKES + program, work)


def test_a_command_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successor, "ORIGIN", replace(ORIGIN, command=("/nonexistent",)))

    async def main() -> None:
        with pytest.raises(SuccessorFailed, match="nonexistent"):
            Successor.start([], {})

    asyncio.run(main())


@pytest.mark.parametrize("value", ["nonsense", "987", "0"])
def test_a_variable_that_means_nothing_is_no_takeover(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TAKES + "print(takeover)"],
        env={"POUNCE_TAKEOVER": value, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == "None\n"
    assert "names no process to take over from" in done.stderr
