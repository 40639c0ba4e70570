"""Starting the task of a request."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pounce.worker.request_cycle import RequestCycle
    from pounce.worker.worker import Worker

if sys.version_info >= (3, 12):

    def start_task(worker: Worker, cycle: RequestCycle) -> None:
        """Runs the application up to where it first waits; often it never does."""
        task = asyncio.Task(cycle.run(worker.app), loop=worker.loop, eager_start=True)
        if not task.done():
            cycle.task = task
            worker.tasks.add(task)

else:

    def start_task(worker: Worker, cycle: RequestCycle) -> None:
        """Runs the application from the next turn of the event loop on."""
        task = cycle.task = asyncio.Task(cycle.run(worker.app), loop=worker.loop)
        worker.tasks.add(task)
