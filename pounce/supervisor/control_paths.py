"""Where control sockets are, so that `pounce ctl` finds the server without being told.

The place is a directory that nobody but the user can look into or write to. One socket a master,
named after its pid.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pounce.supervisor.control_messages import ControlError

TEMPORARY: Final = Path("/tmp")
"""Not $TMPDIR: another shell may have another one."""
USERS: Final = Path("/run/user")

MAX_PATH: Final = 103
"""Bytes of the path of a Unix socket: 107 on Linux, 103 on macOS."""

_NAME: Final = re.compile(r"([1-9]\d{0,9})\.ctl", re.ASCII)


def socket_name(pid: int) -> str:
    return f"{pid}.ctl"


def directories(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> list[Path]:
    """Where the sockets of a user may be, best first.

    A server that systemd starts has another `XDG_RUNTIME_DIR` than a shell, or none; so the
    place that a login session has is looked at, too.
    """
    uid = os.geteuid() if uid is None else uid
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    candidates = [USERS / str(uid) / "pounce", TEMPORARY / f"pounce-{uid}"]
    if os.path.isabs(runtime):
        candidates.insert(0, Path(runtime, "pounce"))
    return list(dict.fromkeys(candidates))


def make_private_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """The directory for a new socket: `$XDG_RUNTIME_DIR/pounce`, else `/tmp/pounce-<uid>`.

    Raises:
        ControlError: Neither can be used, with the reason for the last one.
    """
    candidates = [TEMPORARY / f"pounce-{os.geteuid()}"]
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    # The variable often outlives its directory, or is that of another user: su, sudo, containers.
    if os.path.isabs(runtime) and len(os.fsencode(runtime)) < MAX_PATH - 30:
        candidates.insert(0, Path(runtime, "pounce"))
    reason = ControlError("")
    for directory in candidates:
        try:
            _make_private(directory)
        except ControlError as error:
            reason = error
        else:
            return directory
    raise reason


def sockets_in(directory: Path, uid: int | None = None) -> list[tuple[int, Path]]:
    """The pid and the path of each control socket; none where the directory is not private to
    `uid` (this user), because anybody may have put them there."""
    try:
        with _opened(directory) as fd:
            status = os.fstat(fd)
            if status.st_uid != (os.geteuid() if uid is None else uid) or status.st_mode & 0o022:
                return []
            names = os.listdir(fd)
    except OSError:
        return []
    matches = filter(None, map(_NAME.fullmatch, names))
    return sorted((int(match[1]), directory / match[0]) for match in matches)


def is_answered(path: Path) -> bool:
    """Whether somebody listens at `path`. Raises OSError where that cannot be found out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # it listens; its queue is full
    return True


def remove_stale_sockets(directory: Path) -> None:
    """Remove what masters that were killed have left behind."""
    for _, path in sockets_in(directory):
        # A socket gets its name only when somebody listens on it.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.lstat(path).st_mode) and not is_answered(path):
                os.unlink(path)


def _make_private(directory: Path) -> None:
    try:
        _check_parent(directory.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        with _opened(directory) as fd:
            owner = os.fstat(fd).st_uid
            if owner != os.geteuid():
                raise ControlError(f"{directory} belongs to another user ({owner})")
            # An older directory may be open to others, a new one closed to its owner by the umask.
            os.fchmod(fd, 0o700)
        if not os.access(directory, os.W_OK):
            raise ControlError(f"{directory} is not writable")
    except OSError as error:
        raise ControlError(f"{directory} cannot be used: {error.strerror or error}") from error


def _check_parent(parent: Path) -> None:
    """Who may rename the directories in `parent` may put another one in the place of ours."""
    status = os.stat(parent)
    if status.st_uid not in (0, os.geteuid()):
        raise ControlError(f"{parent} belongs to another user ({status.st_uid})")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise ControlError(f"{parent} is writable by others and has no sticky bit")


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """A descriptor of a directory that is no symbolic link."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
