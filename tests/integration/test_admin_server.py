"""The master's own server, which answers whatever workers do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.endpoint import get
from tests.integration.pool_process import Pool
from tests.integration.server_process import run_pounce
from tests.integration.test_upgrade import main_pid, serving_pool, upgrade
from tests.ports import quiet_port
from tests.waiting import PATIENCE, wait_until


@contextmanager
def pool_with_admin(*options: str, **more: object) -> Iterator[tuple[Pool, httpx.Client]]:
    port = quiet_port()
    bind = ("--metrics-bind", f"127.0.0.1:{port}")
    with (
        serving_pool(*bind, *options, **more) as pool,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE
        ) as client,
    ):
        yield pool, client


def total(client: httpx.Client, name: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_it_tells_of_all_workers_and_of_the_pool(workers: int) -> None:
    with pool_with_admin(workers=workers) as (pool, client):
        for _ in range(7):
            pool.body()
        wait_until(lambda: total(client, "http_requests_total") == 7, "seven are counted")
        assert total(client, "pounce_worker_up") == workers
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert client.get("/status").json()["pid"] == pool.server.pid
        assert client.get("/").status_code == 404


def test_it_answers_while_every_worker_is_stuck() -> None:
    with pool_with_admin(workers=1, allow_unhandled=True) as (pool, client):
        with pool.connect() as connection:
            connection.send(get("/block"))
            pool.wait_for_file("blocks")
            assert client.get("/healthz").status_code == 200
            assert total(client, "http_requests_in_flight") == 1
            wait_until(
                lambda: total(client, "pounce_worker_heartbeat_age_seconds") > 0.5,
                "the heartbeat grows old",
            )
        os.kill(pool.workers()[0]["pid"], signal.SIGKILL)
        pool.wait_for_log("is ready", 2)


def test_it_says_not_ready_while_a_stop_is_delayed() -> None:
    with pool_with_admin("--shutdown-delay", "100s") as (pool, client):
        pool.signal(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503, "not ready")
        assert client.get("/healthz").status_code == 200
        assert pool.body(), "it still accepts"
        pool.signal(signal.SIGTERM)
        assert pool.server.wait() == 0


def test_it_says_not_ready_without_a_worker() -> None:
    with pool_with_admin() as (pool, client):
        pool.signal(signal.SIGWINCH)
        wait_until(lambda: client.get("/readyz").status_code == 503, "not ready")
        pool.command("scale", workers=2)
        wait_until(lambda: client.get("/readyz").status_code == 200, "ready again")


def test_it_goes_on_with_an_upgrade() -> None:
    with pool_with_admin() as (pool, client):
        pool.body()
        before = main_pid(pool)
        pid = upgrade(pool)
        assert pid != before
        wait_until(lambda: client.get("/status").json()["pid"] == pid, "the new master answers")
        assert client.get("/readyz").status_code == 200
        assert total(client, "http_requests_total") >= 1
        assert total(client, "pounce_upgrades_total") == 1


def test_it_may_have_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with serving_pool("--metrics-bind", f"unix:{path}"):
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, trust_env=False, timeout=PATIENCE) as client:
            assert client.get("http://localhost/healthz").status_code == 200
    assert not path.exists()


def test_an_address_in_use_is_one_clear_line() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        result = run_pounce(
            "examples.demo:app", "--port", "0", "--metrics-bind", f"127.0.0.1:{port}"
        )
    assert result.returncode != 0
    assert f"port {port} on 127.0.0.1 is in use" in result.stderr
