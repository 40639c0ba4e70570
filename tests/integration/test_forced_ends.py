"""Ends that are not waited for: a second signal and QUIT, with a master and without.

Both are asked for, so the exit status is 0 as it is with uvicorn and gunicorn, and nothing of it is
an error in the log.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.endpoint import Connection, Endpoint, get, new_key, serve
from tests.integration.pool_process import GRACEFUL, serving_pool

FORCED = [
    pytest.param(("SIGTERM", "SIGTERM"), id="second TERM"),
    pytest.param(("SIGINT", "SIGINT"), id="second INT"),
    pytest.param(("SIGINT", "SIGTERM"), id="TERM after INT"),
    pytest.param(("SIGQUIT",), id="QUIT"),
    pytest.param(("SIGTERM", "SIGQUIT"), id="QUIT after TERM"),
]


@contextlib.contextmanager
def busy_server(kind: str, via: str) -> Iterator[tuple[Endpoint, Connection]]:
    """A server with a request in progress that does not end."""
    if kind == "pool":
        with serving_pool(*GRACEFUL, via=via) as pool, pool.hold("a") as busy:
            yield pool, busy
    else:
        key = new_key()
        with serve(*GRACEFUL, via=via) as endpoint, endpoint.connect() as busy:
            busy.send(get(f"/slow/{key}"))
            endpoint.wait_for(key, "started")
            yield endpoint, busy


@pytest.mark.parametrize("via", ["tcp", "unix"])
@pytest.mark.parametrize("names", FORCED)
@pytest.mark.parametrize("kind", ["pool", "single"])
def test_the_status_of_a_forced_end_is_0(kind: str, names: tuple[str, ...], via: str) -> None:
    with busy_server(kind, via) as (endpoint, busy):
        for name in names:
            endpoint.server.send_signal(signal.Signals[name])
            endpoint.wait_for_log(f"received {name}")
        assert endpoint.server.wait() == 0
        assert busy.rest() == b""
        log = endpoint.server.stderr_text()
        assert "ending at once" in log
        assert ("shutting down" in log) == (len(names) == 2)
        assert not {"ERROR", "CRITICAL"} & {line.split(":")[0] for line in log.splitlines()}
        if endpoint.server.uds is not None:
            assert not Path(endpoint.server.uds).exists()


@pytest.mark.parametrize("kind", ["pool", "single"])
def test_a_graceful_end_is_announced_and_reported(kind: str) -> None:
    with busy_server(kind, "tcp") as (endpoint, _):
        endpoint.server.send_signal(signal.SIGTERM)
        endpoint.wait_for_log("shutting down")
        assert "stopped" not in endpoint.server.stderr_text()
        endpoint.server.send_signal(signal.SIGTERM)
        assert endpoint.server.wait() == 0
    with serving_pool() if kind == "pool" else serve() as other:
        other.server.send_signal(signal.SIGTERM)
        assert other.server.wait() == 0
        log = other.server.stderr_text()
        assert log.index("received SIGTERM") < log.index("shutting down") < log.index("stopped")
