"""What the options of HTTP/2 become."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import pytest

from pounce.config import ServerConfig
from pounce.protocol.h2.interface import H2Limits
from pounce.protocol.h2.library import LibraryEngines
from pounce.protocol.h2.native import NativeEngines
from pounce.worker.h2_settings import h2_limits, is_adequate, make_engines


def test_the_limits_are_those_of_the_options() -> None:
    config = ServerConfig(
        http2_max_concurrent_streams=1,
        http2_max_header_list_size=2,
        limit_request_fields=3,
        limit_request_line=4,
        http2_header_table_size=5,
        http2_stream_window=6,
        http2_connection_window=70000,
        http2_max_frame_size=20000,
        limit_request_body=9,
        http2_rate_window=10,
        http2_max_resets=11,
        http2_max_control_frames=12,
        http2_max_empty_frames=13,
        http2_max_continuations=14,
        ws="none",
    )
    assert h2_limits(config) == H2Limits(
        concurrent_streams=1,
        header_list_size=2,
        header_fields=3,
        target_size=4,
        header_table_size=5,
        stream_window=6,
        connection_window=70000,
        frame_size=20000,
        body_size=9,
        rate_window=10.0,
        resets=11,
        control_frames=12,
        empty_frames=13,
        continuation_frames=14,
        extended_connect=False,
    )


def test_the_defaults_of_options_and_engines_agree() -> None:
    ours = h2_limits(ServerConfig(ws="none", limit_request_body=0))
    for field in fields(H2Limits):
        assert getattr(ours, field.name) == getattr(H2Limits(), field.name), field.name


def test_websockets_are_offered_where_they_are_served() -> None:
    assert h2_limits(ServerConfig()).extended_connect


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, type(None)),
        ({"http2_cleartext": True}, NativeEngines),
        ({"ssl_certfile": "cert.pem"}, NativeEngines),
        ({"ssl_certfile": "cert.pem", "http2": False}, type(None)),
        ({"http2_cleartext": True, "http2_engine": "h2"}, LibraryEngines),
    ],
)
def test_the_engines(options: dict[str, Any], kind: type) -> None:
    assert type(make_engines(ServerConfig(**options))) is kind


class Tls:
    """What is asked of a TLS connection."""

    def __init__(self, version: str, cipher: str) -> None:
        self._version, self._cipher = version, cipher

    def version(self) -> str:
        return self._version

    def cipher(self) -> tuple[str, str, int]:
        return self._cipher, self._version, 128


@pytest.mark.parametrize(
    ("version", "cipher", "adequate"),
    [
        ("TLSv1.3", "TLS_AES_128_GCM_SHA256", True),
        ("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", True),
        ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", True),
        ("TLSv1.2", "DHE-RSA-AES256-CCM8", True),
        ("TLSv1.2", "ECDHE-RSA-AES128-SHA", False),
        ("TLSv1.2", "AES128-GCM-SHA256", False),
    ],
)
def test_cipher_suites(version: str, cipher: str, adequate: bool) -> None:
    assert is_adequate(cast(Any, Tls(version, cipher))) is adequate
