"""Real processes that write, read and are killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.shm.subprocesses import run_program

FOLDER = Path(__file__).parent
KILLS = int(os.environ.get("TEST_KILLS", "500"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def found_by(program: str, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_program(FOLDER / program, *args))
    return found


def test_totals_are_exact_after_workers_were_killed() -> None:
    """The counts of each are those that it acknowledged, or one more, which it was about to."""
    found = found_by("killed_writers.py", "workers", str(KILLS))
    assert found["kills"] == KILLS
    assert found["counted"] > KILLS


def test_totals_are_exact_after_owners_were_killed_while_they_retired() -> None:
    """Of the increments around each reading none is missing, and none is there twice."""
    found = found_by("killed_writers.py", "owners", str(KILLS))
    assert found["counted"] > KILLS
    assert found["reads"] > KILLS


def test_a_ring_and_a_black_box_are_read_while_they_are_written() -> None:
    found = found_by("busy_ring.py", "100000")
    assert found["delivered"] + found["missed"] == 100_000
    assert found["delivered"] > 0
    assert found["in box"] > 0


def test_blocks_are_read_while_they_are_published_and_freed() -> None:
    found = found_by("busy_chain.py", "50000")
    assert found["good"] > 0
