"""Where settings come from: the command line, the environment and a file.

Each source is read into a `Layer`. A layer holds values that are already checked, and for each
what the user wrote to set it, so that faults and the output of `pounce check` can name it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pounce.config.options import ENV_PREFIX, Option, did_you_mean
from pounce.errors import ConfigError

CONFIG_ENV: Final = f"{ENV_PREFIX}CONFIG"
APP_ENV: Final = f"{ENV_PREFIX}APP"
TAKEOVER_ENV: Final = f"{ENV_PREFIX}TAKEOVER"
"""Of a process that takes over from another one; not for users."""
_PYPROJECT: Final = "pyproject.toml"
_TABLE: Final = "[tool.pounce]"


@dataclass(slots=True)
class Layer:
    """The settings of one source, their origin, and what is wrong with them."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(
        self, option: Option, value: object, origin: str, *, label: str = "", toml: bool = False
    ) -> None:
        """Take a value in, or note why not; `label` names it in that note."""
        try:
            self.values[option.name] = option.parse(value, label=label or origin, toml=toml)
        except ValueError as error:
            self.errors.append(str(error))
        else:
            self.origins[option.name] = origin


def collect_settings(
    options: Mapping[str, Option],
    cli: Mapping[str, object],
    env: Mapping[str, str],
    file: Path | None,
    *,
    by_flag: bool,
) -> Layer:
    """What all sources say together: `cli` before `POUNCE_*`, the file and fallback variables.

    Args:
        by_flag: Whether the origin of what is in `cli` is the flag, or else the option's name.
        file: The one to read. When None, the one that POUNCE_CONFIG names, else what `find_file`
            finds in the working directory, if anything.

    Raises:
        ConfigError: One line for each setting that is unknown or malformed, in any source.
    """
    if file is None:
        file = Path(env[CONFIG_ENV]) if env.get(CONFIG_ENV) else find_file(Path())
    layers = [read_cli(options, cli, by_flag=by_flag), read_environment(options, env)]
    if file is not None:
        layers.append(read_file(options, file))
    given = {name for layer in layers for name in layer.values}
    layers.append(read_fallbacks((options[name] for name in options if name not in given), env))
    if faults := [fault for layer in layers for fault in layer.errors]:
        raise ConfigError("\n".join(faults))
    together = Layer()
    for layer in reversed(layers):
        together.values |= layer.values
        together.origins |= layer.origins
        together.warnings += layer.warnings
    return together


def read_cli(options: Mapping[str, Option], given: Mapping[str, object], *, by_flag: bool) -> Layer:
    """The settings of the command line (or of a call), by option name."""
    layer = Layer()
    for name, value in given.items():
        if name in options:
            layer.add(options[name], value, options[name].flag if by_flag else name)
        else:
            layer.errors.append(f"unknown option {name!r}{did_you_mean(name, options)}")
    return layer


def read_environment(options: Mapping[str, Option], env: Mapping[str, str]) -> Layer:
    """The settings in `POUNCE_*`. An empty variable counts as not set.

    Names that belong to no option are warnings, because programs around the server may share
    the prefix.
    """
    layer = Layer()
    by_env = {option.env: option for option in options.values()}
    for name, value in env.items():
        if not name.startswith(ENV_PREFIX) or name in (CONFIG_ENV, APP_ENV, TAKEOVER_ENV):
            continue
        if name not in by_env:
            hint = did_you_mean(name, by_env, prefix=ENV_PREFIX)
            layer.warnings.append(f"{name} names no option{hint}")
        elif value:
            layer.add(by_env[name], value, name)
    return layer


def read_fallbacks(options: Iterable[Option], env: Mapping[str, str]) -> Layer:
    """The settings in variables of other servers, for the options given."""
    layer = Layer()
    for option in options:
        if option.fallback_env and (value := env.get(option.fallback_env)):
            layer.add(option, value, option.fallback_env)
    return layer


def find_file(directory: Path) -> Path | None:
    """The file that is read when none is named: `pounce.toml`, else a fitting `pyproject.toml`."""
    own = directory / "pounce.toml"
    if own.is_file():
        return own
    project = directory / _PYPROJECT
    return project if project.is_file() and _own_table(_parse_toml(project)) is not None else None


def read_file(options: Mapping[str, Option], path: Path) -> Layer:
    """The settings of a TOML file: its top level, or `[tool.pounce]` of a `pyproject.toml`.

    Raises:
        ConfigError: The file cannot be read, is not TOML or has no such table.
    """
    layer = Layer()
    document = _parse_toml(path)
    where = str(path)
    if path.name == _PYPROJECT:
        table = _own_table(document)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: has no table {_TABLE}")
        document = table
        where = f"{path} {_TABLE}"
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in options:
            layer.errors.append(f"{where}: unknown key {key!r}{did_you_mean(name, options)}")
        elif name in layer.origins:
            layer.errors.append(f"{where}: {key!r} is there twice, with a dash and an underscore")
        else:
            layer.add(options[name], value, where, label=f"{where}: {key}", toml=True)
    return layer


def _own_table(document: dict[str, object]) -> object:
    tool = document.get("tool")
    return tool.get("pounce") if isinstance(tool, dict) else None


def _parse_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None
