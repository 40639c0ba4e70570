"""A real Prometheus scrapes a server while its workers come and go."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.endpoint import post
from tests.integration.pool_process import Pool, serving_pool
from tests.waiting import PATIENCE, wait_until

PROMETHEUS = shutil.which("prometheus")

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")

CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: pounce
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10)

    def query(self, expression: str) -> list[Any]:
        """The result of an instant query."""
        response = self._client.get("/query", params={"query": expression})
        if response.status_code == 503:  # it answers in plain text until it has started
            return []
        answer = response.json()
        assert answer["status"] == "success", answer
        found: list[Any] = answer["data"]["result"]
        return found

    def number(self, expression: str) -> float:
        """The only value of a query; -1: there is none yet."""
        try:
            found = self.query(expression)
        except httpx.TransportError:
            return -1
        return float(found[0]["value"][1]) if found else -1

    def target(self) -> dict[str, Any]:
        answer = self._client.get("/targets").json()
        (target,) = answer["data"]["activeTargets"]
        found: dict[str, Any] = target
        return found

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def scraping(port: int, folder: Path) -> Iterator[Prometheus]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        own_port = sock.getsockname()[1]
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(port=port))
    assert PROMETHEUS is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(own_port)
    try:
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


NEVER_FALLING = (
    "http_requests_total",
    "http_request_duration_seconds_bucket",
    "http_request_duration_seconds_count",
    "http_request_size_bytes_bucket",
    "http_response_size_bytes_bucket",
    "http_bytes_received_total",
    "http_bytes_sent_total",
)


def test_prometheus_sees_every_request_once_and_no_reset(tmp_path: Path) -> None:
    # Scrapes are counted as well, but with GET.
    total = 'http_requests_total{method="POST",status="200"}'
    with serving_pool("--metrics") as pool, scraping(pool.server.port, tmp_path) as prometheus:
        wait_until(lambda: prometheus.number("up") == 1, "Prometheus scrapes")

        sent = 0

        def send(number: int) -> None:
            nonlocal sent
            for _ in range(number):
                assert pool.ask(post("/", b"hello", "Connection: close")).status == 200
            sent += number  # after a scrape that timed out, Prometheus has no number for a while
            wait_until(lambda: prometheus.number(total) == sent, "all are seen")

        send(1)
        send(20)
        kill_one(pool)
        send(20)
        reload(pool)
        send(20)
        wait_until(lambda: prometheus.target()["lastError"] == "", "the last scrape was good")
        for name in NEVER_FALLING:
            assert prometheus.query(f"resets({name}[5m]) > 0") == []
        # The first value of a series has nothing before it; and Prometheus extrapolates.
        assert 60 <= prometheus.number(f"increase({total}[5m])") <= 90
        for query, expected in (
            ('pounce_worker_exits_total{reason="outside"}', 1),
            ('pounce_reloads_total{result="succeeded"}', 1),
            ("sum(pounce_worker_up)", 2),
        ):
            wait_until(partial(shows, prometheus, query, expected), query)


def shows(prometheus: Prometheus, query: str, expected: float) -> bool:
    return prometheus.number(query) == expected


def kill_one(pool: Pool) -> None:
    victim = min(pool.pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pool.pids() and len(pool.pids()) == 2, "it is replaced")


def reload(pool: Pool) -> None:
    former = pool.pids()
    pool.reload_and_wait()
    pool.wait_for_workers(2, without=former)
