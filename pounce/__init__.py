"""Pounce, an ASGI server.

What it offers is imported when it is asked for: `pounce ctl` and workers need little of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        SharedMemoryError,
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
    "SharedMemoryError",
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

_MODULES = {
    "AppLoadError": "pounce.errors",
    "BindError": "pounce.errors",
    "BufferedCollector": "pounce.lifecycle",
    "ClientDisconnected": "pounce.lifecycle",
    "ConfigError": "pounce.errors",
    "ConnectionCompleted": "pounce.lifecycle",
    "ConnectionOpened": "pounce.lifecycle",
    "LifecycleCollector": "pounce.lifecycle",
    "LifecycleEvent": "pounce.lifecycle",
    "LifespanError": "pounce.errors",
    "LimitError": "pounce.errors",
    "LoggingCollector": "pounce.lifecycle",
    "NoopCollector": "pounce.lifecycle",
    "ParseError": "pounce.errors",
    "PounceError": "pounce.errors",
    "ProtocolError": "pounce.errors",
    "RawRequest": "pounce.sync_protocol",
    "RawResponse": "pounce.sync_protocol",
    "RequestStarted": "pounce.lifecycle",
    "RequestTimeoutError": "pounce.errors",
    "ResponseCompleted": "pounce.lifecycle",
    "Server": "pounce.server",
    "ServerConfig": "pounce.config",
    "SharedMemoryError": "pounce.errors",
    "StreamClosed": "pounce.lifecycle",
    "StreamOpened": "pounce.lifecycle",
    "SupervisorError": "pounce.errors",
    "SyncApp": "pounce.sync_protocol",
    "TLSError": "pounce.errors",
    "WorkerError": "pounce.errors",
    "WorkerMode": "pounce.runtime",
    "run": "pounce.server",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'pounce' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
