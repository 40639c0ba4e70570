"""The user at the other end of a socket."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from typing import Any

import pytest

from pounce.supervisor import peer_credentials as module
from pounce.supervisor.peer_credentials import peer_uid


def test_the_peer_of_a_pair_is_this_user() -> None:
    first, second = socket.socketpair(socket.AF_UNIX)
    with first, second:
        assert peer_uid(first) == os.geteuid()


@pytest.fixture
def other_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(module, "_getpeereid", module._getpeereid.__wrapped__)


@pytest.mark.usefixtures("other_system")
def test_elsewhere_the_c_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        def __init__(self, name: None, use_errno: bool) -> None:
            pass

        def getpeereid(self, fd: int, uid: Any, gid: Any) -> int:
            asked.append(fd)
            uid._obj.value = 3_456_789_012
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    first, second = socket.socketpair(socket.AF_UNIX)
    with first, second:
        assert peer_uid(first) == 3_456_789_012
        assert asked == [first.fileno()]


@pytest.mark.usefixtures("other_system")
def test_a_peer_that_is_gone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_getpeereid", lambda: lambda *args: -1)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="getpeereid failed"):
        peer_uid(sock)


@pytest.mark.usefixtures("other_system")
def test_where_nobody_can_tell_it_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    with socket.socket(socket.AF_UNIX) as sock:
        assert peer_uid(sock) is None
