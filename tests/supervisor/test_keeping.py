"""Signals on their way while a process becomes a keeper, in a process of its own."""

from __future__ import annotations

import itertools
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
    signal.raise_signal(signal.SIGUSR1)
    while not seen:
        await asyncio.sleep(0)
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
pending = sorted(number.name for number in signal.sigpending())
print(*(number.name for number in seen), "|", *pending)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_signal_is_lost_between_the_loop_and_the_keeper(loop: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, loop], capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "SIGUSR1 | SIGHUP SIGTERM\n", run.stderr


# Another thread, which does nothing else, takes the signal at some moment.
WITH_A_THREAD = """
import asyncio, os, signal, sys, threading, time, uvloop
from pounce.supervisor import keeping

seen = []
moment = int(sys.argv[2])

def at(name, module, function):
    def wrapper(*arguments, **options):
        global moment
        is_held = signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        moment -= is_held
        if is_held and moment == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        result = function(*arguments, **options)
        moment -= is_held
        if is_held and moment == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return result
    setattr(module, name, wrapper)

class Event(asyncio.Event):
    async def wait(self):
        await super().wait()
        self.is_over()

    def is_over(self):
        pass

async def main():
    loop = asyncio.get_running_loop()
    for number in keeping.keeper.FORWARDED:
        loop.add_signal_handler(number, seen.append, number)
    await keeping.hold_signals_of_loop()

threading.Thread(target=time.sleep, args=[600], daemon=True).start()
at("is_over", Event, Event.is_over)
at("signal", signal, signal.signal)
at("set_wakeup_fd", signal, signal.set_wakeup_fd)
at("write", os, os.write)
at("read", os, os.read)
at("_forget_handlers", keeping, keeping._forget_handlers)
keeping.asyncio.Event = Event
loop = {"asyncio": asyncio, "uvloop": uvloop}[sys.argv[1]].new_event_loop()
loop.run_until_complete(main())
loop.close()
if moment > 0:
    os.kill(os.getpid(), signal.SIGTERM)

def is_there():
    return seen or signal.SIGTERM in signal.sigpending()

deadline = time.monotonic() + 30
while not is_there() and time.monotonic() < deadline:
    time.sleep(0.001)
print(len(seen) + (signal.SIGTERM in signal.sigpending()), moment > 0, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_signal_is_lost_that_another_thread_takes(loop: str) -> None:
    for moment in itertools.count(1):
        run = subprocess.run(
            [sys.executable, "-c", WITH_A_THREAD, loop, str(moment)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, (moment, run.returncode)
        kept, is_behind = run.stdout.split()
        assert kept == "1", (moment, run.stderr)
        if is_behind == "True":
            break
    assert moment > 20
