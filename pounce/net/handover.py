"""Listening sockets on their way from one master to the next, when the program is upgraded.

The state is plain data, ready for JSON: it may be read by another version of the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pounce.addresses import Address, InheritedAddress, parse_address
from pounce.errors import BindError
from pounce.net.listener import Listener
from pounce.net.reuseport_listener import ReusePortListener
from pounce.net.shared_listener import SharedListener

VERSION: Final = 1

_CLASSES: Final[tuple[type[Listener], ...]] = (ReusePortListener, SharedListener)


def describe(
    slots: Iterable[int], listeners: Mapping[Address, Iterable[Listener]]
) -> dict[str, Any]:
    """The state of all listeners."""
    return {
        "version": VERSION,
        "slots": list(slots),
        "addresses": [
            {
                "address": str(address),
                "name": address.name if isinstance(address, InheritedAddress) else "",
                "listeners": [_describe_listener(listener) for listener in found],
            }
            for address, found in listeners.items()
        ],
    }


def _describe_listener(listener: Listener) -> dict[str, Any]:
    return {"kind": listener.kind, **listener.hand_over()}


def restore(state: Mapping[str, Any]) -> tuple[list[int], dict[Address, list[Listener]]]:
    """The slots and the listeners that `describe` was given, in the process that inherited them.

    Raises `BindError` when they cannot be understood.
    """
    if state.get("version") != VERSION:
        raise BindError("the sockets were handed over by a version that is too different")
    classes = {cls.kind: cls for cls in _CLASSES}
    return state["slots"], {
        _address_of(entry): [
            classes[listener["kind"]].take_over(listener) for listener in entry["listeners"]
        ]
        for entry in state["addresses"]
    }


def _address_of(entry: Mapping[str, Any]) -> Address:
    address = parse_address(entry["address"])
    if isinstance(address, InheritedAddress):
        return InheritedAddress(address.fd, entry["name"])
    return address


def descriptors(state: Mapping[str, Any]) -> list[int]:
    """Every descriptor that goes with a state, for `subprocess.Popen(pass_fds=...)`."""
    found: set[int] = set()
    for entry in state["addresses"]:
        for listener in entry["listeners"]:
            if listener["kind"] == SharedListener.kind:
                found.add(listener["socket"])
            else:
                found |= {*listener["slots"].values(), *listener["spare"], *listener["order"]}
    return sorted(found)


def activated_addresses(state: Mapping[str, Any]) -> list[InheritedAddress]:
    """The sockets in a state that once came from systemd, which no configuration names."""
    addresses = (_address_of(entry) for entry in state["addresses"])
    return [each for each in addresses if isinstance(each, InheritedAddress) and each.name]
