"""What an operator chooses reaches the pool."""

from __future__ import annotations

import typing
from dataclasses import fields

import pytest

from pounce import ServerConfig
from pounce.config import OPTIONS
from pounce.runtime import WorkerMode, available_cpus
from pounce.supervisor.pool_settings import PoolSettings, pool_settings

NO_OPTIONS = {"drain_margin", "kill_patience", "crash"}
"""What nobody chooses."""

OPTIONS_OF_POOL = [item.name for item in fields(PoolSettings) if item.name not in NO_OPTIONS]


@pytest.mark.parametrize("name", OPTIONS_OF_POOL)
def test_every_setting_is_an_option_of_that_name_and_type(name: str) -> None:
    assert name in OPTIONS
    if name != "workers":  # which may be "auto"
        types = typing.get_type_hints(ServerConfig)
        assert types[name] is typing.get_type_hints(PoolSettings)[name]


@pytest.mark.parametrize("name", OPTIONS_OF_POOL)
def test_what_is_chosen_is_what_the_pool_gets(name: str) -> None:
    chosen = getattr(ServerConfig(), name) + 3
    config = ServerConfig(**{"thread_stall_timeout": 1.0, name: chosen})
    assert getattr(pool_settings(config), name) == chosen


def test_settings_that_nobody_chooses_are_no_options() -> None:
    assert not NO_OPTIONS & OPTIONS.keys()


def test_automatic_number_of_workers_is_counted() -> None:
    assert pool_settings(ServerConfig(workers="auto")).workers == available_cpus()


def test_a_thread_that_does_not_end_is_written_off_earlier() -> None:
    config = ServerConfig()
    process, thread = (pool_settings(config, mode) for mode in WorkerMode)
    assert {process.kill_patience, thread.kill_patience} == {5.0, 10.0}
    assert pool_settings(config, WorkerMode.THREAD).kill_patience == 5.0
