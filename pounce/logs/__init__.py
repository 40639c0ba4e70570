"""What the server says: log records, the banner, and the access log."""

from pounce.logs.setup import (
    LoggingSetup,
    configure_logging,
    reopen_file_handlers,
    reopen_log_files,
    stderr_is_terminal,
    wants_colors,
)

__all__ = [
    "LoggingSetup",
    "configure_logging",
    "reopen_file_handlers",
    "reopen_log_files",
    "stderr_is_terminal",
    "wants_colors",
]
