"""A server inside the process of the test, for what only objects can be given."""

from __future__ import annotations

import logging
import socket
import threading
from types import TracebackType
from typing import Any, Self

from pounce import Server, ServerConfig
from pounce.asgi.types import ASGIApp
from tests.integration.endpoint import Connection
from tests.integration.responses import Response
from tests.waiting import PATIENCE, wait_until

LOGGERS = ("pounce", "pounce.error", "pounce.access", "pounce.lifecycle")
STOP_TIMEOUT = 30.0


class ServerThread:
    """Runs a `Server` in a thread from entering to leaving.

    Args:
        app: The application.
        sync_app, lifecycle_collector: For the server.
        options: Of its configuration. The port is 0 and there is no access log by default.
    """

    def __init__(
        self,
        app: ASGIApp | None,
        *,
        sync_app: Any = None,
        lifecycle_collector: Any = None,
        **options: Any,
    ) -> None:
        defaults: dict[str, Any] = {"port": 0, "access_log": False, "log_level": "warning"}
        self.server = Server(
            ServerConfig(**(defaults | options)),
            app,
            lifecycle_collector=lifecycle_collector,
            sync_app=sync_app,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._loggers = LoggerState()
        self._thread.start()
        wait_until(self._answers, "the server answers")
        if self.error is not None:
            self.__exit__(None, None, None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._loggers.restore()
        if error is None and self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.server.shutdown()
        self._thread.join(STOP_TIMEOUT)
        assert not self._thread.is_alive(), "the server does not stop"

    @property
    def address(self) -> tuple[str, int]:
        address = self.server.bound_addr
        assert address is not None
        return address

    def connect(self) -> Connection:
        host, port = self.address
        if port == 0:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            try:
                sock.connect(host)
            except OSError:
                sock.close()
                raise
            return Connection(sock)
        return Connection(socket.create_connection((host, port), PATIENCE))

    def ask(self, request: bytes, method: str = "GET") -> Response:
        with self.connect() as connection:
            return connection.ask(request, method)

    def _run(self) -> None:
        try:
            self.server.run()
        except BaseException as error:
            self.error = error

    def _answers(self) -> bool:
        if self.error is not None or not self._thread.is_alive():
            return True
        if self.server.bound_addr is None:
            return False
        try:
            self.connect().sock.close()
        except OSError:
            return False
        return True


class LoggerState:
    """What the server does to the loggers of the process is undone after the test."""

    def __init__(self) -> None:
        self._saved = [
            (logger, list(logger.handlers), logger.propagate, logger.level)
            for logger in map(logging.getLogger, LOGGERS)
        ]

    def restore(self) -> None:
        for logger, handlers, propagate, level in self._saved:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
