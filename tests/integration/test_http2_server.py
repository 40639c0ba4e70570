"""HTTP/2 by the real program, asked by clients that others wrote."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.endpoint import Certificates, Connection, get, serve
from tests.integration.h2_socket import H2Socket
from tests.integration.server_process import ServerProcess, run_pounce
from tests.integration.worker_modes import THREAD
from tests.waiting import PATIENCE, wait_until

APP = """
import asyncio
import json

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["path"]
    if path == "/scope":
        tls = scope["extensions"].get("tls") or {}
        said = {key: scope[key] for key in ("http_version", "scheme", "method")}
        body = json.dumps(said | {"tls_version": tls.get("tls_version")}).encode()
    elif path == "/large":
        body = b"x" * 3_000_000
    elif path == "/fail":
        raise RuntimeError("on purpose")
    fields = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})
"""

LOOPS = ["uvloop", "asyncio"]


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def run_client(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def certificates() -> Iterator[Certificates]:
    with tempfile.TemporaryDirectory(prefix="pounce-") as name:
        yield Certificates(Path(name))


@pytest.mark.parametrize("loop", LOOPS)
def test_httpx_over_tls(loop: str, certificates: Certificates) -> None:
    options = ["--loop", loop, *certificates.options]
    with ServerProcess(APP, *options, allow_unhandled=False) as server:
        base = f"https://localhost:{server.port}"
        with httpx.Client(
            http2=True, verify=certificates.client_context(), timeout=PATIENCE
        ) as client:
            response = client.get(f"{base}/scope")
            assert response.http_version == "HTTP/2"
            assert response.json() == {
                "http_version": "2",
                "scheme": "https",
                "method": "GET",
                "tls_version": 0x0304,
            }
            body = bytes(range(256)) * 4000
            assert client.post(base, content=body).content == body
            assert len(client.get(f"{base}/large").content) == 3_000_000
            assert client.get(f"{base}/fail").status_code == 500
        context = certificates.client_context()
        with httpx.Client(http1=True, http2=False, verify=context, timeout=PATIENCE) as client:
            assert client.get(f"{base}/scope").json()["http_version"] == "1.1"
        logged = '"GET /scope HTTP/2" 200'
        wait_until(lambda: logged in server.stderr_text(), "the request is logged")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("via", ["tcp", "unix"])
def test_both_versions_on_one_port_without_tls(loop: str, via: str) -> None:
    with serve("--http2-cleartext", loop=loop, via=via) as endpoint:
        with H2Socket(endpoint.server.connect()) as h2:
            ids = [h2.client.request(b"/") for _ in range(10)]
            assert all(stream.complete for stream in h2.finish(ids))
        with endpoint.connect() as h1:
            assert h1.ask(get("/")).status == 200
        with endpoint.connect() as slow:
            # The method of a request may begin like the preface.
            for part in (b"PR", b"I", b"VATE / HTTP/1.1\r\nHost: a\r\n\r\n"):
                slow.send(part)
            assert slow.receive("PRIVATE")[0].status in (200, 404, 405)


def test_without_the_option_the_preface_is_no_request() -> None:
    with serve() as endpoint, endpoint.connect() as connection:
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert connection.rest().startswith(b"HTTP/1.1 505 ")


def test_no_http2_over_tls(certificates: Certificates) -> None:
    with ServerProcess(APP, "--no-http2", *certificates.options) as server:
        context = certificates.client_context()
        with httpx.Client(http2=True, verify=context, timeout=PATIENCE) as client:
            response = client.get(f"https://localhost:{server.port}/scope")
        assert response.http_version == "HTTP/1.1"


def test_a_cipher_suite_that_is_unfit(certificates: Certificates) -> None:
    options = ["--ssl-ciphers", "ECDHE+AES128+SHA256:ECDHE+AES128+SHA:@SECLEVEL=0"]
    with ServerProcess(APP, *options, *certificates.options) as server:
        context = certificates.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA")
        with H2Socket(server.connect(), context) as h2:
            h2.ask()
            assert h2.client.goodbyes == [(0, 0xC)]


@pytest.mark.parametrize("tls", [False, True])
def test_curl(tls: bool, certificates: Certificates) -> None:
    curl = needs("curl")
    if "HTTP2" not in run_client(curl, "--version"):
        pytest.skip("this curl has no HTTP/2")
    options = certificates.options if tls else ["--http2-cleartext"]
    with ServerProcess(APP, *options) as server, tempfile.TemporaryDirectory() as name:
        (Path(name) / "ca").write_bytes(certificates.ca.cert_pem.bytes())
        (Path(name) / "body").write_bytes(b"y" * 300_000)
        base = f"{'https' if tls else 'http'}://localhost:{server.port}"
        how = ["--cacert", f"{name}/ca", "--http2"] if tls else ["--http2-prior-knowledge"]
        command = [curl, "-sS", "--ipv4", "--max-time", "50", *how]
        said = json.loads(run_client(*command, f"{base}/scope"))
        assert said["http_version"] == "2"
        sent = run_client(*command, "--data-binary", f"@{name}/body", "-w", "%{http_version}", base)
        assert sent == "y" * 300_000 + "2"
        if tls:  # curl 7.88 mixes up its own streams without TLS
            urls = [f"{base}/?{number}" for number in range(20)]
            assert run_client(*command, "-Z", *urls, "-w", "%{http_code} ") == "200 " * 20


def test_h2load() -> None:
    h2load = needs("h2load")
    with ServerProcess(APP, "--http2-cleartext", "--no-access-log") as server:
        base = f"http://127.0.0.1:{server.port}"
        said = run_client(h2load, "-n", "600", "-c", "4", "-m", "32", f"{base}/")
        assert re.search(r"\b600 succeeded, 0 failed, 0 errored", said), said
        said = run_client(h2load, "-n", "20", "-c", "2", "-m", "8", f"{base}/large")
        assert re.search(r"\b20 succeeded, 0 failed, 0 errored", said), said


def test_metrics_over_http2() -> None:
    with ServerProcess(APP, "--http2-cleartext", "--metrics", "--workers", "2") as server:
        with H2Socket(server.connect()) as h2:
            ids = [h2.client.request(b"/") for _ in range(30)]
            assert all(stream.complete for stream in h2.finish(ids))
            text = h2.ask("/metrics").body.decode()
        assert 'http_requests_total{method="GET",status="200"} 30.0' in text
        assert 'http_connections_total{protocol="h2"} 1.0' in text


def test_workers_that_are_threads() -> None:
    options = ["--http2-cleartext", "--workers", "2", *THREAD.options]
    with ServerProcess(APP, *options) as server:
        for _ in range(6):
            with H2Socket(server.connect()) as h2:
                ids = [h2.client.request(b"/") for _ in range(20)]
                assert all(stream.complete for stream in h2.finish(ids))


def test_a_stop_lets_streams_finish(tmp_path: Path) -> None:
    gated = "    while not os.path.exists('gate'):\n        await asyncio.sleep(0.01)\n    path ="
    app = "import os\n" + APP.replace("    path =", gated)
    (tmp_path / "app.py").write_text(app)
    with ServerProcess("app:app", "--http2-cleartext", cwd=tmp_path) as server:
        with H2Socket(server.connect()) as h2:
            ids = [h2.client.request(b"/") for _ in range(5)]
            h2.flush()
            h2.exchange()
            server.process.terminate()
            wait_until(lambda: "shutting down" in server.stderr_text(), "it stops")
            (tmp_path / "gate").touch()
            assert all(stream.complete for stream in h2.finish(ids))
            while not h2.ended:
                h2.exchange()
            assert [last for last, _ in h2.client.goodbyes] == [2**31 - 1, 9]
        assert server.wait() == 0


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'h2' else find(name, *more)\n"
    )
    done = run_pounce("app:app", "--http2-cleartext", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "http2_cleartext needs more packages: pip install 'pounce[h2]'" in done.stderr


def test_connections_are_independent(certificates: Certificates) -> None:
    """One that breaks the rules takes no other along."""
    with ServerProcess(APP, "--http2-cleartext") as server:
        with H2Socket(server.connect()) as good, H2Socket(server.connect()) as bad:
            good.ask()
            bad.client.out += b"\xff" * 100
            bad.flush()
            while not bad.ended:
                bad.exchange()
            assert bad.client.goodbyes
            assert good.ask().complete
        with Connection(server.connect()) as h1:
            assert h1.ask(get("/")).status == 200


def test_a_websocket_on_a_stream() -> None:
    app = """
    async def app(scope, receive, send):
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"beside it"})
    """
    with ServerProcess(app, "--http2-cleartext") as server, H2Socket(server.connect()) as h2:
        stream_id = h2.client.request(
            b"/chat",
            [(b"sec-websocket-version", b"13")],
            method=b"CONNECT",
            protocol=b"websocket",
            ended=False,
        )
        stream = h2.client.streams[stream_id]
        h2.client.data(stream_id, b"\x81\x82\0\0\0\0hi")
        while not stream.body:
            h2.exchange()
        assert (stream.status, stream.body) == (200, b"\x81\x02hi")
        assert h2.ask().body == b"beside it"
        h2.client.data(stream_id, b"\x88\x82\0\0\0\0\x03\xe8", ended=True)
        assert h2.finish([stream_id])[0].complete
