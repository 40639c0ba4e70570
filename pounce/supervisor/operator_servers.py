"""Where operators and their tools reach a master: the control socket, and its own HTTP server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pounce.config import ServerConfig
from pounce.net.listeners import ListenerGroup
from pounce.runtime import WorkerMode
from pounce.supervisor.control import ControlServer, Handler, start_control_server
from pounce.supervisor.control_messages import ControlError
from pounce.supervisor.master_status import MasterStatus
from pounce.supervisor.measurements import Measurements

if TYPE_CHECKING:
    from pounce.metrics.admin import AdminServer

logger = logging.getLogger("pounce.error")


class OperatorServers:
    """Both, as far as the configuration asks for them.

    Args:
        handler: Carries out commands.
        status: Is told.
        admin: What the HTTP server listens on; None: there is none.
        listeners: The pool's, whose queues are told of.
        measurements: Where workers count, which is told.
        mode: What workers are.
    """

    def __init__(
        self,
        handler: Handler,
        status: MasterStatus,
        *,
        admin: ListenerGroup | None,
        listeners: ListenerGroup,
        measurements: Measurements | None,
        mode: WorkerMode,
    ) -> None:
        self._handler = handler
        self._status = status
        self._admin_listeners = admin
        self._listeners = listeners
        self._measurements = measurements
        self._mode = mode
        self._control: ControlServer | None = None
        self._admin: AdminServer | None = None

    async def open(self, config: ServerConfig) -> None:
        """Begins to answer.

        Raises:
            ControlError: The control socket that was asked for cannot be made.
        """
        self._control = await start_control_server(config.control_socket, self._handler)
        await self._open_admin(config)

    async def take_over(self, config: ServerConfig) -> None:
        """The same in place of the master before, which is not to fail any more."""
        try:
            self._control = await start_control_server(
                config.control_socket, self._handler, take_over=True
            )
        except ControlError as exc:
            logger.error("%s", exc)
        if self._admin_listeners is not None:
            self._admin_listeners.claim_files()
        await self._open_admin(config)

    async def _open_admin(self, config: ServerConfig) -> None:
        if self._admin_listeners is None or self._measurements is None:
            return
        from pounce.supervisor.admin import admin_server

        self._admin = admin_server(
            config,
            self._admin_listeners,
            self._measurements.shared,
            self._mode,
            listeners=self._listeners,
            is_ready=self._status.is_ready,
            status=self._status.report,
        )
        try:
            await self._admin.start()
        except OSError as exc:
            logger.error("the admin server cannot listen: %s", exc.strerror)

    async def close(self) -> None:
        """Ends both; answers that are under way get a moment."""
        control, self._control = self._control, None
        admin, self._admin = self._admin, None
        if control is not None:
            await control.close()
        if admin is not None:
            await admin.close()
