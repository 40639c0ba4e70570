"""An address with one socket for all slots: Unix sockets, inherited ones, and every one where the
system has nothing better."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pounce.addresses import InheritedAddress
from pounce.net.activation import adopt_descriptor
from pounce.net.listen_queue import queue_length
from pounce.net.listener import Departure, Listener, SlotQueue
from pounce.net.sockets import bound_addr, close_sockets, listen
from pounce.net.unix_sockets import SocketFile, claim_file, disclaim_file, file_of


class SharedListener(Listener):
    """One bound socket. Every worker accepts from its queue, so a slot takes nothing along."""

    kind = "shared"

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._listens = False
        self._file_to_claim: SocketFile | None = None
        self.address = bound_addr(sock)

    def __repr__(self) -> str:
        return f"<SharedListener {self.address}>"

    def open(self, slot: int) -> None:
        pass

    def socket(self, slot: int) -> socket.socket:
        return self._sock

    def listen(self, slot: int, backlog: int) -> None:
        if not self._listens:
            listen([self._sock], backlog)
            self._listens = True

    def steer_away(self, slot: int) -> bool:
        return True

    def retire(self, slot: int) -> Departure:
        return Departure(lambda: True, lambda: None)

    @property
    def has_departures(self) -> bool:
        return False

    def queues(self) -> Iterator[SlotQueue]:
        queue = queue_length(self._sock)
        yield SlotQueue(self.address, None, *(queue or (None, None)))

    def close_others(self, slot: int) -> None:
        pass

    def close_all(self) -> None:
        close_sockets([self._sock])

    # From one process to the next

    def hand_over(self) -> dict[str, Any]:
        file = file_of(self._sock)
        return {
            "socket": self._sock.fileno(),
            "listens": self._listens,
            "file": None if file is None else [file.path, file.device, file.inode],
        }

    @classmethod
    def take_over(cls, state: Mapping[str, Any]) -> Self:
        listener = cls(adopt_descriptor(InheritedAddress(state["socket"])))
        listener._listens = state["listens"]
        if state["file"] is not None:
            listener._file_to_claim = SocketFile(*state["file"])
        return listener

    def claim_files(self) -> None:
        if self._file_to_claim is not None:
            claim_file(self._sock, self._file_to_claim)

    def disclaim_files(self) -> None:
        disclaim_file(self._sock)
