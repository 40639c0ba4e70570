"""TLS: contexts, certificates chosen by name, their renewal, and what the application is told.

A server certificate and its settings are one immutable `_CertificateContext`. The context that
listens holds none: for each handshake it hands over to the one that fits the name the client asks
for (SNI, RFC 6066 section 3). Renewal therefore replaces all certificates in one assignment, also
when the type of key changes or a CA is withdrawn, which OpenSSL cannot undo in a context once
loaded. Connections keep the context that they began with.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from pounce.errors import TLSError

if TYPE_CHECKING:
    from pounce.config import ServerConfig

logger = logging.getLogger("pounce.error")

# Mozilla's "intermediate" list of server-side TLS, without finite-field Diffie-Hellman, which
# costs the server much and needs parameters. TLS 1.3 has its own suites, all of them good.
DEFAULT_CIPHERS = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    )
)


_MINIMUM_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY_MODES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
# ProtocolVersion of RFC 8446 section 4.2.1.
_VERSION_NUMBERS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

# The subject of a certificate as `getpeercert` gives it: parts of (name, value) pairs.
_Name: TypeAlias = tuple[tuple[tuple[str, str], ...], ...]

# What tells that a file is another one or was written to; None when it is not there.
_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    """The files of a certificate chain and its key, which may be one."""

    certfile: str
    keyfile: str


class _CertificateContext(ssl.SSLContext):
    """One certificate with the server's settings."""

    leaf: str | None
    cipher_suites: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Certificates:
    """All certificates as loaded at one moment."""

    default: _CertificateContext
    by_name: Mapping[str, _CertificateContext]
    signature: _Signature

    def choose(self, server_name: str | None) -> _CertificateContext:
        """The exact name first, then the wildcard one label up, then the default.

        A wildcard stands for exactly one label (RFC 9525 section 6.3). Names compare without
        case; clients send the A-label form.
        """
        if server_name is None or not self.by_name:
            return self.default
        name = server_name.lower().removesuffix(".")
        exact = self.by_name.get(name)
        if exact is not None:
            return exact
        return self.by_name.get("*." + name.partition(".")[2], self.default)


class _ServerContext(ssl.SSLContext):
    """The context that listens."""

    certificates: _Certificates


def create_context(config: ServerConfig) -> ssl.SSLContext:
    """The TLS server context that `config` describes.

    TLS 1.2 or 1.3, ciphers with forward secrecy and authenticated encryption, no compression, no
    renegotiation, ALPN for HTTP/2 and HTTP/1.1. `ssl_ciphers` rules TLS 1.2 only.

    Raises `TLSError`, one line that names the file or the setting.
    """
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    _configure(context, config)
    context.certificates = _load_certificates(config)
    context.sni_callback = _hand_over
    return context


class CertificateRefresher:
    """Puts changed certificate, key and CA files into use without a restart.

    A new pair is loaded completely before it replaces anything. One that is broken, or half
    written, is logged once and the old certificates stay until the files change again.
    """

    def __init__(self, config: ServerConfig, context: ssl.SSLContext) -> None:
        if not isinstance(context, _ServerContext):
            raise TypeError("context must come from create_context")
        self._config = config
        self._context = context
        self._seen = context.certificates.signature

    def check(self) -> bool:
        """Whether new files were put into use. Costs one stat for each file when nothing changed.

        Loading takes milliseconds for each certificate and may be done in another thread.
        """
        signature = _signature(self._config)
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            certificates = _load_certificates(self._config)
        except TLSError as error:
            logger.error("Certificates changed but cannot be used, the old ones stay: %s", error)
            return False
        self._seen = certificates.signature
        self._context.certificates = certificates
        logger.info("Certificates changed, new connections get the new ones")
        return True


def _hand_over(
    connection: ssl.SSLObject | ssl.SSLSocket,
    server_name: str | None,
    context: ssl.SSLContext,
) -> None:
    assert isinstance(context, _ServerContext)
    connection.context = context.certificates.choose(server_name)


# Loading


