"""What the program has of the system around it: its addresses, its pidfile, and the line to the
service manager that started it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pounce.addresses import Address, parse_address
from pounce.config import OPTIONS, ServerConfig
from pounce.errors import SharedMemoryError
from pounce.metrics import catalogue
from pounce.net import handover
from pounce.net.activation import activated_addresses
from pounce.net.listeners import ListenerGroup
from pounce.net.sockets import configured_access, configured_addresses
from pounce.shm.leftovers import remove_leftovers
from pounce.supervisor.notify import Notifier
from pounce.supervisor.pidfile import Pidfile
from pounce.supervisor.privileges import resolve_identity
from pounce.supervisor.shared_arena import SharedArena
from pounce.supervisor.takeover import Takeover

logger = logging.getLogger("pounce.error")

_LISTENING_OPTIONS = ("host", "port", "uds", "fd", "bind")


def service_addresses(config: ServerConfig, takeover: Takeover | None) -> list[Address]:
    """Where to listen: what the configuration names, and the sockets that systemd has opened for
    this process or the one before, which take the place of an address that nobody chose.

    To be asked once, as the environment names those sockets to the first who asks.

    Raises:
        BindError: What systemd says cannot be understood.
    """
    if takeover is None:
        activated = activated_addresses()
    else:
        activated = handover.activated_addresses(takeover.listeners)
    is_chosen = any(getattr(config, name) != OPTIONS[name].default for name in _LISTENING_OPTIONS)
    configured = configured_addresses(config) if is_chosen or not activated else []
    return list(dict.fromkeys([*activated, *configured]))


@dataclass(frozen=True, slots=True)
class Service:
    """What is held from the start of the program to its end."""

    listeners: ListenerGroup
    notifier: Notifier
    pidfile: Pidfile | None
    takeover: Takeover | None
    """From the process that this one replaces."""
    admin: ListenerGroup | None
    """Where the master's own server listens, if there is one."""
    arena: SharedArena | None
    """None where nothing is counted."""

    def remove_files(self) -> None:
        """For an end that is not waited for: no Unix socket or pidfile is left behind."""
        self.listeners.close_all()
        if self.admin is not None:
            self.admin.close_all()
        if self.pidfile is not None:
            self.pidfile.remove()
        if self.arena is not None:
            self.arena.close()


@contextlib.contextmanager
def open_service(
    config: ServerConfig,
    addresses: Sequence[Address],
    workers: int,
    takeover: Takeover | None,
    *,
    is_pool_of_processes: bool,
) -> Iterator[Service]:
    """Binds every address, with a slot for each worker, reserves shared memory and writes the
    pidfile; gives all of it back at the end.

    Raises:
        BindError: An address cannot be had.
        SharedMemoryError: There is not enough shared memory.
        SupervisorError: The pidfile belongs to a live server, or cannot be written.
    """
    pidfile = None if config.pidfile is None else Pidfile(config.pidfile)
    with contextlib.ExitStack() as stack:
        notifier = stack.enter_context(Notifier.from_environment())
        listeners = ListenerGroup(
            addresses,
            backlog=config.backlog,
            strategy=config.socket_strategy,
            access=configured_access(config),
            inherited=None if takeover is None else takeover.listeners,
        )
        stack.callback(listeners.close_all)
        for slot in range(workers):
            if slot not in listeners.slots:
                listeners.open_slot(slot)
        if pidfile is not None:
            pidfile.create(successor=takeover is not None)
            stack.callback(pidfile.remove)
        admin = _open_admin(config, takeover)
        if admin is not None:
            stack.callback(admin.close_all)
        arena = _open_arena(config, takeover, is_pool_of_processes)
        if arena is not None:
            stack.callback(arena.close)
        yield Service(listeners, notifier, pidfile, takeover, admin, arena)


def _open_admin(config: ServerConfig, takeover: Takeover | None) -> ListenerGroup | None:
    if config.metrics_bind is None:
        return None
    group = ListenerGroup(
        [parse_address(config.metrics_bind)],
        backlog=config.backlog,
        strategy="shared",
        access=configured_access(config),
        inherited=None if takeover is None else takeover.admin,
    )
    if not group.slots:
        group.open_slot(0)
    return group


def _open_arena(
    config: ServerConfig, takeover: Takeover | None, is_pool_of_processes: bool
) -> SharedArena | None:
    is_pool = config.is_supervised
    if config.reload or not (is_pool or config.metrics):
        return None
    slots = catalogue.slots_for(config.resolve_workers() if is_pool else 1)
    identity = resolve_identity(config.user, config.group)
    share_with = None if identity is None else (identity.uid, identity.gid)
    # One process has the application's metrics without shared memory.
    is_told = config.metrics or config.metrics_bind is not None
    has_clients = is_told and is_pool_of_processes
    former = None if takeover is None else takeover.arena
    for name in remove_leftovers(None if former is None else former["name"]):
        logger.info("removed shared memory that a server left behind: %s", name)
    if former is not None:
        try:
            return SharedArena.attach(
                former, needed=slots // 2, share_with=share_with, has_clients=has_clients
            )
        except SharedMemoryError as error:
            logger.warning("counting starts afresh: %s", error)
    return SharedArena.create(slots, share_with=share_with, has_clients=has_clients)
