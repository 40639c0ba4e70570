"""What is known of a series."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from pounce.metrics.client.series import Series, decode, encode

THREADS = 4


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient_threads")
def test_a_series_is_one_object_in_all_threads() -> None:
    texts = [
        encode("jobs", "counter", labels=[("n", str(number))], details=[("jobs_total", None)])
        for number in range(3000)
    ]
    found: list[list[Series]] = [[] for _ in range(THREADS)]
    begin = threading.Barrier(THREADS)

    def run(into: list[Series]) -> None:
        begin.wait()
        into += map(decode, texts)

    threads = [threading.Thread(target=run, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for alike in zip(*found, strict=True):
        assert len(set(alike)) == 1
        assert len({series.identity for series in alike}) == 1