def _configure(context: ssl.SSLContext, config: ServerConfig) -> None:
    """Every setting but the certificate.

    OpenSSL takes some from the context that listens and some from the one handed over to, so both
    are set alike.
    """
    context.minimum_version = _MINIMUM_VERSIONS[config.ssl_minimum_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # All suites are strong, so the client may prefer what its hardware is good at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        context.set_ciphers(config.ssl_ciphers or DEFAULT_CIPHERS)
    except ssl.SSLError as error:
        raise TLSError(f"ssl_ciphers {config.ssl_ciphers!r} names no usable cipher") from error
    # The server's order decides where a client takes both (RFC 7301 section 3.2).
    context.set_alpn_protocols(["h2", "http/1.1"] if config.offers_http2 else ["http/1.1"])
    context.verify_mode = _VERIFY_MODES[config.ssl_cert_reqs]
    if context.verify_mode != ssl.CERT_NONE:
        # A ticket would let a client back in whose certificate has expired or lost its CA. This
        # is TLS 1.3's; in TLS 1.2 a session may still be resumed while its ticket lives.
        context.num_tickets = 0
    if config.ssl_ca_certs is not None:
        _load_ca(context, config.ssl_ca_certs)


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TLSError(f"CA file {path} holds no usable certificate") from error
    except OSError as error:
        raise TLSError(f"CA file {path} cannot be read: {error.strerror}") from error


def _load_certificates(config: ServerConfig) -> _Certificates:
    # Taken first: a file that changes while it is read is then seen as changed at the next check.
    signature = _signature(config)
    default, named = _pairs(config)
    return _Certificates(
        default=_load_pair(default, config),
        by_name={name: _load_pair(pair, config) for name, pair in named.items()},
        signature=signature,
    )


def _pairs(config: ServerConfig) -> tuple[_Pair, dict[str, _Pair]]:
    """The default pair and those for a name."""
    if config.ssl_certfile is None:
        raise TLSError("ssl_certfile is not set")
    named: dict[str, _Pair] = {}
    for entry in config.ssl_sni_certs:  # hostname=certfile[,keyfile]; ServerConfig has checked it
        name, _, files = entry.partition("=")
        certfile, _, keyfile = files.partition(",")
        if name in named:
            raise TLSError(f"ssl_sni_certs names {name} twice")
        named[name] = _Pair(certfile, keyfile or certfile)
    return _Pair(config.ssl_certfile, config.ssl_keyfile or config.ssl_certfile), named


def _load_pair(pair: _Pair, config: ServerConfig) -> _CertificateContext:
    context = _CertificateContext(ssl.PROTOCOL_TLS_SERVER)
    _configure(context, config)
    pem = _CERTIFICATE.search(_read(pair.certfile, "certificate"))
    _read(pair.keyfile, "private key")
    password = _Password(config.ssl_keyfile_password, pair.keyfile)
    try:
        context.load_cert_chain(pair.certfile, pair.keyfile, password=password)
    except ssl.SSLError as error:
        raise TLSError(_reason(error, pair, password)) from error
    except (OSError, ValueError) as error:  # ValueError: a password of more than 1,024 bytes
        raise TLSError(f"private key {pair.keyfile} cannot be loaded: {error}") from error
    context.leaf = (
        None if pem is None else ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(pem[0]))
    )
    context.cipher_suites = _cipher_suites(context)
    return context


def _read(path: str, what: str) -> str:
    """The text of a file. OpenSSL's own errors do not say which file they are about."""
    try:
        return Path(path).read_text("ascii", errors="replace")
    except OSError as error:
        raise TLSError(f"{what} {path} cannot be read: {error.strerror}") from error


class _Password:
    """Answers OpenSSL's question for a password, which it would else put to the terminal."""

    def __init__(self, password: str | None, keyfile: str) -> None:
        self._password = password
        self._keyfile = keyfile
        self.asked = False

    def __call__(self) -> str:
        self.asked = True
        if self._password is None:
            raise TLSError(
                f"private key {self._keyfile} is encrypted and ssl_keyfile_password is not set"
            )
        return self._password


