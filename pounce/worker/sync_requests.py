"""Requests answered by a `SyncApp`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pounce.sync_protocol import RawRequest, SyncApp

if TYPE_CHECKING:
    from pounce.worker.request_cycle import RequestCycle

logger = logging.getLogger("pounce.error")


def answer_sync(sync_app: SyncApp, cycle: RequestCycle, body: bytes) -> bool:
    """Asks the SyncApp and writes what it answers; False when it leaves the request to ASGI."""
    scope = cycle.scope
    request = RawRequest(
        scope["method"],
        scope["path"],
        scope["query_string"],
        tuple(scope["headers"]),
        body,
        scope["client"],
        scope["server"],
        scope["http_version"],
    )
    try:
        # What it sets in context variables ends with the request, as for the ASGI application.
        response = cycle.worker.context.copy().run(sync_app.handle_sync, request)
        if response is None:
            return False
        cycle.respond_whole(response.status, response.headers, response.body)
    except BaseException as exc:  # as for the ASGI application: not even SystemExit ends the loop
        cycle.fail(exc)
    return True
