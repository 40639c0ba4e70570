"""The other side of the control socket: finds a running server and asks it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pounce.supervisor.control_messages import (
    MAX_ANSWER,
    ControlError,
    decode_answer,
    encode_request,
)
from pounce.supervisor.control_paths import directories, is_answered, sockets_in

ANSWER_TIMEOUT: Final = 10.0
_LISTING_TIMEOUT: Final = 2.0
_CONNECT_PAUSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A master that listens on its control socket."""

    pid: int
    path: Path


def ask(
    path: str | os.PathLike[str],
    command: str,
    arguments: Mapping[str, object] | None = None,
    *,
    timeout: float | None = ANSWER_TIMEOUT,
) -> dict[str, Any]:
    """The result of one command.

    Args:
        path: The control socket.
        command: One of `control_messages.COMMANDS`.
        arguments: What it needs.
        timeout: Seconds until the answer must be there; None: however long it takes.

    Raises:
        ControlError: The server cannot be reached, does not answer in time or refuses; one line.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with _connected(Path(path), deadline) as sock:
        try:
            line = _exchange(sock, encode_request(command, arguments or {}), deadline)
        except TimeoutError as error:
            raise ControlError(f"the server did not answer within {timeout:g} s") from error
        except OSError as error:
            raise ControlError(
                f"the server went away before it answered: {error.strerror or error}"
            ) from error
    return decode_answer(line)


def find_servers() -> list[RunningServer]:
    """The servers that run as this user, in the places where they are by themselves."""
    servers: dict[int, RunningServer] = {}
    for directory in directories():
        for pid, path in sockets_in(directory):
            with contextlib.suppress(OSError):
                if is_answered(path):
                    servers.setdefault(pid, RunningServer(pid, path))
    return [servers[pid] for pid in sorted(servers)]


def find_server(pid: int | None = None) -> RunningServer:
    """The one that is meant.

    Raises:
        ControlError: There is none, or, without a `pid`, there are several, which are named.
    """
    if pid is not None:
        return _server_with(pid)
    servers = find_servers()
    if not servers:
        raise ControlError("no server with a control socket runs as this user")
    if len(servers) > 1:
        lines = ["several servers run as this user; choose one with --pid or --socket:"]
        raise ControlError("\n".join(lines + [_describe(server) for server in servers]))
    return servers[0]


def _server_with(pid: int) -> RunningServer:
    places = [(directory, os.geteuid()) for directory in directories()]
    if os.geteuid() == 0 and (owner := _owner_of(pid)) is not None:
        # Root may ask everybody's servers, whose places root's environment does not know.
        places += [(directory, owner) for directory in directories({}, owner)]
    for directory, uid in places:
        for found, path in sockets_in(directory, uid):
            if found == pid:
                return RunningServer(pid, path)
    raise ControlError(f"no control socket of a server with pid {pid} is found")


def _owner_of(pid: int) -> int | None:
    import psutil

    try:
        return int(psutil.Process(pid).uids().effective)
    except psutil.Error:
        return None


def _describe(server: RunningServer) -> str:
    try:
        addresses = ask(server.path, "status", timeout=_LISTING_TIMEOUT)["addresses"]
        return f"  --pid {server.pid}  ({', '.join(map(str, addresses))})"
    except (ControlError, KeyError, TypeError):
        return f"  --pid {server.pid}  (does not say where it listens)"


@contextlib.contextmanager
def _connected(path: Path, deadline: float | None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            while not _connect(sock, path):
                if deadline is not None and time.monotonic() > deadline:
                    raise ControlError(f"the server at {path} is too busy")
                time.sleep(_CONNECT_PAUSE)
        except FileNotFoundError as error:
            raise ControlError(f"there is no control socket at {path}") from error
        except ConnectionRefusedError as error:
            raise ControlError(f"no server answers at {path}") from error
        except OSError as error:
            raise ControlError(f"cannot connect to {path}: {error.strerror or error}") from error
        yield sock


def _connect(sock: socket.socket, path: Path) -> bool:
    """Whether it is done; False when too many others wait to be accepted."""
    sock.setblocking(False)
    try:
        sock.connect(os.fspath(path))
    except BlockingIOError:
        return False
    return True


def _exchange(sock: socket.socket, request: bytes, deadline: float | None) -> bytes:
    _set_timeout(sock, deadline)
    # A server that refuses the client has answered and gone without reading anything.
    with contextlib.suppress(BrokenPipeError):
        sock.sendall(request)
    answer = bytearray()
    while not answer.endswith(b"\n"):
        _set_timeout(sock, deadline)
        part = sock.recv(65536)
        if not part:
            raise ControlError("the server went away before it answered")
        answer += part
        if len(answer) > MAX_ANSWER:
            raise ControlError(f"the server's answer is longer than {MAX_ANSWER} bytes")
    return bytes(answer)


def _set_timeout(sock: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        sock.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)
