"""The states of a stream (RFC 9113 section 5.1), and what a frame of the peer means in each.

Only a server's view: the peer opens streams, and nothing is promised. The two reserved states do
not exist. "Closed" is three states, because what may still arrive depends on who has closed it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from pounce.protocol.h2 import frames
from pounce.protocol.h2.interface import ErrorCode


class StreamState(Enum):
    """Where a stream is in its life."""

    IDLE = auto()
    SKIPPED = auto()
    """Was idle when a later stream was opened, and so is closed (section 5.1.1)."""
    OPEN = auto()
    HALF_CLOSED_LOCAL = auto()
    """The response is complete; the request is not."""
    HALF_CLOSED_REMOTE = auto()
    """The request is complete; the response is not. Most of a stream's life."""
    CLOSED = auto()
    """Both sides have ended it, or it was closed so long ago that nobody knows how."""
    RESET_BY_US = auto()
    """The peer may not have heard of it yet."""
    RESET_BY_PEER = auto()


class Action(Enum):
    """What is done with a frame."""

    ACCEPT = auto()
    IGNORE = auto()
    RESET = auto()
    """An error of the stream (section 5.4.2)."""
    FAIL = auto()
    """An error of the connection (section 5.4.1)."""


class Rule(NamedTuple):
    """An action, and the code that it sends."""

    action: Action
    code: ErrorCode = ErrorCode.NO_ERROR


ACCEPT: Final = Rule(Action.ACCEPT)
IGNORE: Final = Rule(Action.IGNORE)
_UNEXPECTED: Final = Rule(Action.FAIL, ErrorCode.PROTOCOL_ERROR)
_CLOSED_STREAM: Final = Rule(Action.RESET, ErrorCode.STREAM_CLOSED)
_CLOSED_CONNECTION: Final = Rule(Action.FAIL, ErrorCode.STREAM_CLOSED)

_FRAMES: Final = (frames.HEADERS, frames.DATA, frames.RST_STREAM, frames.WINDOW_UPDATE)

# One line for each state, in the order of _FRAMES. PRIORITY and PRIORITY_UPDATE come in any state.
_TABLE: Final = {
    # HEADERS on an idle stream opens it.
    StreamState.IDLE: (ACCEPT, _UNEXPECTED, _UNEXPECTED, _UNEXPECTED),
    # A stream identifier below one that was used (section 5.1.1).
    StreamState.SKIPPED: (_UNEXPECTED, _UNEXPECTED, IGNORE, IGNORE),
    # A second HEADERS is the trailers.
    StreamState.OPEN: (ACCEPT, ACCEPT, ACCEPT, ACCEPT),
    StreamState.HALF_CLOSED_LOCAL: (ACCEPT, ACCEPT, ACCEPT, ACCEPT),
    StreamState.HALF_CLOSED_REMOTE: (_CLOSED_STREAM, _CLOSED_STREAM, ACCEPT, ACCEPT),
    StreamState.CLOSED: (_CLOSED_CONNECTION, _CLOSED_CONNECTION, IGNORE, IGNORE),
    # The block is still decoded and the content still counts against the connection's window.
    StreamState.RESET_BY_US: (IGNORE, IGNORE, IGNORE, IGNORE),
    StreamState.RESET_BY_PEER: (_CLOSED_STREAM, _CLOSED_STREAM, IGNORE, IGNORE),
}

RULES: Final = {
    (state, kind): rule
    for state, line in _TABLE.items()
    for kind, rule in zip(_FRAMES, line, strict=True)
}
"""By state and type of frame."""
