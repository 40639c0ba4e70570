"""`--metrics`: what a scrape of a real server says."""

from __future__ import annotations

import gzip
import itertools
import os
import signal
import sys
from collections import Counter

import pytest

from tests.integration.endpoint import APP, Endpoint, get, post
from tests.integration.pool_process import APP as POOL_APP
from tests.integration.pool_process import Pool, serving_pool
from tests.integration.server_process import ServerProcess
from tests.metrics.scraping import (
    OPEN_METRICS,
    count,
    parse_open_metrics,
    parse_text,
    value,
    values,
)
from tests.waiting import wait_until

CLOSE = "Connection: close"


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: Endpoint, *fields: str) -> Samples:
    response = server.ask(get("/metrics", CLOSE, *fields))
    assert response.status == 200, response
    return parse_text(response.body)


def answered(server: Endpoint) -> float:
    """Requests of the application, which are all GET with 200; the scrapes before are as well."""
    return count(scrape(server), "http_requests_total", method="GET", status="200")


@pytest.mark.parametrize("via", ["tcp", "tls", "unix"])
def test_any_worker_tells_of_all(via: str) -> None:
    with serving_pool("--metrics", via=via) as pool:
        for _ in range(10):
            pool.body()
        counts = itertools.count(10)  # each scrape is one more for the next
        for _ in range(5):
            # A request is counted a moment after it was answered.
            wait_until(lambda: answered(pool) == next(counts), "every answer is counted")
        samples: Samples = {}

        def all_are_counted() -> bool:
            samples.update(scrape(pool))
            total = sum(values(samples, "pounce_worker_requests_total").values())
            return total == next(counts)

        wait_until(all_are_counted, "every answer is counted")
        workers = {str(worker["worker_id"]) for worker in pool.workers()}
        up = values(samples, "pounce_worker_up")
        assert up == {frozenset({("worker", each)}): 1 for each in workers}
        assert value(samples, "pounce_workers_wanted") == 2
        assert value(samples, "http_requests_in_flight") >= 1, "the scrape itself"
        rss = values(samples, "pounce_worker_rss_bytes")
        assert set(rss) == set(up)
        assert all(number > 2**20 for number in rss.values())


@pytest.mark.parametrize("options", [(), ("--reload",)])
def test_a_server_of_one_worker_tells_of_itself(options: tuple[str, ...]) -> None:
    with ServerProcess(APP, "--metrics", *options) as process:
        server = Endpoint(process)
        assert server.ask(get("/", CLOSE)).status == 200
        assert server.ask(post("/", b"hello", CLOSE)).status == 200
        samples = scrape(server)
        assert value(samples, "http_requests_total", method="GET", status="200") == 1
        assert value(samples, "http_requests_total", method="POST", status="200") == 1
        assert value(samples, "http_request_size_bytes_count") == 2
        assert value(samples, "http_request_size_bytes_sum") == 5
        if sys.platform == "linux":
            assert len(values(samples, "pounce_accept_queue_length")) == 1
        assert list(values(samples, "pounce_worker_up")) == [frozenset({("worker", "1")})]
        assert not values(samples, "pounce_workers_wanted")


def test_worker_threads_are_told_of_and_their_process_once() -> None:
    with serving_pool("--metrics", "--worker-mode", "thread") as pool:
        pool.body()
        counts = itertools.count(1)
        wait_until(lambda: answered(pool) == next(counts), "every answer is counted")
        samples = scrape(pool)
        assert sum(values(samples, "pounce_worker_up").values()) == 2
        assert not values(samples, "pounce_worker_rss_bytes")
        assert value(samples, "pounce_master_rss_bytes") > 2**20


def test_formats_methods_and_the_log_are_those_of_http() -> None:
    with serving_pool("--metrics") as pool:
        response = pool.ask(get("/metrics", CLOSE, f"Accept: {OPEN_METRICS}"))
        assert parse_open_metrics(response.body)
        response = pool.ask(get("/metrics", CLOSE, "Accept-Encoding: gzip"))
        assert response.value(b"content-encoding") == b"gzip"
        assert parse_text(gzip.decompress(response.body))
        response = pool.ask(get("/metrics", CLOSE, method="HEAD"), "HEAD")
        assert (response.status, response.body) == (200, b"")
        assert int(response.value(b"content-length")) > 1000
        response = pool.ask(post("/metrics", b"hi", CLOSE))
        assert (response.status, response.value(b"allow")) == (405, b"GET, HEAD")
        pool.wait_for_log('"HEAD /metrics HTTP/1.1" 200')
        wait_until(
            lambda: count(scrape(pool), "http_requests_total", method="POST", status="405") == 1,
            "it is counted",
        )


