"""What the application counts with prometheus_client, over all workers of a running pool."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.endpoint import get
from tests.integration.pool_process import Pool
from tests.integration.test_upgrade import serving_pool, upgrade
from tests.waiting import PATIENCE, wait_until

APP = """
import os
from prometheus_client import Counter, Gauge, Histogram

VISITS = Counter("visits", "Requests that the application has seen.", ["path"])
SIZES = Histogram("sizes", "Of something.", buckets=[1, 2, 4])
WORKERS = Gauge("seen_workers", "One for each.", multiprocess_mode="livesum")
WORKERS.set(1)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
    VISITS.labels(scope["path"]).inc()
    SIZES.observe(3)
    body = str(os.getpid()).encode()
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})
"""

CLOSE = "Connection: close"


def samples(pool: Pool, path: str = "/metrics") -> dict[tuple[str, frozenset[str]], float]:
    response = pool.ask(get(path, CLOSE))
    assert response.status == 200, response
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }


def visits(pool: Pool, path: str = "/") -> float:
    return samples(pool).get(("visits_total", frozenset({path})), 0)


def visit(pool: Pool, times: int) -> None:
    for _ in range(times):
        pool.body()


@pytest.mark.parametrize(
    "options",
    [("--workers", "1"), ("--workers", "3"), ("--workers", "2", "--worker-mode", "thread")],
    ids=["alone", "processes", "threads"],
)
def test_every_worker_tells_the_totals_of_all(options: tuple[str, ...]) -> None:
    with serving_pool("--metrics", *options, app=APP) as pool:
        visit(pool, 30)
        for _ in range(5):
            found = samples(pool)
            assert found["visits_total", frozenset({"/"})] == 30
            assert found["sizes_count", frozenset()] == 30
            assert found["sizes_sum", frozenset()] == 90
            processes = 1 if "thread" in options else int(options[1])
            assert found["seen_workers", frozenset()] == processes
            # Of ours, one for each worker may be answered and not counted yet.
            assert found["http_requests_total", frozenset({"GET", "200"})] >= 30 - 3


def test_totals_outlive_workers_that_are_killed_and_replaced() -> None:
    with serving_pool("--metrics", app=APP) as pool:
        visit(pool, 10)
        victim = pool.workers()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        pool.wait_for_workers(2, without={victim})
        assert visits(pool) == 10
        visit(pool, 5)
        assert pool.reload_and_wait()["result"] == "succeeded"
        pool.wait_for_workers(2)
        visit(pool, 5)
        assert visits(pool) == 20
        wait_until(
            lambda: samples(pool)["seen_workers", frozenset()] == 2,
            "those that have left count no more",
        )


def test_totals_go_on_with_an_upgrade() -> None:
    with serving_pool("--metrics", app=APP) as pool:
        visit(pool, 10)
        upgrade(pool)
        visit(pool, 5)
        wait_until(lambda: visits(pool) == 15, "the counts of the old workers are kept")


def test_the_master_tells_them_as_well(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with serving_pool("--metrics-bind", f"unix:{path}", app=APP) as pool:
        visit(pool, 6)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=PATIENCE) as client:
            text = client.get("http://localhost/metrics").text
        assert 'visits_total{path="/"} 6.0' in text


LIBRARIES = """
from fastapi import FastAPI
from prometheus_fastapi_instrumentator import Instrumentator
from starlette_exporter import PrometheusMiddleware, handle_metrics

app = FastAPI()
app.add_middleware(PrometheusMiddleware, app_name="shop", prefix="shop")
app.add_route("/exported", handle_metrics)
Instrumentator().instrument(app).expose(app, endpoint="/instrumented")


@app.get("/")
async def root():
    return "hello"
"""


def test_libraries_for_frameworks_work_unchanged() -> None:
    with serving_pool("--metrics", "--workers", "4", app=LIBRARIES) as pool:
        visit(pool, 40)
        for path in ("/metrics", "/exported", "/instrumented"):

            def counted(name: str, path: str = path) -> float:
                return sum(
                    value
                    for (each, labels), value in samples(pool, path).items()
                    if each == name and "/" in labels
                )

            # Both count when the application has returned, which the client does not wait for.
            for name in ("shop_requests_total", "http_requests_total"):
                wait_until(lambda n=name: counted(n) >= 40, f"all of {name}")  # type: ignore[misc]
                assert counted(name) == 40, path
