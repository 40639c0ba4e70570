"""What the server says about itself: loggers, their format, and where they write.

`pounce` is the logger with the handler; `pounce.error`, `pounce.access` and `pounce.lifecycle`
are below it. Messages go to standard error. The root logger and every other logger belong to the
application and are left alone.
"""

from __future__ import annotations

import configparser
import json
import logging
import logging.config
import os
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pounce.errors import ConfigError

if TYPE_CHECKING:
    from pounce.config import ServerConfig

TRACE = 5
"""The level below DEBUG: every event of every connection."""

_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}

_COLORS = {
    TRACE: "\x1b[34m",
    logging.DEBUG: "\x1b[36m",
    logging.INFO: "\x1b[32m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[91m",
}
_NO_COLOR = "\x1b[0m"

# `LEVEL:` and spaces up to here, as in uvicorn's messages.
_PREFIX_WIDTH = 10

# Line ends stay (the formatter indents what follows them), tabs too.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
del _CONTROL[0x09], _CONTROL[0x0A]

_STANDARD_ATTRIBUTES = frozenset(
    (*vars(logging.makeLogRecord({})), "message", "asctime", "taskName")
)


def configure_logging(config: ServerConfig) -> None:
    """Set the loggers of the server up as `config` says. May be called again at any time.

    Without `log_config`: the logger `pounce` gets `log_level`, one handler on standard error in
    `log_format`, and no longer propagates to the root logger.

    With `log_config`, that file alone decides; `log_level` and `log_format` say nothing about the
    loggers then. `.json` and `.toml` hold what `logging.config.dictConfig` takes, `.ini` and
    `.conf` what `logging.config.fileConfig` takes. Loggers that the file does not name stay
    enabled, unless it says `disable_existing_loggers`.

    Raises:
        ConfigError: `log_config` cannot be read or is refused.
    """
    LoggingSetup(config).apply()


class LoggingSetup:
    """What `configure_logging` does, read now, to be done now or again: the file may be another
    one by then.

    Raises:
        ConfigError: `log_config` cannot be read.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._path = None if config.log_config is None else Path(config.log_config)
        self._text = "" if self._path is None else _read_log_config(self._path)

    def apply(self) -> None:
        """Sets the loggers up.

        Raises:
            ConfigError: `log_config` is refused; the loggers may be in any state.
        """
        _configure(self._config, self._path, self._text)


def _configure(config: ServerConfig, path: Path | None, text: str) -> None:
    logging.addLevelName(TRACE, "TRACE")
    logger = logging.getLogger("pounce")
    for handler in [h for h in logger.handlers if isinstance(h, _StderrHandler)]:
        logger.removeHandler(handler)
    if path is not None:
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        _apply_log_config(path, text)
        return
    # By hand, because dictConfig() closes every handler of the process, also the application's.
    handler = _StderrHandler()
    if config.log_format == "json":
        handler.setFormatter(JSONFormatter())
    else:
        handler.setFormatter(TextFormatter(use_colors=wants_colors(config.use_colors)))
    logger.addHandler(handler)
    logger.setLevel(_LEVELS[config.log_level])
    logger.propagate = False


def wants_colors(use_colors: bool | None) -> bool:
    """Whether to colour what goes to standard error.

    `use_colors` decides when it is not None; then the environment: NO_COLOR, FORCE_COLOR
    (any value but the empty one), TERM=dumb; then whether standard error is a terminal.
    """
    if use_colors is not None:
        return use_colors
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return os.environ.get("TERM") != "dumb" and stderr_is_terminal()


def stderr_is_terminal() -> bool:
    """Whether somebody may be watching standard error."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        # It is closed.
        return False


