"""The commands of `pounce ctl` on a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest

from pounce import ServerConfig
from pounce.runtime import WorkerMode
from pounce.supervisor.actions import Action
from pounce.supervisor.control_commands import ControlCommands
from pounce.supervisor.control_messages import ControlError, Status
from pounce.supervisor.notify import Notifier
from pounce.supervisor.pool_events import ReloadStarted, ReloadSucceeded
from pounce.supervisor.reload_course import ReloadCourse, ReloadRefused
from pounce.supervisor.upgrades import Upgrades
from tests.supervisor.pool_world import running

STATUS = cast(Status, {"version": "1"})


class FakeUpgrades:
    def __init__(self) -> None:
        self.is_under_way = False
        self.asked_for: list[str] = []

    def request(self, reason: str) -> None:
        self.asked_for.append(reason)
        self.waiter.set_result({"result": "succeeded", "reason": None})

    def outcome(self) -> asyncio.Future[dict[str, Any]]:
        self.waiter: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        return self.waiter


class Master:
    def __init__(self, *, is_reload_upgrade: bool = False) -> None:
        self.world = running()
        self.upgrades = FakeUpgrades()
        self.stops: list[bool] = []
        self.refusal = ""
        self.reloads = ReloadCourse(
            ServerConfig(),
            WorkerMode.PROCESS,
            read_config=None,
            has_app_object=False,
            notifier=Notifier(None),
            generation=lambda: 1,
            noted=lambda result: None,
        )
        self.commands = ControlCommands(
            self.world.pool,
            self.do,
            self.reloads,
            cast(Upgrades, self.upgrades),
            request_reload=self.request_reload,
            is_reload_upgrade=is_reload_upgrade,
            status=lambda: STATUS,
            stop=self.stops.append,
        )

    def do(self, actions: Sequence[Action]) -> None:
        # The pool never goes back in time.
        self.world.now = max(self.world.now, time.monotonic())
        self.world.do([*actions])

    def request_reload(self) -> None:
        if self.refusal:
            raise ReloadRefused(self.refusal)
        self.reloads.follow(ReloadStarted(generation=2))

    def ask(self, command: str, **arguments: object) -> Mapping[str, Any]:
        async def run() -> Mapping[str, Any]:
            result = await self.commands.handle(command, arguments)
            await asyncio.sleep(0)  # what was put off until the answer
            return result

        return asyncio.run(run())


def test_status_is_told_always() -> None:
    master = Master()
    master.upgrades.is_under_way = True
    assert master.ask("status") == STATUS


@pytest.mark.parametrize(
    ("command", "arguments"),
    [("reload", {"wait": True}), ("scale", {"workers": 3}), ("restart-worker", {"worker_id": 1})],
)
def test_an_upgrade_keeps_from_what_changes_the_pool(
    command: str, arguments: dict[str, object]
) -> None:
    master = Master()
    master.upgrades.is_under_way = True
    with pytest.raises(ControlError, match="an upgrade is under way"):
        master.ask(command, **arguments)


@pytest.mark.parametrize("now", [False, True])
def test_a_stop_comes_after_its_answer_also_during_an_upgrade(now: bool) -> None:
    master = Master()
    master.upgrades.is_under_way = True
    assert "pid" in master.ask("stop", now=now)
    assert master.stops == [not now]


def test_scale_tells_both_sizes() -> None:
    master = Master()
    assert master.ask("scale", workers=3) == {"workers_target": 3, "previous": 2}
    assert master.world.pool.snapshot().target == 3


def test_restart_needs_a_worker_that_is_there() -> None:
    master = Master()
    first = master.world.pool.snapshot().workers[0]
    answer = master.ask("restart-worker", worker_id=first.worker_id)
    assert answer == {"worker_id": first.worker_id, "slot": 0}
    with pytest.raises(ControlError, match="there is no worker 999"):
        master.ask("restart-worker", worker_id=999)


def test_a_refused_reload_is_told_at_once() -> None:
    master = Master()
    master.refusal = "the configuration cannot be used"
    for wait in (False, True):
        assert master.ask("reload", wait=wait) == {
            "result": "failed",
            "reason": master.refusal,
            "generation": 1,
        }


def test_a_reload_is_waited_for_where_that_is_asked_for() -> None:
    master = Master()
    assert master.ask("reload", wait=False)["result"] == "started"

    async def run() -> None:
        answer = asyncio.ensure_future(master.commands.handle("reload", {"wait": True}))
        await asyncio.sleep(0)
        assert not answer.done()
        master.reloads.follow(ReloadSucceeded(generation=2, seconds=1.0, lost=0))
        assert await answer == {"result": "succeeded", "reason": None, "generation": 2}

    asyncio.run(run())


def test_where_code_needs_a_new_process_a_reload_is_an_upgrade() -> None:
    master = Master(is_reload_upgrade=True)
    assert master.ask("reload", wait=False)["result"] == "started"
    assert master.ask("reload", wait=True) == {
        "result": "succeeded",
        "reason": None,
        "generation": 1,
    }
    assert master.upgrades.asked_for == ["reload", "reload"]
