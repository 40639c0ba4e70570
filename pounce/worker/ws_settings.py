"""What the configuration says of WebSockets, ready for use."""

from __future__ import annotations

from typing import NamedTuple

from pounce.config import ServerConfig
from pounce.protocol.ws.deflate import DeflateSettings


class WebSocketSettings(NamedTuple):
    """Sizes in bytes, times in seconds; 0 where there is no limit."""

    max_size: int
    max_frame: int
    max_queue: int
    ping_interval: float
    ping_timeout: float
    open_timeout: float
    idle_timeout: float
    close_timeout: float
    deflate: DeflateSettings | None

    @classmethod
    def of(cls, config: ServerConfig) -> WebSocketSettings | None:
        """None where WebSockets are not served."""
        if not config.serves_websockets:
            return None
        deflate = None
        if config.ws_per_message_deflate:
            deflate = DeflateSettings(config.ws_deflate_window_bits, config.ws_deflate_takeover)
        return cls(
            max_size=config.ws_max_size,
            max_frame=config.ws_max_frame_size,
            max_queue=config.ws_max_queue,
            ping_interval=config.ws_ping_interval or 0.0,
            ping_timeout=config.ws_ping_timeout or 0.0,
            open_timeout=config.ws_open_timeout,
            idle_timeout=config.ws_idle_timeout,
            close_timeout=config.ws_close_timeout,
            deflate=deflate,
        )

    def periods(self) -> list[float]:
        """The times that a sweep has to keep."""
        return [
            seconds
            for seconds in (
                self.ping_interval,
                self.ping_timeout,
                self.idle_timeout,
                self.close_timeout,
            )
            if seconds
        ]
