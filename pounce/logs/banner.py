"""What the server says when it starts: tidy lines for people, a log line for everyone else."""

from __future__ import annotations

import logging
import os
import platform
import sys
import sysconfig
from typing import TYPE_CHECKING

from pounce.addresses import Address, InheritedAddress, TCPAddress
from pounce.logs import stderr_is_terminal, wants_colors

if TYPE_CHECKING:
    from pounce.config import ServerConfig

_logger = logging.getLogger("pounce.error")

_BOLD, _DIM, _LINK, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[4;36m", "\x1b[0m"


def format_address(address: Address, *, tls: bool = False) -> str:
    """An address for people: `http://127.0.0.1:8000`, `https://[::1]:8443`, `unix:/run/app.sock`,
    or `fd://3 (web)` with the name that systemd gave it."""
    match address:
        case TCPAddress():
            return f"{'https' if tls else 'http'}://{address}"
        case InheritedAddress(name=str(name)) if name:
            return f"{address} ({name})"
    return str(address)


def print_banner(
    config: ServerConfig,
    *,
    addresses: list[str],
    workers: int,
    mode: str,
    version: str,
    app: str,
) -> None:
    """Announce the server once, on standard error.

    A terminal gets a few lines for people. Otherwise it is an INFO record of the logger
    `pounce.error`: one line of text, or with `log_format` `json` one JSON object that has the
    parts as fields. A `log_level` above info silences it in either form.

    Args:
        addresses: As `format_address` makes them; empty while none is known.
        workers: how many workers there will be.
        mode: what a worker is, `process` or `thread`.
        version: the server's.
        app: the import string, or a description of the application object.
    """
    if not _logger.isEnabledFor(logging.INFO):
        return
    python = _describe_python()
    pool = f"{workers} {'worker' if workers == 1 else 'workers'} ({mode})"
    if config.log_format != "json" and config.log_config is None and stderr_is_terminal():
        rows = [
            *(("Listening", address) for address in addresses),
            ("App", app),
            ("Workers", pool),
            ("Python", python),
        ]
        sys.stderr.write(_for_people(rows, version, colors=wants_colors(config.use_colors)))
        sys.stderr.flush()
        return
    where = f" on {', '.join(addresses)}" if addresses else ""
    _logger.info(
        "Pounce %s running %s%s, %s, %s",
        version,
        app,
        where,
        pool,
        python,
        extra={
            "event": "server_started",
            "version": version,
            "addresses": addresses,
            "workers": workers,
            "mode": mode,
            "app": app,
            "python": python,
            "pid": os.getpid(),
        },
    )


def _for_people(rows: list[tuple[str, str]], version: str, *, colors: bool) -> str:
    bold, dim, link, plain = (_BOLD, _DIM, _LINK, _PLAIN) if colors else ("", "", "", "")
    lines = ["", f"  {bold}Pounce {version}{plain}", ""]
    for name, value in rows:
        shown = f"{link}{value}{plain}" if "://" in value else value
        lines.append(f"  {dim}{name:<10}{plain} {shown}")
    lines += ["", f"  {dim}Ctrl+C to stop{plain}", "", ""]
    return "\n".join(lines)


def _describe_python() -> str:
    build = " free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{platform.python_implementation()} {platform.python_version()}{build}"
