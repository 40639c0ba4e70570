"""`pounce ctl`: what an operator asks of a running server.

Like the rest of the command, the parsing only tells what to do: each subcommand returns what runs
it, which returns the exit status.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeAlias

import click

from pounce.supervisor.control_client import ask, find_server
from pounce.supervisor.control_messages import ControlError
from pounce.supervisor.control_paths import is_answered

_SOCKET_ENV: Final = "POUNCE_CONTROL_SOCKET"
"""The variable of the server's own option; those of its values that are no path say nothing."""
_NO_PATHS: Final = ("", "auto", "off")
_POLL: Final = 0.05

Action: TypeAlias = Callable[[], int]
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class _Target:
    """The server that is meant, as far as the command line says."""

    pid: int | None = None
    socket: Path | None = None

    def path(self) -> Path:
        """Its control socket. Raises `ControlError`."""
        if self.socket is not None:
            return self.socket
        named = os.environ.get(_SOCKET_ENV, "")
        if self.pid is None and named not in _NO_PATHS:
            return Path(named)
        return find_server(self.pid).path


def _choose(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keeps what was given, which may stand before the subcommand or after it."""
    if value is None:
        return
    target = replace(context.obj or _Target(), **{str(parameter.name): value})
    if target.pid is not None and target.socket is not None:
        raise click.UsageError("--pid and --socket exclude each other", context)
    context.obj = target


_PID: Final = click.option(
    "--pid",
    type=click.IntRange(min=1),
    expose_value=False,
    callback=_choose,
    help="The server whose main process has this number.",
)
_SOCKET: Final = click.option(
    "--socket",
    type=click.Path(path_type=Path),
    metavar="PATH",
    expose_value=False,
    callback=_choose,
    help=f"The server with this control socket.  [env: {_SOCKET_ENV}]",
)


def _with_target(function: Callable[P, Any]) -> Callable[P, Any]:
    return _PID(_SOCKET(function))


@click.group(
    "ctl",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@_with_target
def ctl() -> None:
    """Look at and steer a running server.

    Where one server runs as this user it is found by itself; else --pid or --socket names it.
    """


@ctl.command()
@_with_target
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
@click.pass_context
def status(context: click.Context, as_json: bool) -> Action:
    """Show the workers, and how the last reload went."""
    target = _target(context)

    def run() -> int:
        found = ask(target.path(), "status")
        if as_json:
            click.echo(json.dumps(found, indent=2))
        else:
            for line in describe_status(found):
                click.echo(line)
        return 0

    return run


@ctl.command()
@_with_target
@click.option("--wait/--no-wait", default=True, help="Wait until it is done.  [default: on]")
@click.pass_context
def reload(context: click.Context, wait: bool) -> Action:
    """Read code and configuration again, and replace all workers; or none, if that fails."""
    target = _target(context)

    def run() -> int:
        result = ask(target.path(), "reload", {"wait": wait}, timeout=None if wait else 10)
        outcome, reason = result.get("result"), str(result.get("reason") or "")
        if outcome == "succeeded":
            note = f": {_summary(reason)}" if reason else ""
            click.echo(f"reloaded, generation {result.get('generation')}{note}")
            return 0
        if outcome == "started" and not wait:
            click.echo("reload started")
            return 0
        lines = map(_plain, (reason or "no reason was given").splitlines())
        raise ControlError(f"reload {_plain(outcome)}: " + "\n".join(lines))

    return run


@ctl.command()
@_with_target
@click.argument("workers", metavar="N", type=click.IntRange(min=1))
@click.pass_context
def scale(context: click.Context, workers: int) -> Action:
    """Have N workers from now on."""
    target = _target(context)

    def run() -> int:
        ask(target.path(), "scale", {"workers": workers})
        click.echo(f"scaling to {workers} {'worker' if workers == 1 else 'workers'}")
        return 0

    return run


@ctl.command()
@_with_target
@click.argument("worker_id", metavar="ID", type=click.IntRange(min=0))
@click.pass_context
def restart_worker(context: click.Context, worker_id: int) -> Action:
    """Replace the worker with this ID, as shown by `status`; it serves until its successor does."""
    target = _target(context)

    def run() -> int:
        ask(target.path(), "restart-worker", {"worker_id": worker_id})
        click.echo(f"replacing worker {worker_id}")
        return 0

    return run


@ctl.command()
@_with_target
@click.option("--now", is_flag=True, help="Do not let requests in flight finish.")
@click.option("--wait/--no-wait", default=True, help="Wait until it has ended.  [default: on]")
@click.pass_context
def stop(context: click.Context, now: bool, wait: bool) -> Action:
    """End the server."""
    target = _target(context)

    def run() -> int:
        path = target.path()
        pid = ask(path, "status").get("pid")
        has_ended = _end_of(pid if isinstance(pid, int) else 0, path)
        ask(path, "stop", {"now": now})
        if not wait:
            click.echo("stopping")
            return 0
        while not has_ended():
            time.sleep(_POLL)
        click.echo("stopped")
        return 0

    return run


def _target(context: click.Context) -> _Target:
    target: _Target | None = context.obj
    return target or _Target()


def _end_of(pid: int, path: Path) -> Callable[[], bool]:
    """Tells whether the server has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
    except psutil.Error:  # it is in another container
        return lambda: not is_answered(path)

    def has_ended() -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return True

    return has_ended


# What status looks like

_COLUMNS: Final = (
    ("ID", "worker_id"),
    ("PID", "pid"),
    ("GEN", "generation"),
    ("STATE", "state"),
    ("AGE", "age"),
    ("CONN", "connections"),
    ("REQS", "requests"),
    ("REQ/S", "requests_per_second"),
    ("BUSY", "in_flight"),
    ("P50", "duration_p50"),
    ("P99", "duration_p99"),
    ("LOOP", "loop_delay_p99"),
    ("RSS", "rss"),
    ("BEAT", "heartbeat_age"),
)
_TIMES: Final = frozenset({"duration_p50", "duration_p99", "loop_delay_p99", "heartbeat_age"})
_TRACEBACK: Final = "Traceback (most recent call last):"
_LEFT_ALIGNED: Final = frozenset({"state"})


def describe_status(found: dict[str, Any], now: float | None = None) -> list[str]:
    """The status for people: what the server is, and a table of its workers.

    Args:
        found: See `control_messages.Status`.
        now: Seconds since the epoch.
    """
    head = (
        f"Pounce {found['version']}, pid {found['pid']}, up {_age(found['uptime'])}, "
        f"generation {found['generation']}"
    )
    if found["upgrading"]:
        head += ", upgrading"
    lines = [head, "listening on " + ", ".join(found["addresses"])]
    for what in ("reload", "upgrade"):
        if last := found.get(f"last_{what}"):
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
            since = max(0.0, (time.time() if now is None else now) - last["at"])
            reason = f": {_summary(last['reason'])}" if last["reason"] else ""
            lines.append(f"last {what} {last['result']} {_age(since)} ago ({at}){reason}")
    workers = found["workers"]
    lines.append(f"workers {len(workers)}, wanted {found['workers_target']}")
    if workers:
        lines += ["", *_table(workers)]
    for worker in workers:
        if worker.get("reason"):
            lines.append(f"worker {worker['worker_id']}: {_summary(worker['reason'])}")
    for trouble in found.get("troubles", ()):
        lines.append(
            f"slot {trouble['slot']}: {trouble['failures']} failures in a row, next attempt in "
            f"{_age(trouble['retry_in'])}: {_summary(trouble['reason'])}"
        )
    return [_plain(line) for line in lines]


def _table(workers: Sequence[dict[str, Any]]) -> list[str]:
    rows = [[title for title, _ in _COLUMNS]]
    rows += [[_cell(key, worker.get(key)) for _, key in _COLUMNS] for worker in workers]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    return [
        "  ".join(
            text.ljust(width) if key in _LEFT_ALIGNED else text.rjust(width)
            for text, width, (_, key) in zip(row, widths, _COLUMNS, strict=True)
        ).rstrip()
        for row in rows
    ]


def _cell(key: str, value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, (int, float)):
        return _plain(value)
    if key == "age":
        return _age(value)
    if key in _TIMES:
        return _short_time(value)
    if key == "rss":
        return _short_size(value)
    if key == "requests" and value >= 1_000_000:
        return f"{value / 1e6:.4g}M" if value < 1e9 else f"{value / 1e9:.4g}G"
    if key == "requests_per_second":
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return _plain(value)


def _short_time(seconds: float) -> str:
    """In milliseconds or seconds, two digits or three."""
    milliseconds = seconds * 1000
    if milliseconds < 1000:
        return f"{milliseconds:.1f}ms" if milliseconds < 10 else f"{milliseconds:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 60 else _age(seconds)


def _short_size(size: float) -> str:
    for unit in ("K", "M"):
        size /= 1024
        if size < 1000:
            return f"{size:.0f}{unit}"
    return f"{size / 1024:.1f}G"


def _age(seconds: float) -> str:
    """The two largest units."""
    whole = int(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}{whole % length // part:02}{smaller}"
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"


def _summary(reason: object) -> str:
    """A reason in one line: of a traceback, what led to it and what it ends with."""
    first, *rest = str(reason).splitlines() or [""]
    last = next((line for line in reversed(rest) if line.strip()), None)
    if last is None:
        return _plain(first)
    return _plain(f"{first.removesuffix(_TRACEBACK).rstrip()} {last.strip()}")


def _plain(value: object) -> str:
    """Without what could steer a terminal: reasons quote what applications said."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))
