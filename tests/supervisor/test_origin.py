"""What a process remembers of its start, seen in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import json, os, sys
sys.argv[0] = "changed"
from pounce.supervisor.origin import ORIGIN
os.environ["LATER"] = "1"
print(json.dumps({
    "command": ORIGIN.command,
    "directory": ORIGIN.directory,
    "environment": dict(ORIGIN.environment),
    "takeover": ORIGIN.takeover,
    "is_repeatable": ORIGIN.is_repeatable,
    "left": os.environ.get("POUNCE_TAKEOVER"),
}))
"""


def origin(*command: str, cwd: Path, **variables: str) -> dict[str, object]:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, **variables},
        input=SHOW if not command else None,
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_command_is_that_of_the_start(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SHOW)
    found = origin("-B", "serve.py", "--port", "1", cwd=tmp_path)
    assert found["command"] == [sys.executable, "-B", "serve.py", "--port", "1"]
    assert found["is_repeatable"] is True


def test_what_is_meant_for_one_process_is_left_out(tmp_path: Path) -> None:
    own = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/x", "WATCHDOG_PID": "1"}
    found = origin("-c", SHOW, cwd=tmp_path, OTHER="1", POUNCE_TAKEOVER="7", **own)
    environment = found["environment"]
    assert isinstance(environment, dict)
    assert environment["OTHER"] == "1"
    assert not environment.keys() & {*own, "POUNCE_TAKEOVER", "LATER"}
    assert (found["takeover"], found["left"]) == ("7", None)


def test_a_link_is_followed_anew_by_the_next_process(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    link = tmp_path / "current"
    link.symlink_to("one")
    assert origin("-c", SHOW, cwd=link, PWD=str(link))["directory"] == str(link)
    # What a shell has left behind that was elsewhere says nothing.
    elsewhere = origin("-c", SHOW, cwd=link, PWD="/")["directory"]
    assert elsewhere == os.path.realpath(link)


@pytest.mark.parametrize("command", [(), ("-i", "-c", SHOW)])
def test_an_interactive_program_cannot_be_repeated(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    assert origin(*command, cwd=tmp_path)["is_repeatable"] is False
