"""The configuration and the logging of each generation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from pounce.config import ServerConfig
from pounce.errors import ConfigError
from pounce.logs import configure_logging
from pounce.supervisor.generation_configs import GenerationConfigs


@pytest.fixture(autouse=True)
def logging_given_back() -> Iterator[None]:
    yield
    configure_logging(ServerConfig())


def level() -> int:
    return logging.getLogger("pounce").level


def with_level(name: Literal["info", "debug", "error"]) -> ServerConfig:
    return ServerConfig(log_level=name)


def test_a_generation_keeps_the_configuration_it_was_started_with() -> None:
    first, second = with_level("info"), with_level("debug")
    configs = GenerationConfigs(first)
    assert configs.of(1) is first
    configs.request(second)
    assert (configs.of(1), configs.of(2)) == (first, second)
    configs.request(with_level("error"))
    assert configs.of(2) is second


def test_the_configuration_of_a_generation_that_failed_is_nobodys() -> None:
    first, second, third = with_level("info"), with_level("debug"), with_level("error")
    configs = GenerationConfigs(first)
    configs.of(1)
    configs.request(second)
    configs.of(2)
    assert configs.in_force is first
    configs.failed(2)
    assert (configs.latest, configs.in_force) == (first, first)
    configs.request(second)
    configs.of(3)
    configs.request(third)  # asked for while the third generation was prepared
    configs.failed(3)
    assert (configs.latest, configs.in_force) == (third, first)
    assert configs.of(4) is third
    configs.succeeded(4)
    assert configs.in_force is third


def test_logging_changes_when_a_generation_succeeds_and_not_before() -> None:
    first = with_level("info")
    configure_logging(first)
    configs = GenerationConfigs(first)
    configs.of(1)
    configs.request(with_level("debug"))
    configs.of(2)
    assert level() == logging.INFO
    configs.request(with_level("error"))
    configs.of(3)
    configs.succeeded(3)
    assert level() == logging.ERROR


def test_what_cannot_be_set_up_changes_nothing_even_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "logging.json"
    path.write_text('{"loggers": {"pounce": {"level": "WARNING"}}}')
    first = ServerConfig(log_config=str(path))
    configure_logging(first)
    configs = GenerationConfigs(first)
    path.write_text('{"loggers": {"pounce": {"level": "NONSENSE"}}}')
    with pytest.raises(ConfigError, match="NONSENSE"):
        configs.request(ServerConfig(log_config=str(path)))
    assert level() == logging.WARNING
    assert configs.latest is first
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        configs.request(ServerConfig(log_config=str(path)))
    assert level() == logging.WARNING
