"""What does not change while a configuration lasts: the build, and limits that alerts divide by."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from math import inf
from typing import Final

from pounce.config import ServerConfig
from pounce.metrics.families import Family, Reading
from pounce.runtime import fd_limit

BUILD: Final = Family("pounce_build", "info", "The server's version, and the Python that runs it.")
MAX_FDS: Final = Family(
    "pounce_max_fds", "gauge", "File descriptors that a process of the server may have open."
)


def _or_none(limit: float | None) -> float:
    """0 and None stand for no limit, of which everything is the infinitely small part."""
    return limit or inf


_CONFIGURED: Final[Sequence[tuple[Family, Callable[[ServerConfig], float]]]] = (
    (
        Family("pounce_limit_concurrency", "gauge", "Most requests in progress in one worker."),
        lambda config: _or_none(config.limit_concurrency),
    ),
    (
        Family("pounce_limit_keep_alive_requests", "gauge", "Most requests on one connection."),
        lambda config: _or_none(config.limit_keep_alive_requests),
    ),
    (
        Family(
            "pounce_limit_request_body_bytes", "gauge", "Largest content of a request.", "bytes"
        ),
        lambda config: _or_none(config.limit_request_body),
    ),
    (
        Family(
            "pounce_max_requests",
            "gauge",
            "Requests after which a worker is replaced, without the jitter.",
        ),
        lambda config: _or_none(config.max_requests),
    ),
    (
        Family(
            "pounce_max_lifetime_seconds",
            "gauge",
            "Age at which a worker is replaced, without the jitter.",
            "seconds",
        ),
        lambda config: _or_none(config.max_lifetime),
    ),
    (
        Family(
            "pounce_timeout_graceful_shutdown_seconds",
            "gauge",
            "Longest wait for requests in progress when a worker leaves.",
            "seconds",
        ),
        lambda config: config.timeout_graceful_shutdown,
    ),
)

CONSTANT_FAMILIES: Final = (BUILD, MAX_FDS, *(family for family, _ in _CONFIGURED))


def constants(config: ServerConfig) -> list[Reading]:
    """The metrics that stay as they are."""
    build = BUILD.series(
        {
            "version": _version(),
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
        }
    )
    return [
        Reading(BUILD, [(build, (1,))]),
        Reading(MAX_FDS, [(MAX_FDS.series(), (fd_limit(),))]),
        *(Reading(family, [(family.series(), (value(config),))]) for family, value in _CONFIGURED),
    ]


def _version() -> str:
    try:
        return importlib.metadata.version("pounce")
    except importlib.metadata.PackageNotFoundError:  # run from a copy that was not installed
        return "unknown"
