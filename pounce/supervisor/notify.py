"""What a service manager is told: the protocol of sd_notify(3), without a dependency.

Every message is one datagram to the socket that `NOTIFY_SOCKET` names. Outside of systemd there is
no such variable and every method does nothing; nothing here raises or blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping
from types import TracebackType
from typing import Final, Self

logger = logging.getLogger("pounce.error")

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG_PERIOD: Final = "WATCHDOG_USEC"
_WATCHDOG_PROCESS: Final = "WATCHDOG_PID"
_MOST_PENDING: Final = 32
"""Messages kept while the manager does not read; the oldest give way to newer ones."""
_REPLACEABLE: Final = ("STATUS=", "WATCHDOG=")
"""Of messages that begin so, only the newest is worth keeping."""


class Notifier:
    """Tells the service manager what state the program is in.

    Args:
        address: Path of the manager's socket, `@name` in Linux's abstract namespace, or None where
            there is no manager.
        watchdog_period: Seconds within which the manager expects a sign of life, or None.
    """

    def __init__(self, address: str | None, watchdog_period: float | None = None) -> None:
        self._address = address
        self._watchdog_period = watchdog_period
        self._pending: deque[str] = deque(maxlen=_MOST_PENDING)
        self._has_complained = False
        # Opened once, so that a full table of descriptors later on silences nothing.
        self._socket = self._open() if address is not None else None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """The notifier that the variables of systemd ask for.

        The variables are taken out of `environment`: a child that inherited them would speak for
        the service.
        """
        address = environment.pop(_SOCKET, None)
        period = environment.pop(_WATCHDOG_PERIOD, None)
        process = environment.pop(_WATCHDOG_PROCESS, None)
        if not address:
            return cls(None)
        # sd_watchdog_enabled(3): a process that is not the one named is not watched.
        is_watched = process is None or process == str(os.getpid())
        return cls(address, _seconds(period) if is_watched else None)

    def __repr__(self) -> str:
        return f"<Notifier to {self._address}, {len(self._pending)} messages pending>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_active(self) -> bool:
        """Whether somebody listens."""
        return self._socket is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two calls of `watchdog()`: half of the period, as sd_watchdog_enabled(3)
        advises. None where no sign of life is asked for."""
        if self._watchdog_period is None or not self.is_active:
            return None
        return self._watchdog_period / 2

    def environment_of_successor(self) -> dict[str, str]:
        """The variables with which the next master of an upgrade speaks to the same manager.

        `WATCHDOG_PID` is left out, as the number of a process that is not there yet is not known.
        """
        if self._address is None:
            return {}
        variables = {_SOCKET: self._address}
        if self._watchdog_period is not None:
            variables[_WATCHDOG_PERIOD] = str(round(self._watchdog_period * 1_000_000))
        return variables

    # What can be said

    def ready(self, status: str | None = None) -> None:
        """The service is up, or a reload has ended, whatever its result."""
        self._send("READY=1", *_status(status))

    def reloading(self, status: str | None = None) -> None:
        """A reload begins; `ready()` must follow. The time tells systemd that this is the reload
        it asked for and not an earlier one (`Type=notify-reload`)."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", *_status(status))

    def stopping(self, status: str | None = None) -> None:
        """The service begins to end."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """A sign of life, to be given by the loop that is watched every `watchdog_interval`."""
        if self.watchdog_interval is not None:
            self._send("WATCHDOG=1")

    async def keep_alive(self) -> None:
        """Gives signs of life for ever, where they are asked for; to be run by the loop that is
        watched."""
        while (interval := self.watchdog_interval) is not None:
            self.watchdog()
            await asyncio.sleep(interval)

    def main_pid(self, pid: int) -> None:
        """From now on `pid` is the service. Said by the old master of an upgrade before the new
        one says that it is ready: with `NotifyAccess=main` systemd hears only the main process.
        """
        self._send(f"MAINPID={pid}")

    def flush(self) -> bool:
        """Sends what had to wait because the manager did not read; whether all of it has gone.
        Every message does this first, so that the order stays."""
        while self._pending and self._transmit(self._pending[0]):
            self._pending.popleft()
        return not self._pending

    def close(self) -> None:
        """Nothing is said any more. A last attempt is made at what had to wait."""
        self.flush()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket | None:
        assert self._address is not None
        if not self._address.startswith(("/", "@")):
            # systemd inside of a virtual machine may name a socket of the host ("vsock:").
            self._complain(f"{self._address} is of a kind that is not supported")
            return None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return None
        sock.setblocking(False)
        return sock

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        self.flush()
        for name in _REPLACEABLE:
            if assignments[0].startswith(name):
                kept = [message for message in self._pending if not message.startswith(name)]
                self._pending = deque(kept, _MOST_PENDING)
        self._pending.append("\n".join(assignments))
        self.flush()

    def _transmit(self, message: str) -> bool:
        """Whether `message` is done with: it has gone, or can never go."""
        if self._socket is None or self._address is None:
            return True
        address: str | bytes = self._address
        if self._address.startswith("@"):
            address = b"\0" + os.fsencode(self._address[1:])
        try:
            # Not connected, so that a manager that has been restarted is reached again.
            self._socket.sendto(message.encode("utf-8", "replace"), address)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._complain(error.strerror or str(error))
        return True

    def _complain(self, reason: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            logger.warning("The service manager cannot be told the state: %s", reason)


def _status(text: str | None) -> tuple[str, ...]:
    # A line end would begin another assignment.
    return () if text is None else (f"STATUS={' '.join(text.split())}",)


def _seconds(microseconds: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        if microseconds is not None and (number := int(microseconds)) > 0:
            return number / 1_000_000
        return None
    logger.warning("%s=%s is no number of microseconds", _WATCHDOG_PERIOD, microseconds)
    return None
