"""Prometheus's own opinion of names, types and helps."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product

import pytest

from pounce.config import ServerConfig
from pounce.metrics.exposition import Exposition
from pounce.net.listener import SlotQueue
from tests.metrics.arenas import LAYOUT, add_master, arena_with

PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_nothing_to_complain_of() -> None:
    with arena_with(1, 2) as arena:
        add_master(arena)
        for slot, index in product(arena.slots, range(LAYOUT.cells)):
            slot.cells[index] = 1
        queues = [SlotQueue(("127.0.0.1", 80), 1, 0, 128)]
        page = Exposition(arena, ServerConfig(), queues=lambda: queues).page()
    assert PROMTOOL is not None
    result = subprocess.run([PROMTOOL, "check", "metrics"], input=page.content, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
