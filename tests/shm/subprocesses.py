"""Programs of a few lines that run as processes of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = (sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:.*fork:DeprecationWarning")
"""Every warning is an error, and written down when nobody can catch it."""


def run_program(path: Path, *args: str) -> str:
    """What the program writes, errors included; it must end with status 0."""
    return _run([*PYTHON, str(path), *args])


def run_python(script: str, *args: str, prefix: Sequence[str] = (), as_file: bool = False) -> str:
    """What the program writes, errors included; it must end with status 0. As a file it can be
    imported again, as spawned workers do."""
    script = textwrap.dedent(script)
    if not as_file:
        return _run([*prefix, *PYTHON, "-c", script, *args])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(script)
        return _run([*prefix, *PYTHON, str(path), *args])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextlib.contextmanager
def start_python(
    script: str, *args: str, prefix: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """The running program, whose standard input is closed at the end, which it must end by."""
    with subprocess.Popen(
        [*prefix, *PYTHON, "-c", textwrap.dedent(script), *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as program:
        try:
            yield program
        finally:
            assert program.stdin is not None
            program.stdin.close()
            try:
                program.wait(60)
            finally:
                program.kill()
