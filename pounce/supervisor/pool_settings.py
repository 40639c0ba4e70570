"""What the operator may choose about the pool of workers. All times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final

from pounce.config import OPTIONS, ServerConfig
from pounce.errors import ConfigError
from pounce.runtime import WorkerMode

_KILL_PATIENCE: Final = {WorkerMode.PROCESS: 10.0, WorkerMode.THREAD: 5.0}
"""A thread that is told to end takes what cancelled requests and tasks get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashSettings:
    """How soon a worker that crashed is started again."""

    delay_base: float = 0.5
    """Delay after the second crash in a row; it doubles with each further one."""
    delay_ceiling: float = 30.0
    reset_after: float = 60.0
    """A worker that has been READY for so long has made its slot's crashes forgotten."""
    boot_attempts: int = 3
    """So many failures before any worker has ever been READY end the program."""
    budget: int = 10
    """Respawns without delay that the whole pool may do in a burst."""
    budget_per_second: float = 1.0
    """How fast the budget is filled again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The settings of one generation; a reload may bring others.

    What is an option of the same name for the operator, `pool_settings` takes over.

    Raises:
        ConfigError: A number is out of range.
    """

    workers: int = 1
    timeout_worker_boot: float = 60.0
    """From the spawn to PREPARED, and from being told to serve to READY."""
    timeout_graceful_shutdown: float = 30.0
    """What a worker that drains is given for the requests in flight."""
    shutdown_delay: float = 0.0
    """How long workers go on accepting after a graceful stop was asked for."""
    max_concurrent_replacements: int = 1
    max_requests: int = 0
    """Requests after which a worker is replaced; 0: never."""
    max_requests_jitter: int = 0
    max_lifetime: float = 0.0
    """Time as READY after which a worker is replaced; 0: never."""
    max_lifetime_jitter: float = 0.0
    max_rss: int = 0
    """Bytes of resident memory above which a worker is replaced; 0: never, as in what follows."""
    max_rss_growth: int = 0
    """The same above what it had when it had been READY for `rss_settle_time`."""
    rss_settle_time: float = 60.0
    max_error_rate: int = 0
    """Percent of responses with 5xx above which a worker is replaced."""
    error_rate_window: float = 60.0
    error_rate_min_requests: int = 50
    """So many responses there must have been within the window."""
    max_open_fds: int = 0
    """Percent of its limit of file descriptors above which a worker is replaced."""
    max_stuck_threads: int = 0
    """Threads stuck in synchronous work with which a worker is replaced."""
    worker_stall_timeout: float = 30.0
    """How long an event loop may be blocked until its worker is killed and replaced."""
    max_health_recycles: int = 0
    """Workers that may be replaced for the reasons above within a minute; 0: as many as the pool
    has."""
    drain_margin: float = 5.0
    """What a worker gets beyond `timeout_graceful_shutdown` before SIGKILL: requests that did not
    finish have to be cancelled, and the application's lifespan shutdown has to run."""
    kill_patience: float = 10.0
    """When the end of a worker is not seen so long after SIGKILL, it is written off."""
    crash: CrashSettings = field(default_factory=CrashSettings)

    def __post_init__(self) -> None:
        for name in ("workers", "max_concurrent_replacements"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1")
        for name in ("timeout_worker_boot", "timeout_graceful_shutdown"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be more than 0")
        for item in fields(self):
            if item.name != "crash" and getattr(self, item.name) < 0:
                raise ConfigError(f"{item.name} must not be negative")


def pool_settings(config: ServerConfig, mode: WorkerMode = WorkerMode.PROCESS) -> PoolSettings:
    """What the configuration says about the pool."""
    options = {
        item.name: getattr(config, item.name)
        for item in fields(PoolSettings)
        if item.name in OPTIONS
    }
    options["workers"] = config.resolve_workers()
    return PoolSettings(**options, kill_patience=_KILL_PATIENCE[mode])
