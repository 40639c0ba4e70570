"""What integration tests have in common."""

from __future__ import annotations

import pytest

from tests.integration.worker_modes import Mode, mode_named


@pytest.fixture(params=["process", "thread", "free-threaded"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Each of them."""
    return mode_named(request.param)


@pytest.fixture(params=["thread", "free-threaded"])
def thread_mode(request: pytest.FixtureRequest) -> Mode:
    """Those whose workers are threads."""
    return mode_named(request.param)
