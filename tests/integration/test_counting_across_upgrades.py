"""What was counted goes on when another process takes over."""

from __future__ import annotations

import os
import signal

import pytest

from pounce.metrics import catalogue
from pounce.shm.slot import SlotState
from pounce.supervisor.shared_arena import SWEEP_PERIOD
from tests.integration.endpoint import get
from tests.integration.pool_process import Pool
from tests.integration.test_counting import arena_of, requests, total
from tests.integration.test_upgrade import BROKEN, outcome, serving_pool, upgrade
from tests.waiting import wait_until


def ask(pool: Pool, times: int) -> None:
    for _ in range(times):
        pool.body()


def test_a_pool_goes_on_counting_where_it_was() -> None:
    with serving_pool() as pool, arena_of(pool.server.pid, 2) as arena:
        ask(pool, 10)
        for upgrades in (1, 2):
            pid = upgrade(pool)
            assert arena.owner_pid == pid
            ask(pool, 5)
            # The slots of the workers and of the master before.
            wait_until(lambda: len(arena.slots_in_use()) == 3, "the old slots are free")
            wait_until(
                lambda n=upgrades: requests(arena) == {("GET", "200"): 10 + 5 * n},  # type: ignore[misc]
                "every request is counted once",
            )
            assert total(arena, "upgrades", catalogue.RESULTS.index("succeeded")) == upgrades
        assert total(arena, "worker_exits", catalogue.EXIT_REASONS.index("drained")) == 4
        ids = sorted(slot.worker_id for slot in arena.slots_in_use())
        assert ids[0] == catalogue.MASTER_ID
        assert ids[1] > 2


def test_a_process_that_cannot_take_over_leaves_nothing_behind() -> None:
    with serving_pool() as pool, arena_of(pool.server.pid, 2) as arena:
        ask(pool, 3)
        code = (pool.folder / "app.py").read_text()
        pool.write_app(BROKEN)
        pool.signal(signal.SIGUSR2)
        assert outcome(pool)["result"] == "failed"
        wait_until(lambda: len(arena.slots_in_use()) == 3, "the slots are free")
        pool.write_app(code)
        ask(pool, 3)
        assert arena.owner_pid == pool.server.pid
        wait_until(lambda: requests(arena) == {("GET", "200"): 6}, "every request is counted")
        assert total(arena, "upgrades", catalogue.RESULTS.index("failed")) == 1


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2])
def test_one_worker_goes_on_counting_where_it_was(number: signal.Signals) -> None:
    with serving_pool("--metrics", workers=1) as pool, arena_of(pool.server.pid, 1) as arena:
        ask(pool, 5)
        before = pool.body()
        os.kill(int(before), number)
        wait_until(lambda: pool.body() != before, "another process answers")
        wait_until(lambda: len(arena.slots_in_use()) == 1, "the old slot is free")
        [slot] = arena.slots_in_use()
        assert slot.state is SlotState.READY
        assert slot.pid == int(pool.body())
        wait_until(lambda: arena.owner_pid == slot.pid, "it has the shared memory")
        response = pool.ask(get("/metrics", "Connection: close"))
        assert b'http_requests_total{method="GET",status="200"}' in response.body


def test_slots_of_workers_that_take_long_to_start_are_left_to_them() -> None:
    """The old master looks for slots that a failed successor has left."""
    slow = f"import time\ntime.sleep({1.5 * SWEEP_PERIOD})\n"
    with serving_pool() as pool, arena_of(pool.server.pid, 2) as arena:
        pool.write_app(slow + (pool.folder / "app.py").read_text())
        upgrade(pool)
        wait_until(lambda: len(arena.slots_in_use()) == 3, "the old slots are free")
        status = {worker["pid"]: worker["worker_id"] for worker in pool.workers()}
        workers = [slot for slot in arena.slots_in_use() if slot.worker_id]
        assert {slot.pid: slot.worker_id for slot in workers} == status
