from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from pounce.addresses import InheritedAddress
from pounce.errors import BindError
from pounce.net.activation import activated_addresses, adopt_descriptor


def environ(**variables: str) -> dict[str, str]:
    return {"PATH": "/bin", **variables}


def test_sockets_of_systemd_are_numbered_from_three_and_named() -> None:
    variables = environ(
        LISTEN_PID=str(os.getpid()), LISTEN_FDS="3", LISTEN_FDNAMES="http:admin:http"
    )
    addresses = activated_addresses(variables)
    assert addresses == [InheritedAddress(3), InheritedAddress(4), InheritedAddress(5)]
    assert [address.name for address in addresses] == ["http", "admin", "http"]
    assert variables == {"PATH": "/bin"}


@pytest.mark.parametrize("names", [None, "", "http", "http:"])
def test_missing_names_are_unknown(names: str | None) -> None:
    variables = environ(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
    if names is not None:
        variables["LISTEN_FDNAMES"] = names
    first, second = activated_addresses(variables)
    assert first.name == (names or "unknown").rstrip(":")
    assert second.name == "unknown"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "LISTEN_PIDFDID": "7"},
    ],
)
def test_variables_for_nobody_or_somebody_else_say_nothing(variables: dict[str, str]) -> None:
    variables = environ(**variables)
    assert activated_addresses(variables) == []
    assert variables == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"LISTEN_PID": "x", "LISTEN_FDS": "1"}, "^LISTEN_PID is 'x', which is not a number$"),
        (
            {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"},
            "^LISTEN_FDS is '-1', which is not a number$",
        ),
    ],
)
def test_malformed_variables_are_refused(variables: dict[str, str], reason: str) -> None:
    variables = environ(**variables)
    with pytest.raises(BindError, match=reason):
        activated_addresses(variables)
    assert variables == {"PATH": "/bin"}


# What systemd does between fork and exec.
SYSTEMD = """
import os, sys
for place, fd in enumerate(map(int, sys.argv[1:3]), 3):
    os.dup2(fd, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[3]])
"""
PROGRAM = """
import os, sys
from pounce.net.activation import activated_addresses
from pounce.net.sockets import bind_address, bound_addr
sockets = [sock for address in activated_addresses() for sock in bind_address(address)]
print(*(f"{sock.fileno()} {bound_addr(sock)[1]}" for sock in sockets))
print(any(name.startswith("LISTEN_") for name in os.environ))
print(any(sock.get_inheritable() for sock in sockets))
"""


def test_a_process_started_as_systemd_does_finds_its_sockets() -> None:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [sock.getsockname()[1] for sock in sockets]
        fds = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 10) for sock in sockets]
        for fd in fds:
            stack.callback(os.close, fd)
        result = subprocess.run(
            [sys.executable, "-c", SYSTEMD, *map(str, fds), PROGRAM],
            pass_fds=fds,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [f"3 {ports[0]} 4 {ports[1]}", "False", "False"]


def test_a_descriptor_of_systemd_that_does_not_fit_is_named() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        with pytest.raises(
            BindError, match=rf"^file descriptor {fd} \(http, from systemd\) is not a socket$"
        ):
            adopt_descriptor(InheritedAddress(fd, "http"))
    finally:
        os.close(fd)
