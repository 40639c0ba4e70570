"""A client on the `h2` library, joined to an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame

from pounce.protocol.h2.interface import Engine, Engines, Event, H2Limits
from pounce.protocol.h2.library import LibraryEngines
from pounce.protocol.h2.native import NativeEngines

MakeEngines = Callable[[H2Limits], Engines]

ENGINES: dict[str, MakeEngines] = {"h2": LibraryEngines, "native": NativeEngines}
"""What each option of `http2_engine` makes."""

GET = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/"),
    (b":authority", b"example.org"),
]
POST = [(b":method", b"POST"), *GET[1:]]


class Peer:
    """Both ends of a connection; what they send is passed on when the test says so."""

    def __init__(self, engine: Engine, **client_settings: int) -> None:
        self.engine = engine
        self.now = 0.0
        self.frames: list[Frame] = []
        """All that the engine has sent."""
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.client = h2.connection.H2Connection(config)
        self.client.local_settings.enable_push = 0
        for name, value in client_settings.items():
            setattr(self.client.local_settings, name, value)
        self.client.local_settings.acknowledge()
        self.client.initiate_connection()
        self.client_events: list[h2.events.Event] = []
        self.pass_on()

    def pass_on(self) -> list[Event]:
        """What the client has to send to the engine, and back, until neither has any more."""
        events: list[Event] = []
        while True:
            data = self.client.data_to_send()
            if data:
                events += self.engine.receive(data, self.now)
            answer = self.engine.output(1 << 20)
            if answer:
                self.frames += parse_frames(answer)
                self.client_events += self.client.receive_data(answer)
            if not data and not answer:
                return events

    def feed(self, data: bytes) -> list[Event]:
        """Raw bytes to the engine; the client learns of the answer."""
        events = list(self.engine.receive(data, self.now))
        return events + self.pass_on()

    def request(
        self, fields: Sequence[tuple[bytes, bytes]] = GET, body: bytes | None = None
    ) -> tuple[int, list[Event]]:
        """A request with its whole body; its stream, and what the engine says."""
        stream_id = self.client.get_next_available_stream_id()
        self.client.send_headers(stream_id, list(fields), end_stream=body is None)
        if body is not None:
            self.client.send_data(stream_id, body, end_stream=True)
        return stream_id, self.pass_on()

    def heard(self, kind: type[Any], stream_id: int | None = None) -> list[Any]:
        """What the client was told of a kind."""
        return [
            event
            for event in self.client_events
            if isinstance(event, kind)
            and (stream_id is None or getattr(event, "stream_id", None) == stream_id)
        ]

    def content(self, stream_id: int) -> bytes:
        """What the client got of a response."""
        parts = self.heard(h2.events.DataReceived, stream_id)
        return b"".join(part.data for part in parts)

    def sent(self, kind: type[Frame]) -> list[Any]:
        """The frames of a kind that the engine has sent."""
        return [frame for frame in self.frames if isinstance(frame, kind)]


def parse_frames(data: bytes) -> list[Frame]:
    """Whole frames."""
    frames = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames
