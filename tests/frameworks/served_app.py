"""An application under test, served by the real program, and what it logs."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.integration.server_process import SOCKET_TIMEOUT, ServerProcess
from tests.waiting import wait_until

FILE_CONTENT = random.Random(1).randbytes(3 * 1024 * 1024 + 17)
"""More than one socket buffer, and no multiple of any chunk size."""

_COMPLAINT = re.compile(r"\b(WARNING|ERROR|CRITICAL|Traceback|\w*Warning:|\w*Error:|Exception)")


class Client(httpx.Client):
    """A client with its own connections and cookies, that speaks one protocol."""

    def __init__(self, base_url: httpx.URL | str, *, http2: bool) -> None:
        super().__init__(
            base_url=base_url,
            http1=not http2,
            http2=http2,
            timeout=SOCKET_TIMEOUT,
            trust_env=False,
        )
        self.http2 = http2

    def another(self) -> Client:
        """One that leaves when it is closed: httpx does not reset a stream of HTTP/2."""
        return Client(self.base_url, http2=self.http2)


@dataclass
class ServedApp:
    app: str
    process: ServerProcess
    lifespan_log: Path
    _seen: int = field(default=0)
    """How much of what was logged has been looked at."""

    def expect_log(self, text: str) -> None:
        """Waits until `text` is logged; what is logged until then is not taken as a complaint."""
        wait_until(lambda: text in self.process.stderr_text()[self._seen :], f"{text!r} is logged")
        # The rest of a long traceback may still be on its way. The loop writes it before it
        # answers what comes later.
        self.process.request(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self._seen = len(self.process.stderr_text())

    def assert_no_complaint(self) -> None:
        """Fails when a warning, an error or a traceback was logged that nobody expected."""
        log = self.process.stderr_text()
        new, self._seen = log[self._seen :], len(log)
        if match := _COMPLAINT.search(new):
            pytest.fail(f"logged {match[0]!r}:\n{new}")

    def lifespan_events(self) -> list[str]:
        return self.lifespan_log.read_text().splitlines() if self.lifespan_log.exists() else []


@contextlib.contextmanager
def serve(app: str, folder: Path, *arguments: str) -> Iterator[ServedApp]:
    """Serves `app` with a file of FILE_CONTENT in `folder`; at the end it must have stopped
    without a complaint."""
    file = folder / "static" / "file.bin"
    file.parent.mkdir()
    file.write_bytes(FILE_CONTENT)
    lifespan_log = folder / "lifespan.log"
    env = {"SERVED_FILE": str(file), "LIFESPAN_LOG": str(lifespan_log)}
    process = ServerProcess(app, *arguments, env=env)
    with process:
        served = ServedApp(app, process, lifespan_log)
        yield served
        process.process.terminate()
        assert process.wait() == 0
        served.assert_no_complaint()
