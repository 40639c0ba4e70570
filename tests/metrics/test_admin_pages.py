from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pounce.config import ServerConfig
from pounce.metrics.admin_pages import AdminPages
from pounce.metrics.exposition import Exposition
from pounce.metrics.interceptor import Answer
from tests.metrics.arenas import add_master, arena_with
from tests.metrics.scraping import parse_open_metrics, value


class Pool:
    """What the master would say."""

    def __init__(self) -> None:
        self.is_ready = True
        self.status: dict[str, Any] = {"generation": 3, "workers": []}


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def pages(pool: Pool) -> Iterator[AdminPages]:
    with arena_with(1) as arena:
        add_master(arena)
        yield AdminPages(
            Exposition(arena, ServerConfig()),
            is_ready=lambda: pool.is_ready,
            status=lambda: pool.status,
        )


def get(pages: AdminPages, target: str, *fields: tuple[bytes, bytes]) -> Answer:
    answer = pages.answer("GET", target, fields)
    assert int(dict(answer.fields)[b"content-length"]) == len(answer.content)
    return answer


def test_metrics_are_those_of_the_arena_as_the_client_wants_them(pages: AdminPages) -> None:
    answer = get(
        pages,
        "/metrics?debug=1",
        (b"accept", b"application/openmetrics-text"),
        (b"accept-encoding", b"br"),
        (b"accept-encoding", b"gzip"),
    )
    assert answer.status == 200
    assert dict(answer.fields)[b"content-encoding"] == b"gzip"
    samples = parse_open_metrics(gzip.decompress(answer.content))
    assert value(samples, "pounce_worker_up", worker="1") == 1


def test_the_server_lives_as_long_as_it_answers(pages: AdminPages, pool: Pool) -> None:
    pool.is_ready = False
    assert get(pages, "/healthz").status == 200


def test_the_server_is_ready_as_long_as_the_pool_is(pages: AdminPages, pool: Pool) -> None:
    assert get(pages, "/readyz").status == 200
    pool.is_ready = False
    assert get(pages, "/readyz").status == 503


def test_the_status_is_json(pages: AdminPages, pool: Pool) -> None:
    answer = get(pages, "/status")
    assert dict(answer.fields)[b"content-type"] == b"application/json"
    assert json.loads(answer.content) == pool.status


@pytest.mark.parametrize("target", ["/", "/metrics/", "*", "http://a/metrics"])
def test_other_paths_are_not_found(pages: AdminPages, target: str) -> None:
    assert get(pages, target).status == 404


def test_pages_can_only_be_read(pages: AdminPages) -> None:
    answer = pages.answer("POST", "/status", ())
    assert answer.status == 405
    assert dict(answer.fields)[b"allow"] == b"GET, HEAD"
    assert pages.answer("HEAD", "/status", ()).status == 200
