"""What an option is: one declaration per field of the configuration, read by all its users.

The names of an option follow from the name of its field: `--log-level`, `POUNCE_LOG_LEVEL` and
the key `log_level` of the file.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from pounce.config.kinds import Flag, Kind, Optional, Repeated

ENV_PREFIX: Final = "POUNCE_"
_METADATA_KEY: Final = "pounce"

T = TypeVar("T")


class Group(StrEnum):
    """The headings of the reference page and of the help, in their order."""

    LISTENING = "Listening"
    APPLICATION = "Application"
    WORKERS = "Workers"
    HEALTH = "Health"
    DEVELOPMENT = "Development"
    LOGGING = "Logging"
    LIMITS = "Limits"
    TIMEOUTS = "Timeouts"
    TLS = "TLS"
    HTTP = "HTTP"
    HTTP2 = "HTTP/2"
    WEBSOCKET = "WebSocket"
    METRICS = "Metrics"
    PROXIES = "Proxies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of the configuration."""

    name: str
    """Name of the field and key in the file."""
    default: object
    kind: Kind
    group: Group
    help: str
    flag: str
    """Long flag of the command, of the positive form where there are two."""
    secret: bool
    """Whether the value must not be shown."""
    fallback_env: str | None
    """Variable that other servers know, asked where nothing else gives a value."""

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def is_repeated(self) -> bool:
        return isinstance(self.kind, Repeated)

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value but has a form `--no-...`."""
        kind = self.kind.kind if isinstance(self.kind, Optional) else self.kind
        return isinstance(kind, Flag)

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags, the negative form last."""
        return (self.flag, f"--no-{self.flag[2:]}") if self.is_switch else (self.flag,)

    def parse(self, value: object, *, label: str, toml: bool = False) -> object:
        """The value proper of what was given.

        Args:
            label: What the user wrote to set the option, for the message.
            toml: Whether the value comes from a TOML file.

        Raises:
            ValueError: The value is not accepted; one line that begins with `label`.
        """
        try:
            return self.kind.parse_toml(value) if toml else self.kind.parse(value)
        except ValueError as error:
            got = "" if self.secret else f", got {_shorten(value)}"
            raise ValueError(f"{label}: {error}{got}") from None

    def format(self, value: object) -> str:
        """Text of a value, for people; a secret stays hidden."""
        return "***" if self.secret and value is not None else self.kind.format(value)


def option(
    default: T,
    kind: Kind,
    group: Group,
    help: str,
    *,
    flag: str | None = None,
    secret: bool = False,
    fallback_env: str | None = None,
) -> T:
    """Declare a field of a dataclass as an option; `flag` where it differs from the name."""
    spec = {
        "kind": kind,
        "group": group,
        "help": help,
        "flag": flag,
        "secret": secret,
        "fallback_env": fallback_env,
    }
    return dataclasses.field(default=default, repr=not secret, metadata={_METADATA_KEY: spec})


def collect_options(cls: type[Any]) -> dict[str, Option]:
    """The options that a dataclass declares, by name, in the order of their declaration."""
    options = {}
    for field in dataclasses.fields(cls):
        spec = dict(field.metadata[_METADATA_KEY])
        spec["flag"] = spec["flag"] or f"--{field.name.replace('_', '-')}"
        options[field.name] = Option(name=field.name, default=field.default, **spec)
    return options


def grouped(options: Mapping[str, Option]) -> dict[Group, list[Option]]:
    """Options by their group, in the order of the groups; empty groups left out."""
    groups: dict[Group, list[Option]] = {group: [] for group in Group}
    for entry in options.values():
        groups[entry.group].append(entry)
    return {group: entries for group, entries in groups.items() if entries}


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """`; did you mean x?` for the known name nearest to `name`, or nothing.

    All names begin with `prefix`, which says nothing about how near they are.
    """
    endings = [candidate.removeprefix(prefix) for candidate in known]
    nearest = difflib.get_close_matches(name.removeprefix(prefix), endings, n=1, cutoff=0.7)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""


def _shorten(value: object) -> str:
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = 80
    return brief.repr(value)
