"""A server that runs `tests.integration.steered_app`, and how a test talks to it."""

from __future__ import annotations

import contextlib
import itertools
import json
import select
import socket
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from tests.integration.responses import IncompleteResponse, Response, parse_responses
from tests.integration.server_process import ServerProcess, receive_responses
from tests.waiting import PATIENCE, wait_until

APP = "tests.integration.steered_app:app"
# On a busy machine the client of a test may be slow; options of the test come behind these.
PATIENT = [
    word
    for name in (
        *("first-byte", "request-head", "request-body", "keep-alive", "write"),
        "tls-handshake",
    )
    for word in (f"--timeout-{name}", "100s")
]
_keys = itertools.count(1)


def new_key() -> str:
    """A name for a gate that no other test of this process uses."""
    return f"k{next(_keys)}"


def get(path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without content."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(path: str, body: bytes, *fields: str) -> bytes:
    return get(path, f"Content-Length: {len(body)}", *fields, method="POST") + body


def chunked(path: str, *chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = get(path, "Transfer-Encoding: chunked", method="POST")
    return head + body + b"0\r\n" + trailers + b"\r\n"


class Connection:
    """One connection of a client, plain or TLS, which reads responses strictly."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._data = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, *methods: str) -> list[Response]:
        """The responses to requests of these methods; what follows them is kept."""
        closed = False
        while True:
            try:
                found, self._data = parse_responses(self._data, methods or ["GET"], closed=closed)
            except IncompleteResponse:
                if closed:
                    raise
            else:
                return found
            data = self._read_available()
            self._data += data
            closed = not data

    def ask(self, request: bytes, method: str = "GET") -> Response:
        """The final response to a request that follows those answered so far."""
        self.send(request)
        return self.receive(method)[-1]

    def receive_exactly(self, expected: bytes) -> None:
        """Fails when anything else arrives, or nothing."""
        while len(self._data) < len(expected):
            data = self._read()
            assert data, f"closed after {self._data!r}"
            self._data += data
        assert self._data.startswith(expected), self._data
        self._data = self._data[len(expected) :]

    def is_silent(self, seconds: float = 0.05) -> bool:
        """Whether nothing arrives for a moment. Only for what would come at once if it did."""
        if self._data:
            return False
        timeout = self.sock.gettimeout()
        self.sock.settimeout(seconds)
        try:
            self._data += self._read()
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(timeout)
        return False

    def rest(self) -> bytes:
        """All that arrives until the server closes."""
        while data := self._read():
            self._data += data
        data, self._data = self._data, b""
        return data

    def reset(self) -> None:
        """Goes away without a word, as a client that crashes."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _read_available(self) -> bytes:
        """What is there, at least one byte; b"" at the end. A long response is then not looked at
        again for each segment of it."""
        parts = [self._read()]
        while parts[-1] and select.select([self.sock], [], [], 0.002)[0]:
            parts.append(self._read())
        return b"".join(parts)

    def _read(self) -> bytes:
        try:
            return self.sock.recv(262144)
        except (ConnectionResetError, ssl.SSLEOFError):
            return b""


@dataclass
class Endpoint:
    """A running server with what a client needs to reach it."""

    server: ServerProcess
    ssl_context: ssl.SSLContext | None = None

    def connect(
        self, *, receive_buffer: int | None = None, timeout: float = PATIENCE
    ) -> Connection:
        """A new connection; a small `receive_buffer` makes the client a slow reader."""
        if receive_buffer is None:
            sock = self.server.connect(timeout)
        else:
            sock = self._connect_narrow(receive_buffer, timeout)
        if self.ssl_context is not None:
            sock = self.ssl_context.wrap_socket(sock, server_hostname="localhost")
        return Connection(sock)

    def _connect_narrow(self, receive_buffer: int, timeout: float) -> socket.socket:
        uds = self.server.uds
        sock = socket.socket(socket.AF_UNIX if uds else socket.AF_INET)
        sock.settimeout(timeout)
        # Before the connection is made, as it decides the window that the kernel offers.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(uds or ("127.0.0.1", self.server.port))
        return sock

    def ask(self, request: bytes, method: str = "GET") -> Response:
        """The final response on a connection of its own."""
        with self.connect() as connection:
            return connection.ask(request, method)

    def connect_and_send(self, data: bytes) -> Connection:
        """A new connection on which the server finds this as soon as it accepts it: however slow
        the test is, no deadline comes before. Not over TLS."""
        assert self.ssl_context is None
        with self.server.paused():
            connection = self.connect()
            connection.send(data)
        return connection

    def exchange(self, request: bytes, methods: Sequence[str] = ("GET",)) -> bytes:
        """What a new connection carries back until it has all responses or is closed."""
        with self.connect() as connection:
            connection.send(request)
            return receive_responses(connection.sock, methods)

    def open(self, key: str) -> None:
        assert self.ask(get(f"/open/{key}")).body == b"opened"

    def events(self, key: str) -> list[str]:
        events: list[str] = json.loads(self.ask(get(f"/events/{key}")).body)
        return events

    def wait_for(self, key: str, *expected: str) -> None:
        wait_until(lambda: self.events(key) == list(expected), f"{key} records {expected}")

    def wait_for_log(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.server.stderr_text().count(text) >= times, f"{text!r} is logged")

    def is_refused(self) -> bool:
        """Whether new connections are."""
        try:
            self.server.connect(5).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except (ConnectionResetError, TimeoutError):
            return False  # it closes just now, or is full
        return False

    def scope(self, request: bytes, method: str = "GET") -> dict[str, Any]:
        """The scope that the application saw; `request` must ask for `/scope`."""
        response = self.ask(request, method)
        assert response.status == 200, response
        scope: dict[str, Any] = json.loads(response.body)
        return scope


class Certificates:
    """A certificate authority, a certificate for `localhost`, and a client that trusts it."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.path = folder / "server.pem"
        self.ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(self.path)
        )
        self.options = ["--ssl-certfile", str(self.path)]

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


@contextlib.contextmanager
def serve(
    *options: str, loop: str = "uvloop", via: str = "tcp", app: str = APP, **more: Any
) -> Iterator[Endpoint]:
    """Runs the steered application.

    Args:
        options: Of the command.
        loop: The event loop.
        via: "tcp", "tls" or "unix".
        app: Another application.
        more: For `ServerProcess`.
    """
    with tempfile.TemporaryDirectory(prefix="pounce-") as name:
        folder = Path(name)
        context = None
        arguments = ["--loop", loop, *PATIENT, *options]
        if via == "tls":
            certificates = Certificates(folder)
            arguments += certificates.options
            context = certificates.client_context()
        elif via == "unix":
            arguments += ["--uds", str(folder / "socket")]
        with ServerProcess(app, *arguments, **more) as server:
            yield Endpoint(server, context)
        assert not (folder / "socket").exists()
