"""What the configuration says of HTTP/2, ready for use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pounce.config import ServerConfig
from pounce.protocol.h2.interface import Engines, H2Limits
from pounce.worker.ws_settings import WebSocketSettings

if TYPE_CHECKING:
    import ssl

_EPHEMERAL = ("ECDHE", "DHE")
_AUTHENTICATED = ("GCM", "CCM", "POLY1305")


def make_engines(config: ServerConfig) -> Engines | None:
    """The engines of a worker; None where HTTP/2 is not served."""
    if not (config.offers_http2 or config.http2_cleartext):
        return None
    # Imported where they are used, as they need packages that may not be there.
    if config.http2_engine == "h2":
        from pounce.protocol.h2.library import LibraryEngines

        return LibraryEngines(h2_limits(config))
    from pounce.protocol.h2.native import NativeEngines

    return NativeEngines(h2_limits(config))


def h2_limits(config: ServerConfig) -> H2Limits:
    """What a client may do."""
    return H2Limits(
        concurrent_streams=config.http2_max_concurrent_streams,
        header_list_size=config.http2_max_header_list_size,
        header_fields=config.limit_request_fields,
        target_size=config.limit_request_line,
        header_table_size=config.http2_header_table_size,
        stream_window=config.http2_stream_window,
        connection_window=config.http2_connection_window,
        frame_size=config.http2_max_frame_size,
        body_size=config.limit_request_body,
        rate_window=config.http2_rate_window,
        resets=config.http2_max_resets,
        control_frames=config.http2_max_control_frames,
        empty_frames=config.http2_max_empty_frames,
        continuation_frames=config.http2_max_continuations,
        extended_connect=WebSocketSettings.of(config) is not None,
    )


def is_adequate(connection: ssl.SSLObject | ssl.SSLSocket | None) -> bool:
    """Whether TLS is as RFC 9113 section 9.2 wants it for HTTP/2: a suite of TLS 1.2 that is on the
    list of appendix A lacks an ephemeral key exchange or authenticated encryption."""
    if connection is None or connection.version() == "TLSv1.3":
        return True
    cipher = connection.cipher()
    if cipher is None:
        return True
    name = cipher[0]
    return name.startswith(_EPHEMERAL) and any(part in name for part in _AUTHENTICATED)
