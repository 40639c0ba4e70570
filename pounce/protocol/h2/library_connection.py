"""A connection of the `h2` library, set up so that the engine can do what the library does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from pounce.protocol.h2.interface import H2Limits
from pounce.protocol.h2.library_hpack import RememberingDecoder, RememberingEncoder

if TYPE_CHECKING:
    from h2.stream import H2Stream

GREATEST_STREAM_ID: Final = 2**31 - 1

NO_RFC7540_PRIORITIES: Final = 9
"""The number of that setting."""

SMALLEST_WINDOW: Final = 65535
"""What the window of a connection begins with; no setting changes it (RFC 9113 section 6.9.2)."""

DECODED_BEYOND: Final = 65536
"""Bytes of a header list beyond its limit that are decoded, so that 431 can be answered."""


class _Connection(H2Connection):
    """Leaves content-length to the engine, for which a wrong one is an error of the stream."""

    def _begin_new_stream(self, *args: Any, **kwargs: Any) -> H2Stream:
        stream: H2Stream = super()._begin_new_stream(*args, **kwargs)
        setattr(stream, "_initialize_content_length", _ignore)  # noqa: B010
        return stream


def _ignore(headers: object) -> None:
    pass


def greet(limits: H2Limits) -> _Connection:
    """A connection of the library that has sent its SETTINGS."""
    connection = _Connection(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    connection.encoder, connection.decoder = RememberingEncoder(), RememberingDecoder()
    settings: dict[Any, int] = {
        SettingCodes.HEADER_TABLE_SIZE: limits.header_table_size,
        SettingCodes.ENABLE_PUSH: 0,
        SettingCodes.MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
        SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window,
        SettingCodes.MAX_FRAME_SIZE: limits.frame_size,
        SettingCodes.MAX_HEADER_LIST_SIZE: limits.header_list_size,
        SettingCodes.ENABLE_CONNECT_PROTOCOL: int(limits.extended_connect),
        # RFC 9218 section 2.1: the priorities of RFC 7540 are not taken.
        NO_RFC7540_PRIORITIES: 1,
    }
    connection.local_settings = Settings(client=False, initial_values=settings)
    connection.initiate_connection()
    # The engine answers beyond these by itself; the library would end the connection.
    settings[SettingCodes.MAX_CONCURRENT_STREAMS] = GREATEST_STREAM_ID
    connection.local_settings = Settings(client=False, initial_values=settings)
    connection.max_inbound_frame_size = limits.frame_size
    connection.decoder.max_allowed_table_size = limits.header_table_size
    connection.decoder.max_header_list_size = limits.header_list_size + DECODED_BEYOND
    if limits.connection_window > SMALLEST_WINDOW:
        connection.increment_flow_control_window(limits.connection_window - SMALLEST_WINDOW)
    return connection
