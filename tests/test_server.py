"""Small parts of `Server` that need no process of their own."""

from __future__ import annotations

import pytest

from pounce import ConfigError, Server, ServerConfig


async def _app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("not called")


def test_it_needs_an_application_or_its_import_string() -> None:
    with pytest.raises(ConfigError, match="import string"):
        Server(ServerConfig(), None)


def test_shutdown_before_run_makes_run_return_at_once() -> None:
    server = Server(ServerConfig(port=0), _app)
    server.shutdown()
    server.shutdown()
    server.run()
    assert server.bound_addr is None
