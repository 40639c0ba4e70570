"""The reference page of the configuration, made from the declaration of the options."""

from __future__ import annotations

from typing import Final

from pounce.config import OPTIONS
from pounce.config.kinds import Repeated
from pounce.config.options import Option, grouped
from pounce.config.sources import APP_ENV, CONFIG_ENV

_INTRODUCTION: Final = f"""\
# Configuration

Every option can be set in four places. The first one that sets it counts:

1. the command line: `--log-level debug`, or in Python `ServerConfig(log_level="debug")`;
2. the environment: `POUNCE_LOG_LEVEL=debug`; an empty variable counts as not set;
3. a TOML file: `log_level = "debug"`;
4. for a few options, a variable that other servers use as well; it is named with the option.

The file is the one that `--config` or `{CONFIG_ENV}` names. Without either it is `pounce.toml` in
the working directory, else `pyproject.toml` there if it has a table `[tool.pounce]`. In a
`pyproject.toml` the options stand in that table, elsewhere at the top level. Keys may be written
with dashes. Paths are relative to the working directory.

```toml
host = "0.0.0.0"
workers = "auto"
timeout_keep_alive = "30s"
limit_request_body = "16MiB"
headers = ["X-Frame-Options: DENY"]
```

An unknown flag or key is an error; an unknown `POUNCE_*` variable is a warning. The import string
of the application can be given as `{APP_ENV}`. `pounce check module:app` prints the resulting
configuration and what set each value.

**Durations** take the units `d`, `h`, `m`, `s` and `ms`, also together (`1h30m`); a number without
a unit is in seconds. **Sizes** take `B`, the decimal `kB`, `MB`, `GB`, `TB` and the binary `KiB`,
`MiB`, `GiB`, `TiB`; a number without a unit is in bytes. An option that takes a **list** is a flag
to be repeated, a list in TOML and Python, and one text in the environment. **Switches** are
`--name` and `--no-name`, and `true` or `false` (also `1`/`0`, `yes`/`no`, `on`/`off`) elsewhere.
"""

_HEADER: Final = "| Flag, variable, key | Type | Default | Meaning |\n| --- | --- | --- | --- |"


def reference_markdown() -> str:
    """The whole page in Markdown, one table for each group of options."""
    sections = [_INTRODUCTION]
    for group, options in grouped(OPTIONS).items():
        rows = "\n".join(_row(option) for option in options)
        sections.append(f"## {group}\n\n{_HEADER}\n{rows}\n")
    return "\n".join(sections)


def _row(option: Option) -> str:
    names = (*option.flags, option.env, option.name)
    cells = (
        "<br>".join(f"`{name}`" for name in names),
        _escape(option.kind.label),
        _default(option),
        _meaning(option),
    )
    return f"| {' | '.join(cells)} |"


def _default(option: Option) -> str:
    text = option.kind.format(option.default)
    return f"`{text}`" if text else "not set"


def _meaning(option: Option) -> str:
    notes = [_escape(option.help)]
    if isinstance(option.kind, Repeated):
        notes.append(f"In the variable, {option.kind.separator_name} separate the values.")
    if option.fallback_env:
        notes.append(f"Last of all, `{option.fallback_env}` is read.")
    if option.secret:
        notes.append("Never shown.")
    return " ".join(notes)


def _escape(text: str) -> str:
    """Text without what Markdown would take for emphasis, a tag or the end of a cell."""
    return text.translate({ord(mark): f"\\{mark}" for mark in "*_<|"})
