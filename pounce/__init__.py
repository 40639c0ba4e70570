"""Pounce, an ASGI server."""

from pounce.config import ServerConfig
from pounce.errors import (
    AppLoadError,
    BindError,
    ConfigError,
    LifespanError,
    LimitError,
    ParseError,
    PounceError,
    ProtocolError,
    RequestTimeoutError,
    SupervisorError,
    TLSError,
    WorkerError,
)
from pounce.lifecycle import (
    BufferedCollector,
    ClientDisconnected,
    ConnectionCompleted,
    ConnectionOpened,
    LifecycleCollector,
    LifecycleEvent,
    LoggingCollector,
    NoopCollector,
    RequestStarted,
    ResponseCompleted,
    StreamClosed,
    StreamOpened,
)
from pounce.runtime import WorkerMode
from pounce.server import Server, run
from pounce.sync_protocol import RawRequest, RawResponse, SyncApp

__version__ = "0.1.0"

__all__ = [
    "AppLoadError",
    "BindError",
    "BufferedCollector",
    "ClientDisconnected",
    "ConfigError",
    "ConnectionCompleted",
    "ConnectionOpened",
    "LifecycleCollector",
    "LifecycleEvent",
    "LifespanError",
    "LimitError",
    "LoggingCollector",
    "NoopCollector",
    "ParseError",
    "PounceError",
    "ProtocolError",
    "RawRequest",
    "RawResponse",
    "RequestStarted",
    "RequestTimeoutError",
    "ResponseCompleted",
    "Server",
    "ServerConfig",
    "StreamClosed",
    "StreamOpened",
    "SupervisorError",
    "SyncApp",
    "TLSError",
    "WorkerError",
    "WorkerMode",
    "__version__",
    "run",
]
