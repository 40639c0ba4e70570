"""One server for each test module, whose application is named by `APP` in the module."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest

pytest.register_assert_rewrite("tests.frameworks.contract", "tests.frameworks.steering")

from tests.frameworks.served_app import ServedApp, serve  # noqa: E402


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedApp]:
    with serve(request.module.APP, tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def client(served: ServedApp) -> Iterator[httpx.Client]:
    """A client with its own connections and cookies. What the test did must not have made the
    server or the application complain, but for what `ServedApp.expect_log` was told of."""
    with served.process.client() as client:
        yield client
    served.assert_no_complaint()


@pytest.fixture
def key() -> str:
    """Names the gate and the events of one test."""
    return uuid.uuid4().hex
