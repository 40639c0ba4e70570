"""The configuration of each generation, and the logging of the one that serves.

A reload may be refused long after its configuration was read. So the master logs as the generation
that serves has it, and takes up what the next one wants when that one has succeeded.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from pounce.config import ServerConfig
from pounce.errors import ConfigError
from pounce.logs import LoggingSetup

logger = logging.getLogger("pounce.error")


class _Entry(NamedTuple):
    config: ServerConfig
    logging: LoggingSetup


class GenerationConfigs:
    """Remembers what each generation was started with, for the workers that are started again.

    Args:
        config: Of the first generation; its logging is in force.

    Raises:
        ConfigError: `log_config` cannot be read.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._latest = self._in_force = _Entry(config, LoggingSetup(config))
        self._by_generation: dict[int, _Entry] = {}

    @property
    def latest(self) -> ServerConfig:
        """The one that the next generation gets."""
        return self._latest.config

    @property
    def in_force(self) -> ServerConfig:
        """The one of the generation that serves."""
        return self._in_force.config

    def request(self, config: ServerConfig) -> None:
        """Makes `config` the latest, if its logging can be set up.

        Raises:
            ConfigError: It cannot; nothing is changed.
        """
        try:
            entry = _Entry(config, LoggingSetup(config))
            entry.logging.apply()
        finally:
            self._apply_what_is_in_force()
        self._latest = entry

    def of(self, generation: int) -> ServerConfig:
        return self._by_generation.setdefault(generation, self._latest).config

    def succeeded(self, generation: int) -> None:
        """A generation serves: it decides how the master logs, and those before are history."""
        self._in_force = self._by_generation[generation]
        self._by_generation = {
            number: entry for number, entry in self._by_generation.items() if number >= generation
        }
        self._apply_what_is_in_force()

    def failed(self, generation: int) -> None:
        """A generation did not come to serve: its configuration is nobody's, unless another was
        read meanwhile, for the next."""
        entry = self._by_generation.pop(generation, None)
        if self._latest is entry:
            self._latest = self._in_force

    def _apply_what_is_in_force(self) -> None:
        try:
            self._in_force.logging.apply()
        except ConfigError as exc:  # a folder for its files is gone, say
            logger.error("%s", exc)
