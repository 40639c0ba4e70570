"""What scripts/create-venv says on machines that lack something."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "create-venv"
TOO_OLD = "exit 1"
WITHOUT_ENSUREPIP = """
case "$*" in
    *ensurepip*) exit 1 ;;
    *print*) echo 3.12 ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that is all there is in PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    return programs


def install(machine: Path, name: str, script: str) -> None:
    program = machine / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def create_venv(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", SCRIPT, machine.parent / "venv", *arguments],
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_python_at_all(machine: Path) -> None:
    done = create_venv(machine)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed and none was found in PATH" in done.stderr


def test_only_an_old_python(machine: Path) -> None:
    install(machine, "python3", TOO_OLD)
    done = create_venv(machine)
    assert done.returncode == 1
    assert "make PYTHON=/path/to/python3" in done.stderr


def test_the_python_asked_for_is_too_old(machine: Path) -> None:
    install(machine, "python3", WITHOUT_ENSUREPIP)
    install(machine, "python3.9", TOO_OLD)
    done = create_venv(machine, "python3.9")
    assert done.returncode == 1
    assert done.stderr == "pounce: PYTHON=python3.9 is no Python 3.11 or newer\n"


@pytest.mark.parametrize("name", ["python3", "python3.12"])
def test_python_without_the_venv_module(machine: Path, name: str) -> None:
    install(machine, "python3", TOO_OLD)
    install(machine, name, WITHOUT_ENSUREPIP)
    done = create_venv(machine)
    assert done.returncode == 1
    assert f"{name} cannot create virtual environments" in done.stderr
    assert "apt-get install python3.12-venv" in done.stderr
    assert not (machine.parent / "venv").exists()