def reopen_log_files() -> None:
    """`reopen_file_handlers` for every logger there is, the application's included."""
    loggers = [logging.getLogger(), *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            reopen_file_handlers(logger.handlers)


def reopen_file_handlers(handlers: Iterable[logging.Handler]) -> None:
    """Let handlers that append to a file open it anew, after a log rotation moved it away.

    A handler that would overwrite its file is left alone. A file that cannot be opened is
    reported to `pounce.error`, and its handler goes on with the old one.
    """
    for handler in handlers:
        if not isinstance(handler, logging.FileHandler) or not handler.mode.startswith("a"):
            continue
        problem = None
        handler.acquire()
        try:
            # Without a stream it is opened by the next record anyway.
            if handler.stream is not None:
                old, handler.stream = handler.stream, handler._open()
                old.close()
        except OSError as exc:
            problem = exc
        finally:
            handler.release()
        if problem is not None:
            logging.getLogger("pounce.error").error("Cannot reopen a log file: %s", problem)


def _read_log_config(path: Path) -> str:
    if path.suffix.lower() not in (".json", ".toml", ".ini", ".conf"):
        raise ConfigError(f"log_config: {path}: must end in .json, .toml, .ini or .conf")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"log_config: cannot read {path}: {reason}") from exc


def _apply_log_config(path: Path, text: str) -> None:
    suffix = path.suffix.lower()
    try:
        if suffix in (".ini", ".conf"):
            parser = configparser.RawConfigParser()
            parser.read_string(text, str(path))
            logging.config.fileConfig(parser, disable_existing_loggers=False)
        else:
            settings = json.loads(text) if suffix == ".json" else tomllib.loads(text)
            if not isinstance(settings, dict):
                raise TypeError("the top level must be an object")
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, **settings})
    except Exception as exc:
        # Handlers and formatters are made by name, with any arguments: anything may be raised.
        chain = [f"{type(e).__name__}: {e}" for e in (exc, exc.__cause__) if e is not None]
        reasons = " ".join(" ".join(chain).split())
        raise ConfigError(f"log_config: {path}: {reasons}") from exc


class _StderrHandler(logging.StreamHandler[Any]):
    """Writes to whatever `sys.stderr` is at that moment, which tests and apps replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


class TextFormatter(logging.Formatter):
    """`INFO:     message`, for people.

    Text that came from a client cannot pass for a line of the log: control characters in a
    message are escaped, and its second and further lines are indented. Tracebacks keep their
    lines as they are.
    """

    def __init__(self, *, use_colors: bool = False) -> None:
        super().__init__()
        self.use_colors = use_colors

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = record.levelname
        padding = " " * max(1, _PREFIX_WIDTH - 1 - len(level))
        if self.use_colors and (color := _COLORS.get(record.levelno)) is not None:
            level = f"{color}{level}{_NO_COLOR}"
        message = record.message.translate(_CONTROL).replace("\n", "\n" + " " * _PREFIX_WIDTH)
        return f"{level}:{padding}{message}"

    def formatException(self, ei: Any) -> str:
        return super().formatException(ei).translate(_CONTROL)


class JSONFormatter(logging.Formatter):
    """One JSON object a line: ts (UTC, milliseconds), level, logger, message, and when there are
    any, exc (the traceback), stack, and what was passed as `extra`. ASCII only.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "ts": format_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            # Not kept in record.exc_text: other handlers format it their own way.
            fields["exc"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exc"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        for key, value in vars(record).items():
            if key not in _STANDARD_ATTRIBUTES and key not in fields:
                fields[key] = value
        return dump_json(fields)


def format_time(timestamp: float) -> str:
    """ISO 8601 in UTC with milliseconds: `2026-11-22T18:00:00.123Z`."""
    milliseconds = int(timestamp * 1000)
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:03d}Z"


def dump_json(fields: dict[str, Any]) -> str:
    """`fields` as one line of strict JSON; what JSON cannot express is written as its `str()`."""
    try:
        text = json.dumps(fields, default=str, allow_nan=False)
    except Exception:
        # A key that is no string, a NaN, something that contains itself or has no str().
        plain = {
            str(key): value if isinstance(value, str | int | None) else _describe(value)
            for key, value in fields.items()
        }
        text = json.dumps(plain)
    # JSON lets DEL stand as it is; a log does not.
    return text.replace("\x7f", "\\u007f")


def _describe(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that cannot be shown>"
