"""One address that a pool of workers listens on."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self


class SlotQueue(NamedTuple):
    """What waits to be accepted at one socket. None where the system does not tell."""

    address: tuple[str, int]
    slot: int | None
    """None for a socket that all slots share."""
    length: int | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class Departure:
    """What a slot that is given up leaves behind: connections that are on their way to it."""

    is_quiet: Callable[[], bool]
    """Whether nothing waits at its sockets and nothing can arrive there any more, so that its
    worker may stop accepting. Stays False when there is nobody that connections could go to."""
    close: Callable[[], None]
    """Close its sockets; to be called when its worker has ended, or stopped accepting."""


class Listener(ABC):
    """One address that a pool of workers listens on, with one socket or one for each slot.

    A socket lives in the master for as long as its slot; a worker has a copy. So what waits to be
    accepted outlives the worker, and is accepted by its successor in the slot.
    """

    kind: ClassVar[str]
    """What it is called where sockets are handed over."""

    address: tuple[str, int]
    """Host and port really bound; a path and 0 for a Unix socket."""

    @abstractmethod
    def open(self, slot: int) -> None:
        """Have a bound socket for a slot that is not open yet. Raises `BindError`."""

    @abstractmethod
    def socket(self, slot: int) -> socket.socket:
        """The socket of an open slot."""

    @abstractmethod
    def listen(self, slot: int, backlog: int) -> None:
        """Let new connections go to a slot, from now on. Raises `BindError`."""

    @abstractmethod
    def steer_away(self, slot: int) -> bool:
        """Let new connections go to other slots, until `listen` is called again.

        Returns:
            Whether nothing is lost when nobody accepts in this slot any more, apart from what
            waits there already. False: there is no other slot, or the kernel cannot.
        """

    @abstractmethod
    def retire(self, slot: int) -> Departure:
        """Give a slot up: steer new connections away, and forget it. It may be opened anew."""

    @property
    @abstractmethod
    def has_departures(self) -> bool:
        """Whether a slot was retired whose departure is not closed."""

    @abstractmethod
    def queues(self) -> Iterator[SlotQueue]:
        """What waits to be accepted."""

    @abstractmethod
    def close_others(self, slot: int) -> None:
        """In a worker made by fork: close this process's copies of the sockets of other slots."""

    @abstractmethod
    def close_all(self) -> None:
        """Close this process's copies of all sockets. What they do in other processes goes on."""

    # From one process to the next

    @abstractmethod
    def hand_over(self) -> dict[str, Any]:
        """What another process needs to go on with the same sockets, ready for JSON."""

    @classmethod
    @abstractmethod
    def take_over(cls, state: Mapping[str, Any]) -> Self:
        """Go on with the sockets of the process that `hand_over` was called in.

        Raises `BindError` when a descriptor is not what it should be.
        """

    @abstractmethod
    def claim_files(self) -> None:
        """Answer for the files that the other process answered for."""

    @abstractmethod
    def disclaim_files(self) -> None:
        """Leave the files in place when the sockets close."""