def test_whoever_is_not_allowed_is_refused_whatever_a_proxy_says() -> None:
    with serving_pool("--metrics", "--metrics-allow", "10.0.0.0/8") as pool:
        response = pool.ask(get("/metrics", CLOSE, "X-Forwarded-For: 10.0.0.1"))
        assert response.status == 403


def test_the_path_is_the_application_s_unless_metrics_are_asked_for() -> None:
    with serving_pool() as pool:
        assert pool.body("/metrics").isdigit()
    with serving_pool("--metrics", "--metrics-path", "/-/m") as pool:
        assert pool.body("/metrics").isdigit()
        assert pool.ask(get("/-/m", CLOSE)).body.startswith(b"# HELP")


def test_other_paths_are_the_application_s() -> None:
    with serving_pool("--metrics") as pool:
        for path in ("/", "/metrics/", "/Metrics", "/metrics/x", "/metric"):
            assert int(pool.body(path)) in pool.pids(), path


def test_an_overloaded_worker_still_tells() -> None:
    options = ("--metrics", "--limit-concurrency", "1")
    with serving_pool(*options, workers=1) as pool, pool.hold("one") as held:
        assert pool.ask(get("/", CLOSE)).status == 503
        samples = scrape(pool)
        assert value(samples, "http_rejections_total", reason="overloaded") == 1
        assert value(samples, "http_requests_in_flight") == 2
        assert value(samples, "pounce_limit_concurrency") == 1
        pool.go("one")
        held.receive()


def total(pool: Pool) -> float:
    return sum(values(scrape(pool), "http_requests_total").values())


def test_totals_never_fall_when_workers_are_killed_and_replaced() -> None:
    with serving_pool("--metrics") as pool:
        for _ in range(10):
            pool.body()
        counted = 10.0

        def all_are_counted() -> bool:
            """And none twice: after a scrape that missed one, the next finds it."""
            nonlocal counted
            now = total(pool)
            assert now <= counted
            counted += 1  # the scrape
            return now == counted - 1

        wait_until(all_are_counted, "every answer is counted")
        last = counted - 1
        for round_, end in enumerate((lambda: kill_one(pool), pool.reload_and_wait)):
            former = pool.pids()
            end()
            pool.wait_for_workers(2, without=former if round_ else None)
            for _ in range(5):
                pool.body()
                last = both_counted(pool, last + 2)
        samples = scrape(pool)
        assert value(samples, "pounce_worker_exits_total", reason="outside") == 1
        assert value(samples, "pounce_worker_exits_total", reason="drained") == 2
        assert value(samples, "pounce_reloads_total", result="succeeded") == 1
        assert set(values(samples, "pounce_worker_generation").values()) == {2}


def test_reloads_are_counted_by_their_result() -> None:
    with serving_pool("--metrics") as pool:
        counts: Counter[str] = Counter()
        for expected in ("failed", "succeeded", "failed"):
            app = POOL_APP if expected == "succeeded" else "raise RuntimeError('broken')"
            pool.write_app(app)
            assert pool.reload_and_wait()["result"] == expected
            counts[expected] += 1
            samples = scrape(pool)
            for result, count in counts.items():
                assert value(samples, "pounce_reloads_total", result=result) == count


def both_counted(pool: Pool, low: float) -> float:
    """The total when it is so much: with a request and the scrape after it."""

    def found() -> float:
        now = total(pool)
        assert now >= low - 2, "it has fallen"
        return now if now >= low else 0

    return wait_until(found, "both are counted")


def kill_one(pool: Pool) -> None:
    victim = min(pool.pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pool.pids() and len(pool.pids()) == 2, "it is replaced")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_accept_queues_of_all_workers_are_told_by_any() -> None:
    with serving_pool("--metrics", "--backlog", "100") as pool:
        lengths = values(scrape(pool), "pounce_accept_queue_length")
        address = ("address", f"127.0.0.1:{pool.server.port}")
        assert lengths == {frozenset({address, ("slot", slot)}): 0 for slot in "01"}
        limits = values(scrape(pool), "pounce_accept_queue_limit")
        assert set(limits.values()) == {100}
