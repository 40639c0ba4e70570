"""A client of plain frames: it does what it is told, also what no good client does, and takes
notes of what it gets. Responses go on after a GOAWAY, as RFC 9113 section 6.8 has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST = 16384

Fields = Sequence[tuple[bytes, bytes]]


@dataclass
class Stream:
    """What came back on a stream."""

    status: int = 0
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    informational: list[tuple[int, list[tuple[bytes, bytes]]]] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    def field(self, name: bytes) -> bytes | None:
        """The value of a field of the response."""
        return dict(self.fields).get(name)

    @property
    def complete(self) -> bool:
        return self.ended and self.reset in (None, 0)


class RawClient:
    """Bytes to send in `out`; what is received goes to `receive`.

    Args:
        window: SETTINGS_INITIAL_WINDOW_SIZE; it is not renewed by itself.
        greets: Whether it begins as it should.
    """

    def __init__(self, *, window: int = 2**31 - 1, greets: bool = True) -> None:
        self.out = bytearray()
        self.streams: dict[int, Stream] = {}
        self.frames: list[Frame] = []
        self.next_id = 1
        self.acks_pings = True
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._buffer = b""
        if greets:
            self.out += PREFACE
            self.send(SettingsFrame(0, settings={4: window, 2: 0}))
            self.send(WindowUpdateFrame(0, window_increment=2**31 - 1 - 65535))

    def send(self, frame: Frame) -> None:
        """Puts a frame into `out`."""
        self.out += frame.serialize()

    def take(self) -> bytes:
        """What is to be sent."""
        data = bytes(self.out)
        self.out.clear()
        return data

    def request(
        self,
        path: bytes = b"/",
        fields: Fields = (),
        *,
        method: bytes = b"GET",
        body: bytes | None = None,
        ended: bool = True,
        protocol: bytes | None = None,
    ) -> int:
        """A request; `ended` says whether its body, or the lack of one, is all of it.
        `protocol` makes it an extended CONNECT (RFC 8441)."""
        stream_id, self.next_id = self.next_id, self.next_id + 2
        head = HeadersFrame(stream_id, flags={"END_HEADERS"})
        pseudo = [
            (b":method", method),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"example.org"),
        ]
        if protocol is not None:
            pseudo.append((b":protocol", protocol))
        head.data = self._encoder.encode([*pseudo, *fields])
        if body is None and ended:
            head.flags.add("END_STREAM")
        self.send(head)
        self.streams[stream_id] = Stream()
        if body is not None:
            self.data(stream_id, body, ended=ended)
        return stream_id

    def data(self, stream_id: int, body: bytes, *, ended: bool = False) -> None:
        """Content, whatever the server's windows say."""
        parts = [body[at : at + MOST] for at in range(0, len(body), MOST)] or [b""]
        for index, part in enumerate(parts):
            frame = DataFrame(stream_id, data=part)
            if ended and index == len(parts) - 1:
                frame.flags.add("END_STREAM")
            self.send(frame)

    def reset(self, stream_id: int, code: int = 8) -> None:
        self.send(RstStreamFrame(stream_id, error_code=code))

    def open_window(self, stream_id: int, size: int) -> None:
        self.send(WindowUpdateFrame(stream_id, window_increment=size))

    def receive(self, data: bytes) -> None:
        """Takes what the server has sent, in pieces of any size."""
        self._buffer += data
        while len(self._buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
            if len(self._buffer) < 9 + length:
                break
            frame.parse_body(memoryview(self._buffer[9 : 9 + length]))
            self._buffer = self._buffer[9 + length :]
            self.frames.append(frame)
            self._receive_frame(frame)

    def _receive_frame(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(0, flags={"ACK"}))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.acks_pings:
            self.send(PingFrame(0, opaque_data=frame.opaque_data, flags={"ACK"}))
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return
        if isinstance(frame, HeadersFrame):
            assert "END_HEADERS" in frame.flags
            fields = [(bytes(n), bytes(v)) for n, v in self._decoder.decode(frame.data, raw=True)]
            if fields[0][0] != b":status":
                stream.trailers = fields
            elif fields[0][1].startswith(b"1"):
                stream.informational.append((int(fields[0][1]), fields[1:]))
            else:
                assert not stream.status, "two heads"
                stream.status, stream.fields = int(fields[0][1]), fields[1:]
        elif isinstance(frame, DataFrame):
            assert stream.status, "content before the head"
            stream.body += frame.data
        elif isinstance(frame, RstStreamFrame):
            stream.reset = frame.error_code
        if "END_STREAM" in frame.flags:
            assert not stream.ended, "ended twice"
            stream.ended = True

    @property
    def goodbyes(self) -> list[tuple[int, int]]:
        """The last stream and the code of each GOAWAY."""
        return [(f.last_stream_id, f.error_code) for f in self.frames if isinstance(f, GoAwayFrame)]
