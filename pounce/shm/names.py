"""The names of segments, and the ones that exist.

Linux lists them in /dev/shm. macOS lists them nowhere, so there an empty file in the user's
temporary folder stands for each.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "pounce-"
LONGEST: Final = 30
"""macOS: PSHMNAMLEN is 31, with the slash that names begin with."""
FOLDER: Final = Path("/dev/shm")

_IS_LISTED: Final = sys.platform == "linux"
_PATTERN: Final = re.compile(r"pounce-[0-9a-z]+(-[0-9]+)*")


def new_name() -> str:
    """A name that nobody has."""
    return PREFIX + secrets.token_hex(6)


def further_name(name: str, number: int) -> str:
    """The name of a further segment that belongs to `name`."""
    return f"{name}-{number}"


def base_of(name: str) -> str | None:
    """The arena's name that a further one begins with; None: it is not a further one."""
    base = "-".join(name.split("-")[:2])
    return base if base != name else None


def existing_names() -> list[str]:
    """The segments of Pounce on this machine, of all users where that is known."""
    folder = FOLDER if _IS_LISTED else _registry()
    try:
        found = os.listdir(folder)
    except OSError:
        return []
    return sorted(name for name in found if _PATTERN.fullmatch(name))


def remember(name: str) -> None:
    """Note a name before its segment is created."""
    if not _IS_LISTED:
        with contextlib.suppress(OSError):
            _registry().mkdir(mode=0o700, exist_ok=True)
            (_registry() / name).touch(mode=0o600)


def forget(name: str) -> None:
    """Note that the segment is removed."""
    if not _IS_LISTED:
        with contextlib.suppress(OSError):
            (_registry() / name).unlink()


def _registry() -> Path:
    return Path(tempfile.gettempdir()) / f"pounce-shm-{os.geteuid()}"
