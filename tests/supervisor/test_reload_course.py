"""What is read for a reload, and who is told how it went."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pounce import ServerConfig
from pounce.errors import ConfigError
from pounce.logs import configure_logging
from pounce.runtime import WorkerMode
from pounce.supervisor import reload_course
from pounce.supervisor.notify import Notifier
from pounce.supervisor.pool_events import ReloadFailed, ReloadStarted, ReloadSucceeded
from pounce.supervisor.reload_course import ReloadCourse, ReloadRefused


@pytest.fixture(autouse=True)
def logging_given_back() -> Iterator[None]:
    yield
    configure_logging(ServerConfig())


STARTED = ReloadStarted(generation=2)
SUCCEEDED = ReloadSucceeded(generation=2, seconds=1.0, lost=0)
FAILED = ReloadFailed(generation=2, seconds=1.0, reason="it raised")


class World:
    """A course, and what came of it."""

    def __init__(
        self,
        read_config: Callable[[], ServerConfig] | None = None,
        *,
        config: ServerConfig | None = None,
        has_app_object: bool = False,
    ) -> None:
        self.results: list[str] = []
        self.course = ReloadCourse(
            config or ServerConfig(),
            WorkerMode.PROCESS,
            read_config=read_config,
            has_app_object=has_app_object,
            notifier=Notifier(None),
            generation=lambda: 1,
            noted=self.results.append,
        )


def test_without_a_way_to_read_again_the_settings_stay() -> None:
    assert World().course.prepare() is None


def test_settings_are_of_what_was_read() -> None:
    new = ServerConfig(workers=4)
    world = World(lambda: new)
    settings = world.course.prepare()
    assert settings is not None
    assert settings.workers == 4
    assert world.course.config_of(2) is new


@pytest.mark.parametrize(
    "error", [ConfigError("workers: expected a number"), OSError("no descriptor is left")]
)
def test_what_cannot_be_used_changes_nothing(error: Exception) -> None:
    def read() -> ServerConfig:
        raise error

    old = ServerConfig()
    world = World(read, config=old)
    with pytest.raises(ReloadRefused, match=f"cannot be used: {error}"):
        world.course.prepare()
    assert world.course.config_of(2) is old
    assert world.results == ["failed"]
    assert world.course.last is not None
    assert str(error) in str(world.course.last["reason"])


@pytest.mark.parametrize(
    ("changed", "is_warned"),
    [({"port": 9000}, True), ({"backlog": 7}, True), ({"max_requests": 7}, False)],
)
def test_addresses_stay_until_a_restart(
    changed: dict[str, Any],
    is_warned: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The one of the package is set up anew meanwhile.
    monkeypatch.setattr(reload_course, "logger", logging.getLogger("of_this_test"))
    World(lambda: ServerConfig(**changed)).course.prepare()
    assert ("changes with a restart only" in caplog.text) is is_warned


@pytest.mark.parametrize(
    ("event", "result", "reason", "generation"),
    [(SUCCEEDED, "succeeded", None, 2), (FAILED, "failed", "it raised", 1)],
)
def test_who_waits_is_told(
    event: ReloadSucceeded | ReloadFailed, result: str, reason: str | None, generation: int
) -> None:
    async def run() -> None:
        world = World()
        outcome = world.course.outcome()
        world.course.follow(STARTED)
        later = world.course.outcome()
        world.course.follow(event)
        assert await outcome == {"result": result, "reason": reason, "generation": generation}
        assert not later.done(), "it is for the next one"
        assert world.results == [result]

    asyncio.run(run())


@pytest.mark.parametrize(("event", "serves"), [(SUCCEEDED, "new"), (FAILED, "old")])
def test_the_master_goes_by_the_configuration_of_those_that_serve(
    event: ReloadSucceeded | ReloadFailed, serves: str
) -> None:
    configs = {"old": ServerConfig(shutdown_delay=1.0), "new": ServerConfig(shutdown_delay=2.0)}
    course = World(lambda: configs["new"], config=configs["old"]).course
    course.config_of(1)
    course.prepare()
    course.follow(STARTED)
    assert course.config is configs["old"]
    course.follow(event)
    assert course.config is configs[serves]
    assert course.config_of(3) is configs[serves]
