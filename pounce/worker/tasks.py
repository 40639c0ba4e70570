"""Starting the task of a request.

A request begins with the context variables that the worker began with. What an application sets for
one request is never seen by another, although the next request of a connection is often read while
the application sends the last part of the response before.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from pounce.asgi.types import ASGIApp

if TYPE_CHECKING:
    from pounce.worker.request_cycle import RequestCycle
    from pounce.worker.worker import Worker
    from pounce.worker.ws_cycle import WebSocketCycle

if sys.version_info >= (3, 12):

    def start_task(worker: Worker, cycle: RequestCycle | WebSocketCycle) -> None:
        """Runs the worker's application when all has been read that has arrived."""
        worker.starting.add(cycle)

    def start_now(worker: Worker, cycle: RequestCycle | WebSocketCycle, app: ASGIApp) -> None:
        """Runs an application up to where it first waits; often it never does."""
        task = asyncio.Task(
            cycle.run(app), loop=worker.loop, context=worker.context.copy(), eager_start=True
        )
        if not task.done():
            cycle.task = task
            worker.tasks.add(task)

else:

    def start_task(worker: Worker, cycle: RequestCycle | WebSocketCycle) -> None:
        """Runs the worker's application from the next turn of the event loop on."""
        start_now(worker, cycle, worker.app)

    def start_now(worker: Worker, cycle: RequestCycle | WebSocketCycle, app: ASGIApp) -> None:
        """Runs an application from the next turn of the event loop on."""
        task = cycle.task = asyncio.Task(
            cycle.run(app), loop=worker.loop, context=worker.context.copy()
        )
        worker.tasks.add(task)


def start_waiting(cycle: RequestCycle | WebSocketCycle) -> None:
    """Runs the worker's application for a cycle that `start_task` has left for later."""
    worker = cycle.worker
    start_now(worker, cycle, worker.app)
