"""The errors that Pounce raises.

```
PounceError
├── ConfigError        a setting is unknown, malformed or contradicts another one
├── AppLoadError       the import string names nothing that can be called
├── BindError          an address cannot be listened on
├── TLSError           a certificate, key or CA file cannot be used
├── LifespanError      the application refused to start
├── SupervisorError    the pool of workers cannot be run
├── WorkerError        a worker failed for a reason that is not the application's
├── SharedMemoryError  shared memory is missing, full or not what was expected
└── ProtocolError      the peer broke a protocol; carries the status to answer with
    ├── ParseError             400, or the status that the rule names
    ├── LimitError             413, 414 or 431
    └── RequestTimeoutError    408
```

Every error carries `exit_code`, the exit status of the command when the error ends the program.
"""

from __future__ import annotations


class PounceError(Exception):
    """Root of all errors raised on purpose; anything else that escapes is a bug."""

    exit_code = 1


class ConfigError(PounceError):
    """A setting is unknown, malformed or contradicts another one. The operator's fault."""

    exit_code = 2


class AppLoadError(PounceError):
    """The import string names nothing that can be called. The operator's fault.

    An exception raised by the application's own module while it is imported is not wrapped.
    """


class BindError(PounceError):
    """An address cannot be listened on: in use, not permitted, not of this machine."""


class TLSError(PounceError):
    """A certificate, key or CA file is missing, unreadable or does not fit."""


class LifespanError(PounceError):
    """The application's startup failed; nothing was served.

    `exit_code` is the one that uvicorn uses for "cannot start", so that supervisors which know
    it do not restart in a loop.
    """

    exit_code = 3


class SupervisorError(PounceError):
    """The pool of workers cannot be run as configured."""


class WorkerError(PounceError):
    """A worker failed for a reason that is not the application's."""


class SharedMemoryError(PounceError):
    """Shared memory is missing, full, not permitted, or not what was expected."""


class ProtocolError(PounceError):
    """The peer broke a protocol. The request is refused with `status` and nothing of it is lost
    to the log; the connection closes because its framing can no longer be trusted
    (RFC 9112 section 9.6).
    """

    status = 400

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class ParseError(ProtocolError):
    """The message is malformed (400), or asks for what this server does not do (417, 501, 505)."""


class LimitError(ProtocolError):
    """The message exceeds a configured limit (413, 414, 431)."""

    status = 413


class RequestTimeoutError(ProtocolError):
    """The message did not arrive in time (408, RFC 9110 section 15.5.9)."""

    status = 408
