"""What workers may be made of, and with which interpreter that is tried.

A free-threaded interpreter is the one that POUNCE_TEST_FREE_THREADED names, else one of the usual
names, if what Pounce needs is installed for it.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest

VARIABLE = "POUNCE_TEST_FREE_THREADED"
NAMES = ("python3.14t", "python3.13t")

_CHECK = "import sys, click, h11, prometheus_client, psutil; sys.exit(sys._is_gil_enabled())"


@dataclass(frozen=True)
class Mode:
    """One of `process`, `thread` (with the GIL, where threads take turns) and `free-threaded`."""

    name: str
    python: str = sys.executable

    @property
    def has_threads(self) -> bool:
        return self.name != "process"

    @property
    def options(self) -> list[str]:
        # A free-threaded interpreter is to choose threads by itself.
        return [] if self.name == "free-threaded" else ["--worker-mode", self.name]

    def __str__(self) -> str:
        return self.name


PROCESS = Mode("process")
THREAD = Mode("thread")


def free_threaded() -> Mode:
    """Skips the test where there is no such interpreter."""
    python = _find()
    if python is None:
        pytest.skip(f"no free-threaded Python with Pounce's dependencies ({VARIABLE} names one)")
    return Mode("free-threaded", python)


def mode_named(name: str) -> Mode:
    return free_threaded() if name == "free-threaded" else Mode(name)


@functools.cache
def _find() -> str | None:
    named = os.environ.get(VARIABLE)
    if named is not None:
        return named  # one that does not do is a failure
    for name in NAMES:
        python = shutil.which(name)
        if python is not None:
            done = subprocess.run([python, "-c", _CHECK], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    return None
