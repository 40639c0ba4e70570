"""Signals on their way while a process becomes a keeper, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, signal, sys, uvloop
from pounce.single_worker import signal_handlers_given_back
from pounce.supervisor import keeping

seen = []

async def main():
    loop = asyncio.get_running_loop()
    for number in keeping.keeper.FORWARDED:
        loop.add_signal_handler(number, seen.append, number)
    # The system has told this process, but the loop has not come to it.
    signal.raise_signal(signal.SIGTERM)
    await keeping.hold_signals_of_loop()
    signal.raise_signal(signal.SIGHUP)

loop = {"asyncio": asyncio, "uvloop": uvloop}[sys.argv[1]].new_event_loop()
with signal_handlers_given_back():
    loop.run_until_complete(main())
    loop.close()
# Threads of the application do not have them blocked.
assert all(keeping.is_held(number) for number in keeping.keeper.FORWARDED)
print(*(number.name for number in seen), "|", *(number.name for number in signal.sigpending()))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_signal_is_lost_between_the_loop_and_the_keeper(loop: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, loop], capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "SIGTERM | SIGHUP\n", run.stderr
