"""The language of the control socket: a line of JSON each way.

```
{"version": 1, "command": "scale", "arguments": {"workers": 4}}
{"ok": true, "result": {...}}    or    {"ok": false, "error": "one line"}
```

A connection may carry several commands; each is answered before the next one is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NotRequired, TypedDict

from pounce.errors import PounceError

VERSION: Final = 1
MAX_REQUEST: Final = 16 * 1024
"""Bytes of a command with its line end."""
MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes that a client reads; a worker takes about 500 of them in `status`."""


class ControlError(PounceError):
    """A server cannot be asked, or does not do what it is asked to."""


@dataclass(frozen=True, slots=True)
class Argument:
    """What a command needs to know, and what it takes where nothing is said."""

    kind: type[bool] | type[int]
    default: bool | int | None = None
    """None: it must be given."""
    minimum: int = 0


COMMANDS: Final[Mapping[str, Mapping[str, Argument]]] = {
    "status": {},
    "reload": {"wait": Argument(bool, True)},
    "scale": {"workers": Argument(int, minimum=1)},
    "restart-worker": {"worker_id": Argument(int)},
    "stop": {"now": Argument(bool, False)},
}


class LastReload(TypedDict):
    """What became of a reload, or of an upgrade."""

    result: str
    """`succeeded` or `failed`."""
    reason: str | None
    at: float
    """Seconds since the epoch."""


class WorkerRow(TypedDict):
    slot: int
    worker_id: int
    pid: int | None
    generation: int
    state: str
    age: float
    """Seconds."""
    connections: int | None
    requests: int | None
    in_flight: int | None
    reason: str | None
    requests_per_second: NotRequired[float | None]
    """Over the last five seconds. From here on: not for a worker that has just gone."""
    duration_p50: NotRequired[float | None]
    """Seconds, as are all times; of the requests of the last minute."""
    duration_p99: NotRequired[float | None]
    loop_delay_p99: NotRequired[float | None]
    """How late the event loop was within the last minute."""
    heartbeat_age: NotRequired[float | None]
    """Since the event loop last turned."""
    stuck_threads: NotRequired[int]
    """Threads that have been in one call of synchronous work for `thread_stall_timeout`."""
    rss: NotRequired[int | None]
    """Bytes of resident memory; None where workers are threads."""
    open_fds: NotRequired[int | None]


class Trouble(TypedDict):
    slot: int
    failures: int
    retry_in: float
    """Seconds."""
    reason: str


class Status(TypedDict):
    """The result of `status`."""

    version: str
    pid: int
    uptime: float
    """Seconds."""
    addresses: list[str]
    workers_target: int
    generation: int
    last_reload: LastReload | None
    upgrading: bool
    last_upgrade: NotRequired[LastReload | None]
    """Of this process, so that it has failed: a success is the end of a process."""
    workers: list[WorkerRow]
    troubles: NotRequired[list[Trouble]]
    """Slots whose last worker failed."""


class ReloadResult(TypedDict):
    """The result of `reload`."""

    result: str
    """`succeeded`, `failed`, or `started` where it was not waited for."""
    reason: str | None
    generation: int


@dataclass(frozen=True, slots=True)
class Request:
    command: str
    arguments: dict[str, Any]
    """Complete and of the right types."""


def encode_request(command: str, arguments: Mapping[str, object]) -> bytes:
    message = {"version": VERSION, "command": command, "arguments": dict(arguments)}
    return json.dumps(message).encode() + b"\n"


def decode_request(line: bytes) -> Request:
    """The command in a line.

    Raises:
        ControlError: There is none in it, with what to tell the client.
    """
    message = _decode(line)
    if message.get("version") != VERSION:
        raise ControlError(f"this server speaks version {VERSION} of the control protocol")
    command, arguments = message.get("command"), message.get("arguments", {})
    if not isinstance(command, str) or command not in COMMANDS:
        raise ControlError(f"unknown command; there are {', '.join(COMMANDS)}")
    if not isinstance(arguments, dict):
        raise ControlError("arguments must be an object")
    known = COMMANDS[command]
    if unknown := arguments.keys() - known.keys():
        raise ControlError(f"{command} has no argument {min(unknown)[:80]!r}")
    checked = {
        name: _checked(command, name, argument, arguments) for name, argument in known.items()
    }
    return Request(command, checked)


def encode_result(result: Mapping[str, object]) -> bytes:
    """Raises ValueError or TypeError for what JSON cannot say."""
    return json.dumps({"ok": True, "result": result}, allow_nan=False).encode() + b"\n"


def encode_error(error: str) -> bytes:
    return json.dumps({"ok": False, "error": error}).encode() + b"\n"


def decode_answer(line: bytes) -> dict[str, Any]:
    """The result in a line.

    Raises:
        ControlError: The server refused the command, or this is no answer.
    """
    message = _decode(line)
    result, error = message.get("result"), message.get("error")
    if message.get("ok") is True and isinstance(result, dict):
        return result
    raise ControlError(error if isinstance(error, str) else "the answer cannot be understood")


def _decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ControlError("not a line of JSON") from error
    if not isinstance(message, dict):
        raise ControlError("not a JSON object")
    return message


def _checked(
    command: str, name: str, argument: Argument, arguments: Mapping[str, object]
) -> bool | int:
    value = arguments.get(name, argument.default)
    if value is None and argument.default is None:
        raise ControlError(f"{command} needs the argument {name!r}")
    if argument.kind is bool:
        if isinstance(value, bool):
            return value
        raise ControlError(f"{name} must be true or false")
    if isinstance(value, int) and not isinstance(value, bool) and value >= argument.minimum:
        return value
    raise ControlError(f"{name} must be a whole number of at least {argument.minimum}")