def _reason(error: ssl.SSLError, pair: _Pair, password: _Password) -> str:
    """OpenSSL mostly says "PEM lib", so what is wrong is found out by trying."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"private key {pair.keyfile} does not belong to certificate {pair.certfile}"
    if error.reason is not None:
        reason = error.reason.lower().replace("_", " ")
        return f"certificate {pair.certfile} with key {pair.keyfile} is refused: {reason}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=pair.certfile)
    except (ssl.SSLError, OSError):
        return f"{pair.certfile} holds no usable certificate"
    if password.asked:
        return f"ssl_keyfile_password does not open private key {pair.keyfile}"
    return f"{pair.keyfile} holds no usable private key"


def _signature(config: ServerConfig) -> _Signature:
    default, named = _pairs(config)
    paths = {path for pair in (default, *named.values()) for path in (pair.certfile, pair.keyfile)}
    if config.ssl_ca_certs is not None:
        paths.add(config.ssl_ca_certs)
    return tuple(_file_signature(path) for path in sorted(paths))


def _file_signature(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)  # follows links: Kubernetes swaps the directory behind one
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,  # a file made readable changes nothing else
    )


# What the application is told


def tls_extension(connection: ssl.SSLObject | ssl.SSLSocket) -> dict[str, Any]:
    """The value of `scope["extensions"]["tls"]` (ASGI TLS extension, version 0.2).

    For a connection whose handshake is complete. `client_cert_error` is always None: a client
    whose certificate does not verify gets no connection.
    """
    context = connection.context
    if isinstance(context, _CertificateContext):
        leaf, suites = context.leaf, context.cipher_suites
    else:
        leaf, suites = None, _cipher_suites(context)
    cipher = connection.cipher()
    subject = cast("_Name | None", (connection.getpeercert() or {}).get("subject"))
    return {
        "server_cert": leaf,
        "client_cert_chain": [] if subject is None else _client_chain(connection),
        "client_cert_name": None if subject is None else distinguished_name(subject),
        "client_cert_error": None,
        "tls_version": _VERSION_NUMBERS.get(connection.version() or ""),
        "cipher_suite": None if cipher is None else suites.get(cipher[0]),
    }


def _cipher_suites(context: ssl.SSLContext) -> dict[str, int]:
    """OpenSSL's name of each suite and its number in the registry of IANA."""
    # The upper half of OpenSSL's number is its own mark.
    return {str(suite["name"]): int(suite["id"]) & 0xFFFF for suite in context.get_ciphers()}


def _client_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> list[str]:
    """What the client sent, in PEM, its own certificate first."""
    # Public from Python 3.13 on, and there in DER; before it is on the inner object.
    read_chain = getattr(connection, "get_unverified_chain", None)
    if read_chain is not None:
        return [ssl.DER_cert_to_PEM_cert(der) for der in read_chain()]
    chain = connection._sslobj.get_unverified_chain()  # type: ignore[union-attr]
    return [certificate.public_bytes() for certificate in chain or ()]


# The short names of RFC 4514 section 3 and RFC 4519, by the name that OpenSSL gives the attribute,
# and the one that everyone knows although it is not an LDAP attribute.
_ATTRIBUTE_NAMES = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
    "surname": "sn",
}
# Control characters need no escape but NUL; with one, a name cannot forge a line of a log.
_ESCAPED = str.maketrans(
    {c: "\\" + c for c in '\\"+,;<>'} | {chr(c): f"\\{c:02x}" for c in (*range(0x20), 0x7F)}
)


def distinguished_name(subject: _Name) -> str:
    """`subject` of `SSLSocket.getpeercert` as RFC 4514 writes it: the most specific part first.

    An attribute without a short name has the one that OpenSSL gives it, or its number.
    """
    return ",".join(
        "+".join(f"{_ATTRIBUTE_NAMES.get(name, name)}={_escape(value)}" for name, value in part)
        for part in reversed(subject)
    )


def _escape(value: str) -> str:
    """RFC 4514 section 2.4."""
    escaped = value.translate(_ESCAPED)
    if value.startswith(("#", " ")):
        escaped = "\\" + escaped
    if value.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
