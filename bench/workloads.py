"""What is asked of every server: the requests, how many connections ask, the right answer."""

import http.client
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.apps import plain
from bench.errors import BenchError
from bench.ws_load import echo_once, open_websocket

# With Host these are the 14 header lines of a navigation in a desktop browser.
BROWSER_HEADERS = (
    ("Connection", "keep-alive"),
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", '"Chromium";v="131", "Not_A Brand";v="24", "Google Chrome";v="131"'),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", '"Linux"'),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/131.0.0.0 Safari/537.36",
    ),
    (
        "Accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ),
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-US,en;q=0.9,de;q=0.8"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One kind of load. ``body_size`` bytes are posted where it is not 0."""

    name: str
    summary: str
    answer: bytes
    path: str = "/"
    app: str = "apps.plain:app"
    headers: tuple[tuple[str, str], ...] = ()
    body_size: int = 0
    connections: int = 64
    idle_connections: int = 0
    unique_header: bool = False
    tls: bool = False
    # HTTP/2 with so many requests at once on each connection; 0: HTTP/1.1.
    streams: int = 0
    access_log: bool = False
    # Bytes of the messages that are echoed over WebSockets; 0 for HTTP.
    message_size: int = 0
    # The fixed-string floor answers each read: right only for a small GET on a kept connection.
    fits_floor: bool = False

    @property
    def method(self) -> str:
        return "POST" if self.body_size else "GET"

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def is_h2(self) -> bool:
        return self.streams > 0


def _plain(name: str, summary: str, **changes: object) -> Workload:
    return Workload(name=name, summary=summary, answer=plain.GREETING, **changes)  # type: ignore[arg-type]


def _echo(name: str, summary: str, size: int) -> Workload:
    return Workload(name=name, summary=summary, answer=b"x" * size, path="/echo", body_size=size)


def _messages(name: str, summary: str, size: int) -> Workload:
    return Workload(
        name=name, summary=summary, answer=b"x" * size, message_size=size, connections=32
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        _plain("plain", "plain text, small request head", fits_floor=True),
        _plain("browser", "plain text, 14 headers", headers=BROWSER_HEADERS, fits_floor=True),
        _plain(
            "browser-unique",
            "as browser, and a header whose value never repeats",
            headers=BROWSER_HEADERS,
            unique_header=True,
            fits_floor=True,
        ),
        Workload(
            name="json",
            summary="JSON through Starlette",
            answer=b'{"message":"Hello, World!"}',
            app="apps.starlette_app:app",
        ),
        _echo("post-1k", "POST echo, 1 KiB", 1024),
        _echo("post-64k", "POST echo, 64 KiB", 65536),
        Workload(name="response-64k", summary="64 KiB response", answer=plain.LARGE, path="/large"),
        Workload(
            name="stream",
            summary=f"streamed response, {plain.CHUNKS} chunks of {len(plain.CHUNK)} bytes",
            answer=plain.CHUNK * plain.CHUNKS,
            path="/stream",
        ),
        _plain("connect", "a new connection per request", headers=(("Connection", "close"),)),
        _plain("tls", "plain text over TLS, kept connections", tls=True),
        _plain("access-log", "plain text, access log to a file", access_log=True),
        _plain(
            "idle", "32 busy beside 1,000 idle connections", connections=32, idle_connections=1000
        ),
        _plain(
            "h2-8x32",
            "plain text over HTTP/2, 32 streams each",
            connections=8,
            streams=32,
            tls=True,
        ),
        _plain("h2-64x1", "plain text over HTTP/2, one stream each", streams=1, tls=True),
        Workload(
            name="h2-1m-response",
            summary="1 MiB response over HTTP/2, 4 streams each",
            answer=plain.HUGE,
            path="/huge",
            connections=8,
            streams=4,
            tls=True,
        ),
        Workload(
            name="h2-1m-upload",
            summary="1 MiB upload over HTTP/2, 4 streams each",
            answer=b"1048576",
            path="/upload",
            body_size=1 << 20,
            connections=8,
            streams=4,
            tls=True,
        ),
        _messages("ws-64b", "WebSocket echo, messages of 64 bytes", 64),
        _messages("ws-64k", "WebSocket echo, messages of 64 KiB", 65536),
    )
}


def check_answer(workload: Workload, port: int, ca_file: Path) -> None:
    """Ask twice as the workload does and compare status and body, or raise BenchError."""
    if workload.is_h2:
        _check_h2_answer(workload, port, ca_file)
        return
    if workload.message_size:
        _check_echo(workload, port)
        return
    for _ in range(2):
        if workload.tls:
            context = ssl.create_default_context(cafile=str(ca_file))
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", port, timeout=10, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            body = b"x" * workload.body_size or None
            connection.request(workload.method, workload.path, body, dict(workload.headers))
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{workload.name}: no answer on port {port}: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200 or answer != workload.answer:
            raise BenchError(
                f"{workload.name}: wrong answer on port {port}: status {response.status}, "
                f"{len(answer)} bytes instead of {len(workload.answer)}: {answer[:200]!r}"
            )


def _check_h2_answer(workload: Workload, port: int, ca_file: Path) -> None:
    command = ["curl", "-sS", "--http2", "--max-time", "10", "--cacert", str(ca_file)]
    command += ["-w", "%{http_version} %{http_code}"]
    if workload.body_size:
        command += ["--data-binary", "@-"]
    command.append(f"{workload.scheme}://127.0.0.1:{port}{workload.path}")
    body = b"x" * workload.body_size
    done = subprocess.run(command, input=body, capture_output=True, timeout=30, check=False)
    if done.stdout != workload.answer + b"2 200":
        raise BenchError(
            f"{workload.name}: wrong answer on port {port}: {done.stdout[-200:]!r} "
            f"{done.stderr.decode(errors='replace')}"
        )


def _check_echo(workload: Workload, port: int) -> None:
    try:
        with open_websocket(port, workload.path) as connection:
            for _ in range(2):
                echo_once(connection, workload.answer)
    except OSError as error:
        raise BenchError(f"{workload.name}: no echo on port {port}: {error!r}") from error
