"""One server for each test module, whose application is named by `APP` in the module."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.frameworks.contract", "tests.frameworks.steering")

from tests.frameworks.served_app import Client, ServedApp, serve  # noqa: E402


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedApp]:
    folder = tmp_path_factory.mktemp("served")
    with serve(request.module.APP, folder, "--http2-cleartext") as served:
        yield served


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def client(served: ServedApp, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client for one test, which must not have made the server or the application complain, but
    for what `ServedApp.expect_log` was told of."""
    with Client(served.process.url, http2=request.param == "HTTP/2") as client:
        yield client
        assert client.get("/hello").http_version == request.param
    served.assert_no_complaint()


@pytest.fixture
def key() -> str:
    """Names the gate and the events of one test."""
    return uuid.uuid4().hex
