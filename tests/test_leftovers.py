"""The check at the end of a run finds what it is there to find."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.leftovers import MARK, SHARED_MEMORY

ROOT = Path(__file__).resolve().parent.parent
CONFTEST = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests import leftovers
if {{impatient}}:
    leftovers.GRACE_SECONDS = 0.3

def pytest_configure(config):
    config.pluginmanager.register(leftovers.LeftoverCheck(config), "leftovers")
"""

LEAKS = {
    "process": """
        import subprocess, sys
        def test_leak(request):
            command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
            request.config.kept = subprocess.Popen(command, stdin=subprocess.PIPE)
    """,
    "listening socket": """
        import socket
        def test_leak(request):
            request.config.kept = socket.create_server(("127.0.0.1", 0))
    """,
    "socket file": """
        import socket
        def test_leak(tmp_path, monkeypatch):
            monkeypatch.chdir(tmp_path)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind("left")
    """,
}

SHARED_MEMORY_LEAK = """
    import struct
    from pathlib import Path
    def test_leak():
        # Another user's, as it says, so that no server that starts meanwhile removes it.
        Path({path!r}).write_bytes(b"pouncshm" + struct.pack("15q", 0, 0, 1, *[0] * 12))
"""

# The parent ends at once; its child ends when the fifo has been opened for writing.
ORPHAN_LEAK = """
    import subprocess, sys
    def test_leak():
        child = [sys.executable, "-c", "open({fifo!r}).read()"]
        parent = f"import subprocess; subprocess.Popen({{child!r}})"
        subprocess.run([sys.executable, "-c", parent], check=True)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.Pytester]:
    """A test run of its own, whose leftovers are not those of this one."""
    monkeypatch.delenv(MARK)
    pytester.makeconftest(CONFTEST.format(impatient=True))
    yield pytester
    for path in pytester.path.rglob("*"):
        if path.is_socket():
            path.unlink()


def assert_fails_and_names(run: pytest.Pytester, finding: str, *options: str) -> None:
    result = run.runpytest_subprocess("-p", "no:cacheprovider", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["The test run left behind:", f"  {finding}"])


@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "xdist"])
@pytest.mark.parametrize("kind", LEAKS)
def test_a_leftover_fails_the_run(run: pytest.Pytester, kind: str, options: list[str]) -> None:
    run.makepyfile(LEAKS[kind])
    assert_fails_and_names(run, f"{kind} *", *options)


def test_an_orphan_fails_the_run(run: pytest.Pytester) -> None:
    fifo = run.path / "fifo"
    os.mkfifo(fifo)
    run.makepyfile(ORPHAN_LEAK.format(fifo=str(fifo)))
    try:
        assert_fails_and_names(run, "process * -c open(*")
    finally:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no folder of shared memory")
@pytest.mark.parametrize("options", [[], ["-n1"]], ids=["alone", "xdist"])
def test_shared_memory_fails_the_run(run: pytest.Pytester, options: list[str]) -> None:
    segment = SHARED_MEMORY / f"pounce-{uuid.uuid4().hex[:8]}"
    run.makepyfile(SHARED_MEMORY_LEAK.format(path=str(segment)))
    try:
        assert_fails_and_names(run, f"shared memory {segment}", *options)
    finally:
        segment.unlink()


def test_a_tidy_run_passes(run: pytest.Pytester) -> None:
    run.makeconftest(CONFTEST.format(impatient=False))  # what ends may take its time
    run.makepyfile("""
        import socket, subprocess, sys
        def test_tidy(tmp_path):
            subprocess.run([sys.executable, "-c", ""], check=True)
            socket.create_server(("127.0.0.1", 0)).close()
    """)
    result = run.runpytest_subprocess("-p", "no:cacheprovider", "-n1")
    assert result.ret == pytest.ExitCode.OK
