"""Starting the task of a request.

A request begins with the context variables that the worker began with. What an application sets for
one request is never seen by another, although the next request of a connection is often read while
the application sends the last part of the response before.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

from pounce.asgi.types import ASGIApp

if TYPE_CHECKING:
    from pounce.worker.request_cycle import RequestCycle
    from pounce.worker.ws_cycle import WebSocketCycle

EAGER: Final = sys.version_info >= (3, 12)
"""Whether a task runs up to where it first waits when it is made; often it never waits. That is
left until all has been read that has arrived. Other tasks begin in the next turn of the loop."""

if sys.version_info >= (3, 12):

    def start(cycle: RequestCycle | WebSocketCycle, app: ASGIApp | None = None) -> None:
        """Runs an application, by default the worker's, up to where it first waits."""
        worker = cycle.worker
        task = asyncio.Task(
            cycle.run(worker.app if app is None else app),
            loop=worker.loop,
            context=worker.context.copy(),
            eager_start=True,
        )
        if not task.done():
            cycle.task = task
            worker.tasks.add(task)

else:

    def start(cycle: RequestCycle | WebSocketCycle, app: ASGIApp | None = None) -> None:
        """Runs an application, by default the worker's, from the next turn of the event loop on."""
        worker = cycle.worker
        task = cycle.task = asyncio.Task(
            cycle.run(worker.app if app is None else app),
            loop=worker.loop,
            context=worker.context.copy(),
        )
        worker.tasks.add(task)
