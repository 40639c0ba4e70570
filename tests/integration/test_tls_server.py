"""TLS by the real program: certificates, clients, versions, and what the application is told."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.integration.endpoint import APP, PATIENT, Connection, Endpoint, get
from tests.integration.server_process import ServerProcess, run_pounce
from tests.waiting import wait_until

AUTHORITY = trustme.CA()
CLIENTS = trustme.CA(organization_name="Clients")
STRANGERS = trustme.CA(organization_name="Strangers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    AUTHORITY.issue_cert(
        "localhost", common_name="first"
    ).private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    CLIENTS.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    return tmp_path


def client_context(certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    if certificate is not None:
        certificate.configure_cert(context)
    return context


def connect(
    server: ServerProcess, context: ssl.SSLContext | None = None, name: str = "localhost"
) -> Connection:
    sock = server.connect()
    try:
        return Connection((context or client_context()).wrap_socket(sock, server_hostname=name))
    except BaseException:
        sock.close()
        raise


def peer_name(connection: Connection) -> str:
    assert isinstance(connection.sock, ssl.SSLSocket)
    subject: Any = connection.sock.getpeercert()["subject"]  # type: ignore[index]
    return str(dict(pair for part in subject for pair in part)["commonName"])


def scope_of(connection: Connection) -> dict[str, Any]:
    scope: dict[str, Any] = json.loads(connection.ask(get("/scope")).body)
    return scope


def serve_tls(folder: Path, *options: str) -> ServerProcess:
    words = [*PATIENT, "--ssl-certfile", str(folder / "server.pem"), *options]
    return ServerProcess(APP, *words)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_tls_extension(folder: Path, loop: str, version: ssl.TLSVersion) -> None:
    with serve_tls(folder, "--loop", loop) as server:
        context = client_context()
        context.maximum_version = context.minimum_version = version
        context.set_alpn_protocols(["http/1.1"])
        with connect(server, context) as connection:
            assert isinstance(connection.sock, ssl.SSLSocket)
            assert connection.sock.selected_alpn_protocol() == "http/1.1"
            scope = scope_of(connection)
            cipher = connection.sock.cipher()
        assert scope["scheme"] == "https"
        extension = scope["extensions"]["tls"]
        certificate = (folder / "server.pem").read_text()
        assert extension.pop("server_cert").strip() in certificate
        suite = extension.pop("cipher_suite")
        assert 0 < suite <= 0xFFFF
        assert cipher is not None
        assert extension == {
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0303 if version == ssl.TLSVersion.TLSv1_2 else 0x0304,
        }


def test_old_versions_are_refused(folder: Path) -> None:
    with serve_tls(folder, "--ssl-minimum-version", "1.3") as server:
        context = client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            connect(server, context)
        with connect(server) as connection:
            assert connection.ask(get("/")).status == 200
        wait_until(lambda: "TLS handshake" in server.stderr_text(), "the refusal is logged")


def test_no_client_is_asked_for_a_certificate(folder: Path) -> None:
    with serve_tls(folder) as server:
        mine = CLIENTS.issue_cert(common_name="alice")
        with connect(server, client_context(mine)) as connection:
            assert scope_of(connection)["extensions"]["tls"]["client_cert_name"] is None


@pytest.mark.parametrize("requirement", ["optional", "required"])
def test_client_certificates(folder: Path, requirement: str) -> None:
    options = ("--ssl-ca-certs", str(folder / "clients.pem"), "--ssl-cert-reqs", requirement)
    with serve_tls(folder, *options) as server:
        mine = CLIENTS.issue_cert("alice@example.org", common_name="alice, the first")
        with connect(server, client_context(mine)) as connection:
            extension = scope_of(connection)["extensions"]["tls"]
            assert "CN=alice\\, the first" in extension["client_cert_name"]
            assert extension["client_cert_chain"][0].startswith("-----BEGIN CERTIFICATE-----")
            assert extension["client_cert_error"] is None
        assert serves(server, client_context(STRANGERS.issue_cert(common_name="eve"))) is False
        assert serves(server, client_context()) is (requirement == "optional")


def serves(server: ServerProcess, context: ssl.SSLContext) -> bool:
    """Whether a request is answered: with TLS 1.3 a client learns only then that it is refused."""
    try:
        with connect(server, context) as connection:
            return connection.ask(get("/")).status == 200
    except (ssl.SSLError, OSError, AssertionError):
        return False


def test_certificates_by_server_name(folder: Path) -> None:
    words = []
    for name in ("one.example", "*.two.example"):
        path = folder / f"{name.replace('*', 'any')}.pem"
        leaf = AUTHORITY.issue_cert(name, common_name=name)
        leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
        words += ["--ssl-sni-cert", f"{name}={path}"]
    with serve_tls(folder, *words) as server:
        for asked, answer in (
            ("one.example", "one.example"),
            ("x.two.example", "*.two.example"),
            ("localhost", "first"),
        ):
            with connect(server, name=asked) as connection:
                assert peer_name(connection) == answer
                told = scope_of(connection)["extensions"]["tls"]["server_cert"]
                assert isinstance(connection.sock, ssl.SSLSocket)
                der = connection.sock.getpeercert(binary_form=True)
                assert der is not None
                assert told.strip() == ssl.DER_cert_to_PEM_cert(der).strip()


def test_a_key_with_a_password(folder: Path) -> None:
    leaf = AUTHORITY.issue_cert("localhost", common_name="locked")
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    leaf.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    files = ["--ssl-certfile", str(folder / "cert.pem"), "--ssl-keyfile", str(folder / "key.pem")]
    with (
        ServerProcess(APP, *files, env={"POUNCE_SSL_KEYFILE_PASSWORD": "secret"}) as server,
        connect(server) as connection,
    ):
        assert peer_name(connection) == "locked"
    failed = run_pounce(APP, *files, "--port", "0")
    assert failed.returncode == 1
    assert "is encrypted and ssl_keyfile_password is not set" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_renewed_certificate_is_picked_up(folder: Path) -> None:
    with (
        serve_tls(folder, "--ssl-refresh-interval", "100ms") as server,
        connect(server) as before,
    ):
        assert peer_name(before) == "first"
        replace(folder, b"not a certificate")
        wait_until(lambda: "server.pem" in server.stderr_text(), "the fault is reported")
        with connect(server) as connection:
            assert peer_name(connection) == "first"
        fresh = AUTHORITY.issue_cert("localhost", common_name="second")
        replace(folder, fresh.private_key_and_cert_chain_pem.bytes())

        def renewed() -> bool:
            with connect(server) as connection:
                return peer_name(connection) == "second"

        wait_until(renewed, "the new certificate is used")
        # Connections that were there before go on.
        assert before.ask(get("/")).status == 200


def replace(folder: Path, content: bytes) -> None:
    (folder / "new").write_bytes(content)
    os.replace(folder / "new", folder / "server.pem")


@pytest.fixture(params=["uvloop", "asyncio"])
def endpoint(request: pytest.FixtureRequest, folder: Path) -> Iterator[Endpoint]:
    with serve_tls(folder, "--loop", request.param) as server:
        yield Endpoint(server, client_context())


def test_what_is_not_tls_is_refused(endpoint: Endpoint) -> None:
    for garbage in (get("/"), bytes(100), b"\x16\x03\x01\x00\x05hello"):
        with Connection(endpoint.server.connect()) as connection:
            connection.send(garbage)
            assert b"HTTP/1.1" not in connection.rest()
    assert endpoint.ask(get("/")).status == 200


def test_requests_in_one_record_or_in_many(endpoint: Endpoint) -> None:
    with endpoint.connect() as connection:
        connection.send(get("/1") + get("/2"))
        for byte in get("/3"):
            connection.send(bytes([byte]))
        found = connection.receive("GET", "GET", "GET")
    assert [response.body for response in found] == [b"/1", b"/2", b"/3"]


def test_requests_right_behind_the_handshake(endpoint: Endpoint) -> None:
    """A client whose last handshake message and first request come in one packet."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with endpoint.server.connect() as sock:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(get("/early", "Connection: close"))
        sock.sendall(outgoing.read())
        answer = b""
        while not answer.endswith(b"/early"):
            try:
                answer += tls.read(65536)
            except ssl.SSLWantReadError:
                data = sock.recv(65536)
                assert data
                incoming.write(data)


def test_the_server_says_goodbye(endpoint: Endpoint) -> None:
    """Without close_notify a client cannot tell the end from a truncation."""
    with client_context().wrap_socket(
        endpoint.server.connect(), server_hostname="localhost", suppress_ragged_eofs=False
    ) as sock:
        sock.sendall(get("/stream/x/1", version="1.0"))
        data = b""
        while part := sock.recv(65536):
            data += part
    assert data.endswith(b"part 0\n")
