"""`pounce check`: everything that a start does, short of serving, and what came of it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from pounce.config import OPTIONS, ResolvedConfig, ServerConfig
from pounce.config.options import grouped
from pounce.errors import ConfigError, PounceError
from pounce.loading import load_app
from pounce.logs import configure_logging
from pounce.net.sockets import bind, bound_addr, close_sockets
from pounce.net.tls import create_context
from pounce.runtime import event_loop_factory, worker_mode
from pounce.supervisor.privileges import check_may_become, resolve_identity

_NAME_WIDTH = max(len(name) for name in OPTIONS) + 2
_VALUE_WIDTH = 24


def describe_configuration(resolved: ResolvedConfig) -> str:
    """Every option with its value, by group; at each that is set, what set it. No secrets."""
    lines = []
    for group, options in grouped(OPTIONS).items():
        lines.append(f"{group}")
        for option in options:
            value = option.format(getattr(resolved.config, option.name)).replace("\n", "; ")
            value = value or "not set"
            source = resolved.sources.get(option.name, "")
            padded = f"{value:<{_VALUE_WIDTH}}  ({source})" if source else value
            lines.append(f"  {option.name:<{_NAME_WIDTH}}{padded}".rstrip())
    return "\n".join(lines)


class Check:
    """Tries the parts of a start one by one, so that one fault does not hide the next.

    Nothing stays: sockets are closed again, the files of Unix sockets are gone.
    """

    def __init__(self, config: ServerConfig, app_path: str) -> None:
        self._config = config
        self._app_path = app_path
        self.findings: list[str] = []
        """What is in order, and what is worth to know."""
        self.faults: list[str] = []
        self.exit_code = 0
        """That of the first fault, as a start would have it."""

    def run(self) -> None:
        """Fill `findings`, `faults` and `exit_code`."""
        for step in (
            self._check_logging,
            self._check_loop,
            self._check_application,
            self._check_identity,
            self._check_tls,
            self._check_addresses,
        ):
            try:
                self.findings += step()
            except PounceError as error:
                self._add_fault(str(error), error.exit_code)
        if self._config.reload and importlib.util.find_spec("watchfiles") is None:
            self.findings.append(
                "reload: watchfiles is not installed, so files are polled for changes; "
                "pip install 'pounce[reload]' avoids that"
            )

    def _add_fault(self, message: str, exit_code: int) -> None:
        self.faults += message.splitlines()
        self.exit_code = self.exit_code or exit_code

    def _check_logging(self) -> Iterator[str]:
        configure_logging(self._config)
        path = self._config.access_log_file
        if self._config.access_log and path != "-":
            # Opening it would leave an empty file behind.
            directory = os.path.dirname(path) or "."
            if not os.access(path if os.path.exists(path) else directory, os.W_OK):
                raise ConfigError(f"access_log_file: cannot write to {path}")
        if self._config.log_config is not None:
            yield f"log_config: {self._config.log_config} is in order"

    def _check_loop(self) -> Iterator[str]:
        new_loop = event_loop_factory(self._config.loop)
        name = "asyncio" if new_loop is asyncio.new_event_loop else "uvloop"
        workers = self._config.resolve_workers()
        yield f"workers: {workers} ({worker_mode(self._config.worker_mode)}), event loop {name}"

    def _check_application(self) -> Iterator[str]:
        app = load_or_explain(self._app_path, self._config)
        if app is None:
            self._add_fault(f'application "{self._app_path}" could not be loaded, see above', 1)
        else:
            kind = getattr(app, "__qualname__", None) or type(app).__qualname__
            yield f"application: {self._app_path} is loaded ({kind})"

    def _check_identity(self) -> Iterator[str]:
        identity = resolve_identity(self._config.user, self._config.group)
        if identity is not None:
            check_may_become(identity)
            yield f"identity: workers run as user {identity.uid} and group {identity.gid}"

    def _check_tls(self) -> Iterator[str]:
        if self._config.is_tls:
            create_context(self._config)
            yield f"TLS: {self._config.ssl_certfile} is in order"

    def _check_addresses(self) -> Iterator[str]:
        sockets = bind(self._config)
        try:
            for sock in sockets:
                host, port = bound_addr(sock)
                place = host if "/" in host or host.startswith("@") else f"{host} port {port}"
                yield f"address: {place} can be listened on"
        finally:
            close_sockets(sockets)


def load_or_explain(app_path: str, config: ServerConfig) -> Callable[..., Any] | None:
    """The application, or None when its own code fails, which is then shown with its traceback.

    Raises:
        AppLoadError: The import string is at fault.
    """
    try:
        return load_app(app_path, factory=config.factory, app_dir=config.app_dir)
    except PounceError:
        raise
    except Exception as error:
        traceback.print_exception(error.with_traceback(_from_application(error)))
        return None


def _from_application(error: Exception) -> Any:
    """The traceback without our own frames and the import system's above the application's."""
    package = os.path.dirname(__file__)
    entry = error.__traceback__
    while entry is not None:
        filename = entry.tb_frame.f_code.co_filename
        ours = filename.startswith((package + os.sep, "<frozen importlib"))
        if not ours and filename != importlib.__file__:
            return entry
        entry = entry.tb_next
    # A syntax error happens in no frame of the application; what is shown names its line.
    return None


def print_check(resolved: ResolvedConfig, app_path: str) -> int:
    """Check, print the configuration and what was found, faults to stderr; the exit status."""
    check = Check(resolved.config, app_path)
    check.run()
    print(describe_configuration(resolved))
    print()
    for finding in check.findings:
        print(finding)
    sys.stdout.flush()
    for fault in check.faults:
        print(f"pounce: error: {fault}", file=sys.stderr)
    return check.exit_code
