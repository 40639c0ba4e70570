"""What an HTTP/2 engine is to the server (RFC 9113): bytes in, events out; responses in, bytes out.

An `Engines` object belongs to a worker and holds what its connections share, such as ready response
head blocks. It makes an `Engine` for each connection. An engine knows frames, header blocks, stream
states, both flow-control windows, priorities and what a peer may not do too often. It knows no
socket, no event loop and no clock: the time is an argument, the seconds of any monotonic clock.

What the server sends is queued for each stream as far as the peer's windows hold it back, and
leaves with `output`, the most urgent stream first (RFC 9218).

Broken rules of the peer are events, with the answer (RST_STREAM, GOAWAY) queued already. Calls for
a stream that is gone meanwhile do nothing: the application could not have known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from pounce.protocol.h1_head import Pair, RequestLine


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


@dataclass(frozen=True, slots=True)
class H2Limits:
    """What a peer may do. Sizes in bytes, times in seconds, rates per `rate_window`."""

    concurrent_streams: int = 128
    """SETTINGS_MAX_CONCURRENT_STREAMS; a stream beyond is refused with REFUSED_STREAM."""
    header_list_size: int = 65536
    """SETTINGS_MAX_HEADER_LIST_SIZE, as RFC 9113 section 6.5.2 counts it; beyond: 431."""
    header_fields: int = 100
    """Fields of a request; beyond: 431."""
    target_size: int = 8190
    """Bytes of :path; beyond: 414."""
    header_table_size: int = 4096
    """SETTINGS_HEADER_TABLE_SIZE of the decoder."""
    stream_window: int = 1024 * 1024
    """Receive window of a stream: SETTINGS_INITIAL_WINDOW_SIZE."""
    connection_window: int = 2 * 1024 * 1024
    """Receive window of the connection."""
    frame_size: int = 16384
    """SETTINGS_MAX_FRAME_SIZE."""
    body_size: int = 0
    """Largest request body by content-length; 0: no limit. The server counts what arrives."""
    rate_window: float = 10.0
    resets: int = 200
    """Streams that may end by RST_STREAM before their response is complete, of either side where
    the peer provoked it (rapid reset, CVE-2023-44487); beyond: GOAWAY with ENHANCE_YOUR_CALM."""
    control_frames: int = 1000
    """PING and SETTINGS, which ask for an answer, and PRIORITY_UPDATE and unknown ones. Also the
    WINDOW_UPDATE frames of a whole connection beyond those that answer what was sent to it."""
    empty_frames: int = 1000
    """DATA without content that do not end a stream."""
    continuation_frames: int = 16
    """Of one header block."""
    send_high_water: int = 65536
    """Queued bytes of a stream from which on `send_data` returns False."""
    extended_connect: bool = False
    """Whether to offer RFC 8441."""


class RequestHead:
    """The head of a request, checked (RFC 9113 section 8). Immutable but for `template`, and shared
    by all requests with the same header block on a connection."""

    __slots__ = (
        "content_length",
        "expect_continue",
        "forwarded",
        "incremental",
        "line",
        "pairs",
        "protocol",
        "scheme",
        "takes_trailers",
        "template",
        "urgency",
    )

    def __init__(self, line: RequestLine, pairs: tuple[Pair, ...], scheme: str) -> None:
        self.line = line
        """Method, :path and authority, http_version "2". The target of CONNECT is :authority."""
        self.pairs = pairs
        """The fields as ASGI wants them: lower case, no pseudo-fields, `host` first (from
        :authority, where there is one), cookie crumbs joined (RFC 9113 section 8.2.3)."""
        self.scheme = scheme
        self.content_length = -1
        """-1: not given."""
        self.expect_continue = False
        self.takes_trailers = False
        """TE: trailers."""
        self.forwarded = False
        """Whether there is an X-Forwarded-For or X-Forwarded-Proto."""
        self.protocol: str | None = None
        """:protocol of an extended CONNECT (RFC 8441)."""
        self.urgency = 3
        self.incremental = False
        self.template: Any = None
        """For the server: what it has made of the head, for the next request with the same."""


class PreparedHead:
    """The head of a final response, checked and ready to be sent on any stream of a connection, as
    often as wanted: what `Engine.prepare` returns. Engines add what they need."""

    __slots__ = ("content_length", "has_content")

    def __init__(self, *, has_content: bool, content_length: int) -> None:
        self.has_content = has_content
        """Whether a response with this status can have content (RFC 9110 section 6.4.1)."""
        self.content_length = content_length
        """-1: not given."""


# Events. The order of the list that `receive` returns is that of their cause on the wire.


@dataclass(slots=True, init=False)
class RequestReceived:
    """A stream was opened by a whole header block. Made empty and then filled, which costs half."""

    stream_id: int
    head: RequestHead
    ended: bool
    """Whether there is no body."""


@dataclass(slots=True)
class RequestRefused:
    """A stream was opened by a head that is to be answered with an error: 413, 414, 431, 400 (an
    authority or target that no HTTP server takes). The server answers like any request."""

    stream_id: int
    head: RequestHead
    status: int
    reason: str


@dataclass(slots=True)
class DataReceived:
    """A part of a request body, or its end. Trailers are checked, dropped, and end the body."""

    stream_id: int
    data: bytes
    size: int
    """What counts against the windows, with padding; the server says `consumed` of it in time."""
    ended: bool


@dataclass(slots=True)
class StreamReset:
    """A stream is gone before its end: by the peer's RST_STREAM, or (not `by_peer`) because the
    peer broke a rule on it and the engine has reset it."""

    stream_id: int
    code: int
    by_peer: bool


@dataclass(slots=True)
class SendReady:
    """The queue of a stream of which `send_data` returned False has room again."""

    stream_id: int


@dataclass(slots=True)
class PingAcknowledged:
    """The answer to `ping`."""


@dataclass(slots=True)
class GoAwayReceived:
    """The peer opens no further stream; those in progress go on."""

    code: int


@dataclass(slots=True)
class ConnectionFailed:
    """The peer broke a rule of the connection: GOAWAY is queued, nothing further is read. The
    server writes the output and closes; all streams are gone."""

    code: int
    reason: str


Event: TypeAlias = (
    RequestReceived
    | RequestRefused
    | DataReceived
    | StreamReset
    | SendReady
    | PingAcknowledged
    | GoAwayReceived
    | ConnectionFailed
)


class Engine(ABC):
    """One connection, from the preface on. Our SETTINGS are in the first output."""

    __slots__ = ()

    prepare: Callable[[int, Sequence[Pair]], PreparedHead]
    """The head of a final response with this status and these fields: the defaults of `Engines`
    are added, connection-specific fields left out (RFC 9113 section 8.2.2).

    Raises:
        TypeError, ValueError: The head is malformed. So with all below that take fields; nothing
            is queued then.
    """
    last_stream_id: int
    """The highest stream that was given to the server."""
    open_streams: int
    """Streams that are not closed in both directions."""
    closed: bool
    """Whether a connection error has ended it."""
    has_output: bool
    """Whether `output` would return something."""

    @abstractmethod
    def receive(self, data: bytes, now: float) -> Sequence[Event]:
        """Takes what the peer has sent, in pieces of any size. With b"" as well it returns what
        `output` has caused: `SendReady`."""

    @abstractmethod
    def output(self, limit: int) -> bytes:
        """What is to be written now: control frames and heads at once, then content as windows
        and priorities say, until `limit` bytes are reached. b"" when there is nothing."""

    @abstractmethod
    def send_response(self, stream_id: int, head: PreparedHead, body: bytes) -> None:
        """A whole response: what most requests get."""

    def respond(self, stream_id: int, status: int, fields: Sequence[Pair], body: bytes) -> None:
        """`prepare` and `send_response` at once."""
        self.send_response(stream_id, self.prepare(status, fields), body)

    @abstractmethod
    def send_informational(self, stream_id: int, status: int, fields: Sequence[Pair]) -> None:
        """A 1xx (RFC 9110 section 15.2)."""

    @abstractmethod
    def send_head(self, stream_id: int, head: PreparedHead, *, ended: bool = False) -> None:
        """The head of a response that comes in parts."""

    @abstractmethod
    def send_data(self, stream_id: int, data: bytes, *, ended: bool = False) -> bool:
        """A part of the content. False: the queue is full; `SendReady` follows when it has room."""

    @abstractmethod
    def send_trailers(self, stream_id: int, fields: Sequence[Pair]) -> None:
        """Ends the stream behind what is queued."""

    @abstractmethod
    def consumed(self, stream_id: int, size: int) -> None:
        """So much of what was received has been used: the windows may open again."""

    @abstractmethod
    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a stream at once; what is queued of it is dropped."""

    @abstractmethod
    def ping(self) -> None:
        """Asks whether the peer is alive; see `PingAcknowledged`."""

    @abstractmethod
    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, *, final: bool) -> None:
        """GOAWAY. Not `final`: with the greatest id, so that what is under way still counts
        (RFC 9113 section 6.8). Final: with `last_stream_id`; later streams are refused with
        REFUSED_STREAM."""

    @abstractmethod
    def priority_of(self, stream_id: int) -> tuple[int, bool]:
        """Urgency (0 first, 7 last) and whether incremental (RFC 9218)."""

    @abstractmethod
    def queued(self, stream_id: int) -> int:
        """Bytes of content that wait for a window or for `output`."""

    @abstractmethod
    def unsent(self) -> list[int]:
        """The streams of which `queued` is not 0."""

    @abstractmethod
    def is_blocked(self) -> bool:
        """Whether content waits that only the peer's windows hold back: a stalled peer is cut."""


class Engines(ABC):
    """The engines of a worker, and what they share."""

    @abstractmethod
    def connect(self) -> Engine:
        """The engine of a new connection."""

    @abstractmethod
    def set_default_fields(
        self, date: bytes | None, server: bytes | None, extra: Sequence[Pair]
    ) -> None:
        """What every response gets that does not have it: renewed each second. `extra` is always
        added."""
