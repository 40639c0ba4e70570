"""The keeper of a main process, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pounce.supervisor import keeper
from tests.waiting import PATIENCE, wait_until

# Starts the main process, goes on as its keeper, and hands the pipe to whoever is to write to it.
START = """
import os, re, signal, subprocess, sys, time
from pounce.supervisor import keeping

def catches_signals(pid):
    with open(f"/proc/{pid}/status") as status:
        caught = int(re.search("SigCgt:\\s*(.*)", status.read())[1], 16)
    return caught & 1 << signal.SIGTERM - 1  # the last one to be caught

line = int(sys.argv[1])
held, let_go = os.pipe()
program = f"import os; os.read({held}, 1); os.close({held})\\n" + sys.argv[2]
main = subprocess.Popen([sys.executable, "-c", program], pass_fds=[int(sys.argv[3]), held])
print(main.pid, flush=True)
os.write(let_go, b"x")  # it says nothing before that
os.close(held)
os.close(let_go)
if "DYING" in os.environ:
    # As the interpreter notes what a thread takes that the last system call ends.
    execv = os.execv
    def execv_with_signals(*arguments):
        while not catches_signals(main.pid):
            time.sleep(0.001)
        noted = signal.set_wakeup_fd(-1)
        os.write(noted, bytes([signal.SIGUSR1, signal.SIGUSR1, signal.SIGCHLD]))
        signal.raise_signal(signal.SIGUSR1)
        execv(*arguments)
    os.execv = execv_with_signals
keeping.become_keeper(main.pid, line)
"""
SLEEPS = "import time; time.sleep(600)"
NOTES = """
import signal, sys, time
def note(number, frame):
    print(signal.Signals(number).name, flush=True)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, note)
print("here", flush=True)
while True:
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a child subreaper")


class Kept:
    """A keeper and its main process."""

    def __init__(self, program: str, **env: str) -> None:
        ours, self.line = os.pipe()
        os.set_blocking(ours, False)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(ours), program, str(self.line)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[ours, self.line],
            env={**os.environ, "LINE": str(self.line), **env},
            text=True,
        )
        os.close(ours)
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.keeper = psutil.Process(self.process.pid)
        try:
            self.main = psutil.Process(int(self.out.readline()))
            wait_until(lambda: "keeper.py" in " ".join(self.keeper.cmdline()), "it is the keeper")
        except BaseException:
            self.close()
            raise

    def go(self) -> None:
        """Lets a main process that reads its standard input go on. Until then it is there to be
        looked at."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.go()
        for child in self.keeper.children() if self.keeper.is_running() else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait()
        self.out.close()
        os.close(self.line)


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    found = Kept(request.param)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("kept", [NOTES], indirect=True)
def test_signals_reach_the_main_process(kept: Kept) -> None:
    assert kept.out.readline() == "here\n"
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        kept.process.send_signal(number)
        assert kept.out.readline() == f"{number.name}\n"
    assert kept.process.poll() is None


def test_a_signal_that_came_as_it_began_reaches_the_main_process_once() -> None:
    kept = Kept(NOTES, DYING="1")
    try:
        assert [kept.out.readline() for _ in range(2)] == ["here\n", "SIGUSR1\n"]
        kept.process.send_signal(signal.SIGHUP)
        assert kept.out.readline() == "SIGHUP\n"
    finally:
        kept.close()


@pytest.mark.parametrize("kept", ["import sys; sys.stdin.read(); sys.exit(7)"], indirect=True)
def test_it_ends_with_the_status_of_the_main_process(kept: Kept) -> None:
    kept.go()
    assert kept.process.wait(PATIENCE) == 7


@pytest.mark.parametrize("kept", [SLEEPS], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_it_ends_by_the_signal_that_ended_the_main_process(
    kept: Kept, number: signal.Signals
) -> None:
    kept.main.send_signal(number)
    assert kept.process.wait(PATIENCE) == -number


# The main process starts its successor, announces it, and ends; the successor says that it serves.
UPGRADES = """
import os, signal, time
line = int(os.environ['LINE'])
pid = os.fork()
if pid == 0:
    %(successor)s
    signal.signal(signal.SIGHUP, lambda *_: os._exit(5))
    print('ready', flush=True)
    time.sleep(600)
os.write(line, b'next %%d\\n' %% pid)
%(main)s
"""
SAYS_MAIN = "os.write(line, b'main %d\\n' % os.getpid())"


@pytest.mark.parametrize(
    "kept",
    [
        UPGRADES % {"successor": SAYS_MAIN, "main": "os.read(0, 1); os._exit(0)"},
        UPGRADES % {"successor": "pass", "main": "os.read(0, 1); os.kill(os.getpid(), 9)"},
    ],
    ids=["it has taken over", "it is about to"],
    indirect=True,
)
def test_the_successor_is_kept_when_the_main_process_is_gone(kept: Kept) -> None:
    assert kept.out.readline() == "ready\n"
    kept.go()
    wait_until(lambda: not kept.main.is_running(), "the first one is gone")
    assert kept.process.poll() is None
    [successor] = wait_until(kept.keeper.children, "it has another child")
    assert successor.pid != kept.main.pid
    kept.process.send_signal(signal.SIGHUP)
    assert kept.process.wait(PATIENCE) == 5


@pytest.mark.parametrize(
    "kept",
    [UPGRADES % {"successor": "os._exit(3)", "main": "os.wait(); os.read(0, 1); os._exit(4)"}],
    indirect=True,
)
def test_a_successor_that_failed_is_not_waited_for(kept: Kept) -> None:
    kept.go()
    assert kept.process.wait(PATIENCE) in (0, 4)


@pytest.mark.parametrize("kept", [SLEEPS], indirect=True)
def test_it_is_small(kept: Kept) -> None:
    assert kept.keeper.memory_info().rss < 20 * 2**20
    maps = Path(f"/proc/{kept.process.pid}/maps").read_text()
    assert "uvloop" not in maps
    # Nothing is open but the standard streams and the pipe.
    files = Path(f"/proc/{kept.process.pid}/fd")
    wait_until(lambda: len(list(files.iterdir())) == 4, "all others are closed")


def test_it_imports_nothing_of_ours() -> None:
    source = Path(keeper.__file__).read_text()
    assert "import pounce" not in source
    assert "from pounce" not in source
