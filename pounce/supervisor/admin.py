"""The master's own HTTP server, put together. Imported only where there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pounce.config import ServerConfig
from pounce.metrics.admin import AdminServer
from pounce.metrics.admin_pages import AdminPages
from pounce.metrics.client.collector import ClientCollector
from pounce.metrics.client.reader import StoreReader
from pounce.metrics.exposition import Exposition
from pounce.metrics.own import own_metrics
from pounce.net.listeners import ListenerGroup
from pounce.runtime import WorkerMode
from pounce.supervisor.shared_arena import SharedArena


def admin_server(
    config: ServerConfig,
    admin: ListenerGroup,
    shared: SharedArena,
    mode: WorkerMode,
    *,
    listeners: ListenerGroup,
    is_ready: Callable[[], bool],
    status: Callable[[], Mapping[str, Any]],
) -> AdminServer:
    """A server that is to be started.

    Args:
        config: Its limits are told.
        admin: What it listens on.
        shared: What is told of.
        mode: What workers are: threads have the application's metrics in this process.
        listeners: The pool's, whose queues are told of.
        is_ready: Whether requests are wanted.
        status: What `pounce ctl status` says.
    """
    application = own_metrics
    if mode is WorkerMode.PROCESS:
        reader = None if shared.clients is None else StoreReader(shared.clients)
        application = ClientCollector(reader).collect
    exposition = Exposition(
        shared.arena, config, queues=listeners.queue_lengths, application=application
    )
    pages = AdminPages(exposition, is_ready=is_ready, status=status)
    return AdminServer(admin.sockets_for(0), pages.answer)
