from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pounce.config import ServerConfig
from pounce.errors import TLSError
from pounce.net.tls import (
    CertificateRefresher,
    create_context,
    distinguished_name,
    tls_extension,
)

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs a coroutine on each event loop that Pounce supports."""

    def run(coroutine: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, 100))

    return run


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def client_ca() -> trustme.CA:
    return trustme.CA(organization_name="Clients")


@dataclass
class Files:
    """Writes certificates where a configuration looks for them."""

    directory: Path
    ca: trustme.CA

    def issue(self, name: str, *identities: str, key_type: Any = trustme.KeyType.ECDSA) -> str:
        """Certificate chain and key in one file, as `ssl_certfile` takes it."""
        leaf = self.ca.issue_cert(*identities, key_type=key_type)
        return self.write(name, leaf.private_key_and_cert_chain_pem.bytes())

    def write(self, name: str, content: bytes) -> str:
        """Replace a file in one step, as tools that renew certificates do."""
        path = self.directory / name
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content)
        os.replace(fresh, path)
        return str(path)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def files(tmp_path: Path, ca: trustme.CA) -> Files:
    return Files(tmp_path, ca)


@dataclass
class Served:
    """A TLS server on loopback that answers "ok" and keeps what the application would be told."""

    port: int
    extensions: list[dict[str, Any]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[Served]:
    def refused(loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        if not isinstance(details.get("exception"), ssl.SSLError | OSError):
            loop.default_exception_handler(details)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.extensions.append(tls_extension(writer.get_extra_info("ssl_object")))
        with contextlib.suppress(OSError):
            while await reader.read(1):
                writer.write(b"ok")
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    asyncio.get_running_loop().set_exception_handler(refused)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    served = Served(server.sockets[0].getsockname()[1])
    try:
        yield served
    finally:
        server.close()
        await server.wait_closed()


class Client:
    """A blocking TLS client: it reports the alert of a server that refuses after its handshake."""

    def __init__(self, ca: trustme.CA, certificate: trustme.LeafCert | None = None) -> None:
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        ca.configure_trust(self.context)
        if certificate is not None:
            certificate.configure_cert(self.context)

    def connect(self, port: int, name: str | None = "localhost") -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", port), timeout=60)
        try:
            return self.context.wrap_socket(raw, server_hostname=name)
        except BaseException:
            raw.close()
            raise

    def ask(self, port: int, name: str | None = "localhost") -> ssl.SSLSocket:
        """A connection that has carried one answer; closed by the caller."""
        connection = self.connect(port, name)
        try:
            exchange(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def names(self, port: int, name: str | None = "localhost") -> set[str]:
        """The names in the certificate that the server chose for `name`."""

        def ask() -> set[str]:
            with self.ask(port, name) as connection:
                certificate = connection.getpeercert()
                assert certificate is not None
                pairs = cast("tuple[tuple[str, str], ...]", certificate["subjectAltName"])
                return {value for _, value in pairs}

        return await asyncio.to_thread(ask)


# Neither asyncio nor uvloop sends the alert of a failed handshake; they just close.
REFUSED = (ssl.SSLError, ConnectionError)


def exchange(connection: ssl.SSLSocket) -> None:
    """Raises an error of `REFUSED` when the server does not take this connection."""
    connection.sendall(b"?")
    answer = connection.recv(2)
    if not answer:
        raise ConnectionResetError("closed by the server")
    assert answer == b"ok"


def der(pem: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem)


def config_for(certfile: str, **options: Any) -> ServerConfig:
    return ServerConfig(ssl_certfile=certfile, **options)


# Versions, ciphers, protocols


@pytest.mark.parametrize(
    ("minimum", "client_version", "accepted"),
    [
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.2", ssl.TLSVersion.TLSv1_3, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_a_version_below_the_minimum_is_refused(
    run: Run[None],
    files: Files,
    minimum: str,
    client_version: ssl.TLSVersion,
    accepted: bool,
) -> None:
    config = config_for(files.issue("c.pem", "localhost"), ssl_minimum_version=minimum)
    client = Client(files.ca)
    client.context.minimum_version = client.context.maximum_version = client_version

    async def check() -> None:
        async with serving(create_context(config)) as server:
            if accepted:
                await client.names(server.port)
                number = {"TLSv1_2": 0x0303, "TLSv1_3": 0x0304}[client_version.name]
                assert server.extensions[0]["tls_version"] == number
            else:
                with pytest.raises(REFUSED):
                    await client.names(server.port)

    run(check())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_tls_1_1_is_refused(run: Run[None], files: Files) -> None:
    client = Client(files.ca)
    client.context.minimum_version = ssl.TLSVersion.TLSv1_1
    client.context.maximum_version = ssl.TLSVersion.TLSv1_1
    client.context.set_ciphers("ALL:@SECLEVEL=0")

    async def check() -> None:
        async with serving(create_context(config_for(files.issue("c.pem", "localhost")))) as server:
            with pytest.raises(REFUSED):
                await client.names(server.port)
            assert server.extensions == []

    run(check())


@pytest.mark.parametrize(
    ("cipher", "key_type", "accepted"),
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", trustme.KeyType.RSA, True),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", trustme.KeyType.ECDSA, True),
        ("AES128-GCM-SHA256", trustme.KeyType.RSA, False),  # no forward secrecy
        ("ECDHE-RSA-AES128-SHA256", trustme.KeyType.RSA, False),  # CBC
    ],
)
def test_tls_1_2_takes_only_forward_secret_authenticated_ciphers(
    run: Run[None], files: Files, cipher: str, key_type: trustme.KeyType, accepted: bool
) -> None:
    certfile = files.issue("c.pem", "localhost", key_type=key_type)
    client = Client(files.ca)
    client.context.maximum_version = ssl.TLSVersion.TLSv1_2
    client.context.set_ciphers(cipher)

    async def check() -> None:
        async with serving(create_context(config_for(certfile))) as server:
            if accepted:
                await client.names(server.port)
            else:
                with pytest.raises(REFUSED):
                    await client.names(server.port)

    run(check())


def test_ciphers_can_be_chosen(run: Run[None], files: Files) -> None:
    certfile = files.issue("c.pem", "localhost")
    config = config_for(certfile, ssl_ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    client = Client(files.ca)
    client.context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def check() -> None:
        async with serving(create_context(config)) as server:
            await client.names(server.port)
            assert server.extensions[0]["cipher_suite"] == 0xC02C  # RFC 5289 section 3.2

    run(check())


def test_ciphers_that_do_not_exist_are_refused(files: Files) -> None:
    config = config_for(files.issue("c.pem", "localhost"), ssl_ciphers="NO-SUCH")
    with pytest.raises(TLSError, match=r"^ssl_ciphers 'NO-SUCH' names no usable cipher$"):
        create_context(config)


@pytest.mark.parametrize(
    ("offered", "http2", "chosen"),
    [
        (["http/1.1", "h2"], None, "h2"),
        (["h2"], None, "h2"),
        (["http/1.1"], None, "http/1.1"),
        (["h2", "http/1.1"], False, "http/1.1"),
        (["h2"], False, None),
        (None, None, None),
    ],
)
def test_alpn_chooses_the_protocol(
    run: Run[None],
    files: Files,
    offered: list[str] | None,
    http2: bool | None,
    chosen: str | None,
) -> None:
    client = Client(files.ca)
    if offered is not None:
        client.context.set_alpn_protocols(offered)
    config = config_for(files.issue("c.pem", "localhost"), http2=http2)

    async def check() -> None:
        async with serving(create_context(config)) as server:
            with await asyncio.to_thread(client.ask, server.port) as connection:
                assert connection.selected_alpn_protocol() == chosen

    run(check())


def test_compression_and_renegotiation_are_off(files: Files) -> None:
    context = create_context(config_for(files.issue("c.pem", "localhost")))
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_can_resume_its_session(
    run: Run[None], files: Files, version: ssl.TLSVersion
) -> None:
    client = Client(files.ca)
    client.context.minimum_version = client.context.maximum_version = version

    def resume(port: int) -> bool | None:
        with client.ask(port) as first:
            session = first.session
        raw = socket.create_connection(("127.0.0.1", port), timeout=60)
        with client.context.wrap_socket(
            raw, server_hostname="localhost", session=session
        ) as second:
            exchange(second)
            return second.session_reused

    async def check() -> None:
        async with serving(create_context(config_for(files.issue("c.pem", "localhost")))) as server:
            assert await asyncio.to_thread(resume, server.port) is True
            full, resumed = server.extensions
            assert resumed == full

    run(check())


# Client certificates


def mutual(files: Files, client_ca: trustme.CA, requirement: str, **options: Any) -> ServerConfig:
    ca_file = files.write("clients.pem", client_ca.cert_pem.bytes())
    return config_for(
        files.issue("c.pem", "localhost"),
        ssl_ca_certs=ca_file,
        ssl_cert_reqs=requirement,
        **options,
    )


def client_certificate(client_ca: trustme.CA) -> trustme.LeafCert:
    return client_ca.issue_cert(
        "alice@example.org", common_name="Alice", organization_name="Example, Ltd."
    )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("requirement", ["none", "optional", "required"])
@pytest.mark.parametrize("shown", ["nothing", "known", "stranger"])
def test_client_certificates(
    run: Run[None],
    files: Files,
    client_ca: trustme.CA,
    requirement: str,
    shown: str,
    version: ssl.TLSVersion,
) -> None:
    known = client_certificate(client_ca)
    certificate = {
        "nothing": None,
        "known": known,
        "stranger": client_certificate(trustme.CA()),
    }[shown]
    refused = {("required", "nothing"), ("required", "stranger"), ("optional", "stranger")}
    client = Client(files.ca, certificate)
    client.context.maximum_version = version

    async def check() -> None:
        async with serving(create_context(mutual(files, client_ca, requirement))) as server:
            if (requirement, shown) in refused:
                with pytest.raises(REFUSED):
                    await client.names(server.port)
                assert server.extensions == []
                return
            await client.names(server.port)
            told = server.extensions[0]
            assert told["client_cert_error"] is None
            if shown == "known" and requirement != "none":
                assert der(told["client_cert_chain"][0]) == der(
                    known.cert_chain_pems[0].bytes().decode()
                )
                subject = x509.load_pem_x509_certificate(
                    told["client_cert_chain"][0].encode()
                ).subject
                assert told["client_cert_name"] == subject.rfc4514_string()
                assert told["client_cert_name"].startswith("CN=Alice,")
                assert "O=Example\\, Ltd." in told["client_cert_name"]
            else:
                assert told["client_cert_chain"] == []
                assert told["client_cert_name"] is None

    run(check())


def test_the_chain_that_the_client_sent_is_told_in_order(
    run: Run[None], files: Files, client_ca: trustme.CA
) -> None:
    intermediate = client_ca.create_child_ca()
    leaf = client_certificate(intermediate)
    assert len(leaf.cert_chain_pems) == 2

    async def check() -> None:
        async with serving(create_context(mutual(files, client_ca, "required"))) as server:
            await Client(files.ca, leaf).names(server.port)
            chain = server.extensions[0]["client_cert_chain"]
            assert [der(pem) for pem in chain] == [
                der(pem.bytes().decode()) for pem in leaf.cert_chain_pems
            ]

    run(check())


def test_a_known_client_is_verified_at_each_connection(
    run: Run[None], files: Files, client_ca: trustme.CA
) -> None:
    config = mutual(files, client_ca, "required", ssl_minimum_version="1.3")
    client = Client(files.ca, client_certificate(client_ca))

    async def check() -> None:
        async with serving(create_context(config)) as server:
            with await asyncio.to_thread(client.ask, server.port) as connection:
                assert connection.session is None or not connection.session.has_ticket

    run(check())


# Choice by name


SNI_CASES = [
    ("www.example.org", "exact"),
    ("WWW.Example.ORG", "exact"),
    ("api.example.org", "wildcard"),
    ("example.org", "default"),
    ("a.b.example.org", "default"),
    ("xn--bcher-kva.example", "idna"),
    ("bücher.example", "idna"),  # the client sends the A-label
    ("elsewhere.example", "default"),
    (None, "default"),
]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_certificate_fits_the_name_asked_for(
    run: Run[None], files: Files, version: ssl.TLSVersion
) -> None:
    pems = {kind: files.issue(f"{kind}.pem", f"{kind}.test") for _, kind in SNI_CASES}
    # One of another type of key, in two files.
    leaf = files.ca.issue_cert("exact.test", key_type=trustme.KeyType.RSA)
    exact_cert = files.write("exact.crt", b"".join(p.bytes() for p in leaf.cert_chain_pems))
    exact_key = files.write("exact.key", leaf.private_key_pem.bytes())
    config = config_for(
        pems["default"],
        ssl_sni_certs=(
            f"www.Example.org={exact_cert},{exact_key}",
            f"*.example.org={pems['wildcard']}",
            f"xn--bcher-kva.example={pems['idna']}",
        ),
    )
    client = Client(files.ca)
    client.context.maximum_version = version

    async def check() -> None:
        async with serving(create_context(config)) as server:
            for name, kind in SNI_CASES:
                assert await client.names(server.port, name) == {f"{kind}.test"}, name
                sent = server.extensions.pop()["server_cert"]
                source = exact_cert if kind == "exact" else pems[kind]
                assert sent in files.read(source), name

    run(check())


def test_a_name_given_twice_is_refused(files: Files) -> None:
    pem = files.issue("c.pem", "localhost")
    config = config_for(pem, ssl_sni_certs=(f"a.example={pem}", f"A.example={pem}"))
    with pytest.raises(TLSError, match=r"^ssl_sni_certs names a\.example twice$"):
        create_context(config)


# Faulty files


def encrypted_key(leaf: trustme.LeafCert, form: serialization.PrivateFormat) -> bytes:
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    return key.private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret")
    )


KEY_FORMS = {
    "pkcs8": serialization.PrivateFormat.PKCS8,
    "traditional": serialization.PrivateFormat.TraditionalOpenSSL,
}


@pytest.fixture
def protected(request: pytest.FixtureRequest, files: Files) -> tuple[str, str]:
    leaf = files.ca.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    certfile = files.write("c.crt", b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    return certfile, files.write("c.key", encrypted_key(leaf, KEY_FORMS[request.param]))


@pytest.mark.parametrize("protected", KEY_FORMS, indirect=True)
def test_an_encrypted_key_opens_with_its_password(
    run: Run[None], files: Files, protected: tuple[str, str]
) -> None:
    certfile, keyfile = protected
    config = config_for(certfile, ssl_keyfile=keyfile, ssl_keyfile_password="secret")

    async def check() -> None:
        async with serving(create_context(config)) as server:
            assert await Client(files.ca).names(server.port) == {"localhost"}

    run(check())


@pytest.mark.parametrize("protected", KEY_FORMS, indirect=True)
@pytest.mark.parametrize(
    ("password", "reason"),
    [
        (None, r"^private key {} is encrypted and ssl_keyfile_password is not set$"),
        ("wrong", r"^ssl_keyfile_password does not open private key {}$"),
        ("x" * 1025, r"^private key {} cannot be loaded: password cannot be longer than 1024 "),
    ],
)
def test_an_encrypted_key_never_asks_the_terminal(
    protected: tuple[str, str], password: str | None, reason: str
) -> None:
    certfile, keyfile = protected
    config = config_for(certfile, ssl_keyfile=keyfile, ssl_keyfile_password=password)
    with pytest.raises(TLSError, match=reason.format(keyfile)):
        create_context(config)


GARBAGE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no cert", "^certificate {dir}/gone cannot be read: No such file or directory$"),
        ("no key", "^private key {dir}/gone cannot be read: No such file or directory$"),
        ("cert is a directory", "^certificate {dir} cannot be read: Is a directory$"),
        ("cert is empty", "^{dir}/empty holds no usable certificate$"),
        ("cert is garbage", "^{dir}/garbage holds no usable certificate$"),
        ("key is garbage", "^{dir}/garbage holds no usable private key$"),
        ("key is missing from the one file", "^{dir}/c.crt holds no usable private key$"),
        ("key of another", "^private key {dir}/o.pem does not belong to certificate {dir}/c.crt$"),
        ("no CA", "^CA file {dir}/gone cannot be read: No such file or directory$"),
        ("CA is garbage", "^CA file {dir}/garbage holds no usable certificate$"),
        ("SNI cert is garbage", "^{dir}/garbage holds no usable certificate$"),
    ],
)
def test_a_faulty_file_is_named_in_one_line(files: Files, fault: str, reason: str) -> None:
    leaf = files.ca.issue_cert("localhost")
    cert = files.write("c.crt", b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    key = files.write("c.key", leaf.private_key_pem.bytes())
    other = files.issue("o.pem", "localhost")
    garbage, empty = files.write("garbage", GARBAGE), files.write("empty", b"")
    gone, directory = str(files.directory / "gone"), str(files.directory)
    faults: dict[str, tuple[str, str | None, dict[str, Any]]] = {
        "no cert": (gone, key, {}),
        "no key": (cert, gone, {}),
        "cert is a directory": (directory, key, {}),
        "cert is empty": (empty, key, {}),
        "cert is garbage": (garbage, key, {}),
        "key is garbage": (cert, garbage, {}),
        "key is missing from the one file": (cert, None, {}),
        "key of another": (cert, other, {}),
        "no CA": (cert, key, {"ssl_ca_certs": gone, "ssl_cert_reqs": "required"}),
        "CA is garbage": (cert, key, {"ssl_ca_certs": garbage, "ssl_cert_reqs": "required"}),
        "SNI cert is garbage": (cert, key, {"ssl_sni_certs": (f"a.example={garbage}",)}),
    }
    certfile, keyfile, options = faults[fault]
    with pytest.raises(TLSError, match=reason.format(dir=directory)) as caught:
        create_context(config_for(certfile, ssl_keyfile=keyfile, **options))
    assert "\n" not in str(caught.value)


# Renewal


def test_nothing_is_loaded_when_nothing_changed(files: Files) -> None:
    config = config_for(files.issue("c.pem", "localhost"))
    refresher = CertificateRefresher(config, create_context(config))
    assert refresher.check() is False


@pytest.mark.parametrize("new_key_type", list(trustme.KeyType))
def test_a_renewed_certificate_serves_new_connections_and_leaves_the_old(
    run: Run[None], files: Files, new_key_type: trustme.KeyType
) -> None:
    config = config_for(
        files.issue("c.pem", "old.test"),
        ssl_sni_certs=(f"www.example.org={files.issue('sni.pem', 'old-sni.test')}",),
    )
    context = create_context(config)
    refresher = CertificateRefresher(config, context)
    # It takes either key, so a stale certificate of the other kind would be found out.
    client = Client(files.ca)

    async def check() -> None:
        async with serving(context) as server:
            assert await client.names(server.port) == {"old.test"}
            with await asyncio.to_thread(client.ask, server.port) as established:
                files.issue("c.pem", "new.test", key_type=new_key_type)
                files.issue("sni.pem", "new-sni.test", key_type=new_key_type)
                assert refresher.check() is True
                assert refresher.check() is False
                await asyncio.to_thread(exchange, established)
            for prefer in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
                picky = Client(files.ca)
                picky.context.maximum_version = ssl.TLSVersion.TLSv1_2
                picky.context.set_ciphers(prefer)
                if new_key_type.name in prefer:
                    assert await picky.names(server.port) == {"new.test"}
                else:
                    with pytest.raises(REFUSED):
                        await picky.names(server.port)
            assert await client.names(server.port) == {"new.test"}
            assert await client.names(server.port, "www.example.org") == {"new-sni.test"}
            assert server.extensions[-1]["server_cert"] in files.read("sni.pem")

    run(check())


def test_a_certificate_behind_a_link_is_renewed_when_the_link_moves(files: Files) -> None:
    """Kubernetes mounts secrets through a link to a directory, and swaps the link."""
    for version, name in (("1", "old.test"), ("2", "new.test")):
        (files.directory / version).mkdir()
        files.issue(f"{version}/tls.pem", name)
    current = files.directory / "current"
    current.symlink_to("1")
    config = config_for(str(current / "tls.pem"))
    refresher = CertificateRefresher(config, create_context(config))
    (files.directory / "next").symlink_to("2")
    os.replace(files.directory / "next", current)
    assert refresher.check() is True


def test_a_withdrawn_ca_lets_nobody_in_any_more(
    run: Run[None], files: Files, client_ca: trustme.CA
) -> None:
    config = mutual(files, client_ca, "required")
    context = create_context(config)
    refresher = CertificateRefresher(config, context)
    new_ca = trustme.CA()
    old_client = Client(files.ca, client_certificate(client_ca))
    new_client = Client(files.ca, client_certificate(new_ca))

    async def check() -> None:
        async with serving(context) as server:
            await old_client.names(server.port)
            files.write("clients.pem", new_ca.cert_pem.bytes())
            assert refresher.check() is True
            await new_client.names(server.port)
            with pytest.raises(REFUSED):
                await old_client.names(server.port)

    run(check())


def test_a_broken_pair_keeps_the_old_until_it_is_mended(
    run: Run[None], files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    leaf = files.ca.issue_cert("old.test")
    config = config_for(
        files.write("c.crt", b"".join(pem.bytes() for pem in leaf.cert_chain_pems)),
        ssl_keyfile=files.write("c.key", leaf.private_key_pem.bytes()),
    )
    context = create_context(config)
    refresher = CertificateRefresher(config, context)
    renewed = files.ca.issue_cert("new.test")
    client = Client(files.ca)

    async def check() -> None:
        async with serving(context) as server:
            # Half way: the certificate is the new one, the key is still the old one.
            files.write("c.crt", b"".join(pem.bytes() for pem in renewed.cert_chain_pems))
            with caplog.at_level(logging.INFO, "pounce.error"):
                assert refresher.check() is False
                assert refresher.check() is False
            [record] = caplog.records
            assert record.levelno == logging.ERROR
            assert "does not belong to certificate" in record.getMessage()
            assert await client.names(server.port) == {"old.test"}

            os.unlink(files.directory / "c.key")
            assert refresher.check() is False
            assert await client.names(server.port) == {"old.test"}

            files.write("c.key", renewed.private_key_pem.bytes())
            assert refresher.check() is True
            assert await client.names(server.port) == {"new.test"}

    run(check())


def test_a_context_from_elsewhere_cannot_be_refreshed(files: Files) -> None:
    with pytest.raises(TypeError):
        CertificateRefresher(
            config_for(files.issue("c.pem", "localhost")), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        )


# What the application is told


def test_the_extension_has_the_keys_of_the_specification(run: Run[None], files: Files) -> None:
    async def check() -> None:
        certfile = files.issue("c.pem", "localhost")
        async with serving(create_context(config_for(certfile))) as server:
            with await asyncio.to_thread(Client(files.ca).ask, server.port) as connection:
                [told] = server.extensions
                sent = connection.getpeercert(binary_form=True)
        assert der(told.pop("server_cert")) == sent
        assert told.pop("cipher_suite") in {0x1301, 0x1302, 0x1303}  # RFC 8446 appendix B.4
        assert told == {
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": 0x0304,
        }

    run(check())


def test_a_context_from_elsewhere_tells_what_it_can(run: Run[None], files: Files) -> None:
    async def check() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.issue("c.pem", "localhost"))
        async with serving(context) as server:
            await Client(files.ca).names(server.port)
        [told] = server.extensions
        assert told["server_cert"] is None
        assert told["cipher_suite"] in {0x1301, 0x1302, 0x1303}

    run(check())


ATTRIBUTES = {
    "commonName": NameOID.COMMON_NAME,
    "localityName": NameOID.LOCALITY_NAME,
    "stateOrProvinceName": NameOID.STATE_OR_PROVINCE_NAME,
    "organizationName": NameOID.ORGANIZATION_NAME,
    "organizationalUnitName": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "streetAddress": NameOID.STREET_ADDRESS,
    "domainComponent": NameOID.DOMAIN_COMPONENT,
    "userId": NameOID.USER_ID,
}
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
PARTS = st.lists(
    st.tuples(st.sampled_from(sorted(ATTRIBUTES)), VALUES),
    min_size=1,
    max_size=3,
    unique_by=lambda pair: pair[0],
)


@given(st.lists(PARTS, min_size=1, max_size=5))
def test_a_name_reads_back_as_it_was_written(parts: list[list[tuple[str, str]]]) -> None:
    written = distinguished_name(tuple(tuple(part) for part in parts))
    assert not any(c < " " for c in written)
    expected = x509.Name(
        [
            x509.RelativeDistinguishedName(
                [x509.NameAttribute(ATTRIBUTES[name], value) for name, value in part]
            )
            for part in parts
        ]
    )
    assert x509.Name.from_rfc4514_string(written) == expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ((), ""),
        # The examples of RFC 4514 section 4.
        (
            (
                (("domainComponent", "net"),),
                (("domainComponent", "example"),),
                (("userId", "jsmith"),),
            ),
            "UID=jsmith,DC=example,DC=net",
        ),
        (
            (
                (("domainComponent", "net"),),
                (("domainComponent", "example"),),
                (("organizationalUnitName", "Sales"), ("commonName", "J.  Smith")),
            ),
            "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        ),
        (
            ((("domainComponent", "net"),), (("commonName", 'James "Jim" Smith, III'),)),
            'CN=James \\"Jim\\" Smith\\, III,DC=net',
        ),
        (((("commonName", "Before\rAfter"),),), "CN=Before\\0dAfter"),
        (((("commonName", " # "),),), "CN=\\ #\\ "),
        (((("commonName", "#1"),),), "CN=\\#1"),
        (((("emailAddress", "a@b.example"),),), "emailAddress=a@b.example"),
        (((("1.3.6.1.4.1.1466.0", "x"),),), "1.3.6.1.4.1.1466.0=x"),
    ],
)
def test_names_are_written_as_rfc_4514_shows(subject: Any, expected: str) -> None:
    assert distinguished_name(subject) == expected
