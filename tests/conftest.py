"""What every test has in common."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pounce.runtime import available_cpus
from tests.leftovers import LeftoverCheck

pytest_plugins = ["pytester"]

# A test that runs beside others on a busy machine may take its time: speed is the benchmark's
# business.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("shared machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """More than there are CPUs: most of the time is spent waiting for servers."""
    return math.ceil(1.5 * available_cpus())


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeftoverCheck(config), "leftovers")


@pytest.fixture
def short_tmp_path() -> Iterator[Path]:
    """A temporary folder whose path fits into a Unix socket address (104 bytes on macOS)."""
    with tempfile.TemporaryDirectory(prefix="pounce-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
