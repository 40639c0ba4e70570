"""How this process was started, so that the same can be started once more.

It is noted when this module is imported, before the application can change it: an application may
go to another directory, and one that reads a `.env` file into the environment is to read it again.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pounce.config.sources import TAKEOVER_ENV

_OF_ONE_PROCESS: Final = (
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    TAKEOVER_ENV,
)
"""Variables that are meant for one process and not for the next."""

_STANDARD_INPUT: Final = "<stdin>"


@dataclass(frozen=True, slots=True)
class Origin:
    """A command, where it was given, and its environment."""

    command: tuple[str, ...]
    directory: str | None
    """None where it cannot be told."""
    environment: Mapping[str, str]
    """Without what was meant for one process alone."""
    takeover: str | None
    """What the process that this one takes over from says, if there is one."""
    is_repeatable: bool
    """False in an interactive session, or where the program came from standard input."""


def _note() -> Origin:
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ONE_PROCESS}
    return Origin(
        command=(sys.executable, *sys.orig_argv[1:]),
        directory=_directory(),
        environment=environment,
        # Taken out, as children would take it for theirs.
        takeover=os.environ.pop(TAKEOVER_ENV, None),
        is_repeatable=_is_repeatable(),
    )


def _directory() -> str | None:
    """The name under which the shell knows the working directory, where there is one: a link such
    as `current` may lead elsewhere when the next process is started."""
    try:
        real = os.getcwd()
    except OSError:
        return None
    named = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, real):
            return named
    return real


def _is_repeatable() -> bool:
    if not sys.executable or sys.flags.interactive or hasattr(sys, "ps1"):
        return False
    if set(sys.orig_argv[1:]) & {"-c", "-m"}:
        return True
    return getattr(sys.modules.get("__main__"), "__file__", _STANDARD_INPUT) != _STANDARD_INPUT


ORIGIN: Final = _note()
