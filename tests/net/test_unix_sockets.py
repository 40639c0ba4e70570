from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce.addresses import UnixAddress
from pounce.errors import BindError
from pounce.net.sockets import bound_addr, close_sockets
from pounce.net.unix_sockets import (
    DEFAULT_ACCESS,
    FileAccess,
    SocketFile,
    bind_unix,
    claim_file,
    disclaim_file,
    file_of,
)


@pytest.fixture
def path(short_tmp_path: Path) -> Path:
    return short_tmp_path / "s"


@pytest.fixture
def bound(path: Path) -> Iterator[socket.socket]:
    sock = bind_unix(UnixAddress(str(path)), DEFAULT_ACCESS)
    yield sock
    close_sockets([sock])


# The owner


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The owners that files are given, which takes a privilege in truth."""
    calls: list[tuple[int, int]] = []

    def chown(path: Any, uid: int, gid: int, **options: Any) -> None:
        assert os.lstat(path)
        assert options == {"follow_symlinks": False}
        calls.append((uid, gid))

    monkeypatch.setattr(os, "chown", chown)
    return calls


@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        ("root", (0, -1)),
        ("1234", (1234, -1)),
        ("1234:5678", (1234, 5678)),
        ("root:5678", (0, 5678)),
        (":5678", (-1, 5678)),
    ],
)
def test_the_file_is_given_to_its_owner(
    path: Path, given: list[tuple[int, int]], owner: str, ids: tuple[int, int]
) -> None:
    sock = bind_unix(UnixAddress(str(path)), FileAccess(0o600, owner))
    close_sockets([sock])
    assert given == [ids]


def test_the_file_really_changes_hands(path: Path) -> None:
    owner = f"{os.getuid()}:{os.getgid()}"
    sock = bind_unix(UnixAddress(str(path)), FileAccess(0o640, owner))
    status = path.stat()
    close_sockets([sock])
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
    assert stat.S_IMODE(status.st_mode) == 0o640


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        ("no-such-user", "^user 'no-such-user' is unknown$"),
        ("0:no-such-group", "^group 'no-such-group' is unknown$"),
    ],
)
def test_an_unknown_owner_is_named(path: Path, owner: str, reason: str) -> None:
    with pytest.raises(BindError, match=reason):
        bind_unix(UnixAddress(str(path)), FileAccess(owner=owner))
    assert not path.exists()


def test_an_owner_that_may_not_be_set_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chown(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(BindError, match=rf"^no permission to give {path} to 0:0$"):
        bind_unix(UnixAddress(str(path)), FileAccess(owner="0:0"))
    assert not path.exists()


# Abstract names

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


@needs_linux
def test_an_abstract_socket_has_no_file_and_one_holder() -> None:
    address = UnixAddress(f"@pounce-test-{os.getpid()}")
    sock = bind_unix(address, DEFAULT_ACCESS)
    try:
        assert bound_addr(sock) == (address.path, 0)
        assert file_of(sock) is None
        with pytest.raises(BindError, match=rf"^{address} is in use$"):
            bind_unix(address, DEFAULT_ACCESS)
    finally:
        close_sockets([sock])


@needs_linux
def test_an_abstract_name_too_long_is_named() -> None:
    with pytest.raises(BindError, match=r"is too long for a Unix socket"):
        bind_unix(UnixAddress("@" + "n" * 200), DEFAULT_ACCESS)


def test_abstract_sockets_are_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BindError, match=r"^unix:@x is an abstract socket, which only Linux has$"):
        bind_unix(UnixAddress("@x"), DEFAULT_ACCESS)


# Who removes the file


def test_a_file_left_to_another_process_outlives_the_socket(
    bound: socket.socket, path: Path
) -> None:
    file = file_of(bound)
    assert file is not None
    assert file.path == str(path)
    disclaim_file(bound)
    assert file_of(bound) is None
    close_sockets([bound])
    assert path.exists()


def test_a_claimed_file_goes_with_the_socket(bound: socket.socket, path: Path) -> None:
    file = file_of(bound)
    assert file is not None
    disclaim_file(bound)
    claim_file(bound, file)
    close_sockets([bound])
    assert not path.exists()


def test_a_claimed_file_that_has_been_replaced_is_left(bound: socket.socket, path: Path) -> None:
    status = path.stat()
    claim_file(bound, SocketFile(str(path), status.st_dev, status.st_ino + 1))
    close_sockets([bound])
    assert path.exists()


def test_only_a_unix_socket_with_a_path_has_a_file() -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unbound:
        assert file_of(tcp) is None
        assert file_of(unbound) is None
