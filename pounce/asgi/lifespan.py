"""The lifespan protocol (https://asgi.readthedocs.io/en/latest/specs/lifespan.html)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pounce.asgi.types import ASGI_VERSION, LIFESPAN_SPEC_VERSION, ASGIApp, Message
from pounce.errors import LifespanError

logger = logging.getLogger("pounce.error")


class Lifespan:
    """Runs the lifespan of one application in the event loop that serves its requests.

    Args:
        app: The application.
        mode: "on" (an application without lifespan support is an error), "off", or "auto" (it is
            taken as having none when it raises without having asked for the startup message, or
            answers it with something else).
    """

    def __init__(self, app: ASGIApp, mode: str) -> None:
        self._app = app
        self._mode = mode
        self.state: dict[str, Any] = {}
        """What the application put into `scope["state"]`; each request gets a copy."""
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._asked = False
        self._strayed = False

    async def startup(self) -> None:
        """Returns when the application has started.

        Raises:
            LifespanError: It said so, or raised, or (mode "on") does not support lifespan.
        """
        if self._mode == "off":
            return
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._task = loop.create_task(self._run(), name="lifespan")
        self._inbox.put_nowait({"type": "lifespan.startup"})
        await self._started

    async def shutdown(self) -> None:
        """Returns when the application has shut down. A failure is logged, not raised: nothing
        can be done about it any more."""
        if self._task is None or self._task.done() or self._stopped is None:
            return
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({self._stopped, self._task}, return_when=asyncio.FIRST_COMPLETED)
        # The application may tidy up after its last message, as it may before it.
        await asyncio.wait({self._task})

    async def shutdown_within(self, seconds: float) -> None:
        """`shutdown`, and an end by force when it takes longer."""
        try:
            await asyncio.wait_for(self.shutdown(), seconds)
        except TimeoutError:
            logger.error("application shutdown did not finish within %.3g s", seconds)
            self.cancel()

    def cancel(self) -> None:
        """Ends an application that does not come to an end by itself."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": ASGI_VERSION, "spec_version": LIFESPAN_SPEC_VERSION},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as exc:
            self._ended(exc)
            if isinstance(exc, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                raise
        else:
            self._ended(None)

    def _ended(self, exc: BaseException | None) -> None:
        started, stopped = self._started, self._stopped
        assert started is not None
        assert stopped is not None
        if not started.done():
            supported = self._asked and not self._strayed and exc is not None
            if self._mode == "auto" and not supported:
                # The specification's way to say "not supported" is to raise on the scope.
                logger.debug("the application does not support lifespan: %r", exc)
                started.set_result(None)
            else:
                error = LifespanError(
                    f"application startup failed: {exc!r}"
                    if supported
                    else "the application does not support lifespan (--lifespan on)"
                )
                error.__cause__ = exc
                started.set_exception(error)
        elif (
            exc is not None
            and (started.cancelled() or started.exception() is None)
            and not isinstance(exc, asyncio.CancelledError)
        ):
            logger.error("lifespan: the application failed", exc_info=exc)
        if not stopped.done():
            stopped.set_result(None)

    async def _receive(self) -> Message:
        self._asked = True
        return await self._inbox.get()

    async def _send(self, message: Message) -> None:
        started, stopped = self._started, self._stopped
        assert started is not None
        assert stopped is not None
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not started.done():
            started.set_result(None)
        elif kind == "lifespan.startup.failed" and not started.done():
            detail = message.get("message", "")
            started.set_exception(
                LifespanError(f"application startup failed{': ' if detail else ''}{detail}")
            )
        elif kind == "lifespan.shutdown.complete" and started.done() and not stopped.done():
            stopped.set_result(None)
        elif kind == "lifespan.shutdown.failed" and started.done() and not stopped.done():
            logger.error("application shutdown failed: %s", message.get("message", ""))
            stopped.set_result(None)
        else:
            self._strayed = True
            raise RuntimeError(f"unexpected ASGI message {kind!r} in the lifespan")
