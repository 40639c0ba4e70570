from __future__ import annotations

from collections.abc import Iterator

import pytest

from pounce.config import ServerConfig
from pounce.metrics.exposition import Exposition
from pounce.metrics.interceptor import Answer, Interceptor
from tests.metrics.arenas import arena_with


@pytest.fixture
def interceptor() -> Iterator[Interceptor]:
    config = ServerConfig()
    with arena_with(1) as arena:
        yield Interceptor(Exposition(arena, config), config.metrics_allow)


def ask(interceptor: Interceptor, method: str = "GET", peer: str | None = "127.0.0.1") -> Answer:
    return interceptor.refuse(method, peer) or interceptor.answer("", "gzip;q=0")


def status(answer: Answer) -> int:
    assert int(dict(answer.fields)[b"content-length"]) == len(answer.content)
    return answer.status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_metrics_are_read_with_get_and_head(interceptor: Interceptor, method: str) -> None:
    answer = ask(interceptor, method)
    assert status(answer) == 200
    assert dict(answer.fields)[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
    assert b'pounce_worker_up{worker="1"} 1.0\n' in answer.content


@pytest.mark.parametrize("method", ["POST", "OPTIONS", "get", "BREW"])
def test_other_methods_are_told_which_are_allowed(interceptor: Interceptor, method: str) -> None:
    answer = ask(interceptor, method)
    assert status(answer) == 405
    assert dict(answer.fields)[b"allow"] == b"GET, HEAD"


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("127.0.0.1", 200),
        ("127.8.0.1", 200),
        ("::1", 200),
        ("::ffff:10.1.2.3", 200),
        ("192.168.5.6", 200),
        ("172.31.255.255", 200),
        ("fd00::1", 200),
        ("fe80::1%eth0", 200),
        ("169.254.1.1", 200),
        (None, 200),
        ("172.32.0.1", 403),
        ("8.8.8.8", 403),
        ("::ffff:8.8.8.8", 403),
        ("2001:db8::1", 403),
        ("not an address", 403),
    ],
)
def test_by_default_only_near_peers_may_ask(
    interceptor: Interceptor, peer: str | None, expected: int
) -> None:
    assert status(ask(interceptor, peer=peer)) == expected


def test_who_may_not_ask_does_not_learn_of_methods(interceptor: Interceptor) -> None:
    assert status(ask(interceptor, "POST", peer="8.8.8.8")) == 403


def test_who_may_ask_can_be_chosen() -> None:
    with arena_with(1) as arena:
        exposition = Exposition(arena, ServerConfig())
        assert status(ask(Interceptor(exposition, "*"), peer="8.8.8.8")) == 200
        assert status(ask(Interceptor(exposition, "8.8.0.0/16"), peer="8.8.8.8")) == 200
        assert status(ask(Interceptor(exposition, "8.8.0.0/16"))) == 403
        assert status(ask(Interceptor(exposition, ""), peer=None)) == 403
