"""The places of control sockets, and whom they are closed to."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pounce.supervisor import control_paths as module
from pounce.supervisor.control_messages import ControlError
from pounce.supervisor.control_paths import (
    directories,
    is_answered,
    make_private_directory,
    remove_stale_sockets,
    sockets_in,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
STRANGER = 3_456_789


@pytest.fixture(autouse=True)
def temporary(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is taken for /tmp."""
    folder = short_tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(module, "TEMPORARY", folder)
    monkeypatch.setattr(module, "USERS", short_tmp_path / "users")
    return folder


@pytest.fixture
def runtime(short_tmp_path: Path) -> dict[str, str]:
    """An environment with a runtime directory."""
    folder = short_tmp_path / "runtime"
    folder.mkdir(mode=0o700)
    return {"XDG_RUNTIME_DIR": str(folder)}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def own(temporary: Path) -> Path:
    return temporary / f"pounce-{os.geteuid()}"


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock


# Where they are


def test_the_runtime_directory_comes_first(short_tmp_path: Path, temporary: Path) -> None:
    assert directories({"XDG_RUNTIME_DIR": "/elsewhere"}, 7) == [
        Path("/elsewhere/pounce"),
        short_tmp_path / "users" / "7" / "pounce",
        temporary / "pounce-7",
    ]
    assert directories({"XDG_RUNTIME_DIR": str(short_tmp_path / "users" / "7")}, 7) == [
        short_tmp_path / "users" / "7" / "pounce",
        temporary / "pounce-7",
    ]


@pytest.mark.parametrize("environment", [{}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "a/b"}])
def test_without_one_there_are_two_places(environment: dict[str, str], temporary: Path) -> None:
    places = directories(environment)
    assert len(places) == 2
    assert places[-1] == own(temporary)
    assert make_private_directory(environment) == own(temporary)


def test_a_new_directory_is_private_whatever_the_umask(runtime: dict[str, str]) -> None:
    for mask in (0, 0o277):
        before = os.umask(mask)
        try:
            made = make_private_directory(runtime)
        finally:
            os.umask(before)
        assert made == Path(runtime["XDG_RUNTIME_DIR"], "pounce")
        assert mode_of(made) == 0o700
        made.rmdir()


def test_a_directory_that_is_there_is_used_and_closed_to_others(temporary: Path) -> None:
    own(temporary).mkdir()
    own(temporary).chmod(0o777)
    assert make_private_directory({}) == own(temporary)
    assert mode_of(own(temporary)) == 0o700


@pytest.mark.parametrize("value", ["/nonexistent/runtime", "/dev/null", "/" + "x" * 80])
def test_a_runtime_directory_that_cannot_be_used_is_passed_over(
    value: str, temporary: Path
) -> None:
    assert make_private_directory({"XDG_RUNTIME_DIR": value}) == own(temporary)


@needs_root
def test_the_runtime_directory_of_another_user_is_passed_over(
    runtime: dict[str, str], temporary: Path
) -> None:
    """As left over in the environment by sudo or su."""
    os.chown(runtime["XDG_RUNTIME_DIR"], STRANGER, STRANGER)
    assert make_private_directory(runtime) == own(temporary)
    assert os.listdir(runtime["XDG_RUNTIME_DIR"]) == []


# What somebody else has prepared


@needs_root
def test_a_directory_of_another_user_is_refused(temporary: Path) -> None:
    own(temporary).mkdir()
    os.chown(own(temporary), STRANGER, STRANGER)
    with pytest.raises(ControlError) as caught:
        make_private_directory({})
    assert str(caught.value) == f"{own(temporary)} belongs to another user ({STRANGER})"


def test_a_symbolic_link_is_refused(temporary: Path, short_tmp_path: Path) -> None:
    target = short_tmp_path / "target"
    target.mkdir()
    target.chmod(0o755)
    own(temporary).symlink_to(target)
    with pytest.raises(ControlError, match=r"cannot be used: (Not a directory|Too many levels)"):
        make_private_directory({})
    assert mode_of(target) == 0o755
    assert sockets_in(own(temporary)) == []


def test_a_place_where_directories_can_be_exchanged_is_refused(temporary: Path) -> None:
    temporary.chmod(0o777)
    with pytest.raises(ControlError, match=r"is writable by others and has no sticky bit$"):
        make_private_directory({})
    assert not own(temporary).exists()


def test_a_machine_without_a_writable_place_is_told(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(temporary).mkdir(mode=0o700)
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)
    with pytest.raises(ControlError, match=r"is not writable$"):
        make_private_directory({})


# What is in them


def test_sockets_are_listed_by_pid(temporary: Path) -> None:
    for name in ("9.ctl", "10.ctl", "10.ctl.new", "0.ctl", "x.ctl", "7", "07.ctl", "1.ctl\n"):
        (temporary / name).touch()
    temporary.chmod(0o700)
    assert sockets_in(temporary) == [(9, temporary / "9.ctl"), (10, temporary / "10.ctl")]
    assert sockets_in(temporary / "none") == []


def test_what_others_may_have_put_there_is_not_listed(temporary: Path) -> None:
    (temporary / "9.ctl").touch()
    for mode in (0o1777, 0o770, 0o702):
        temporary.chmod(mode)
        assert sockets_in(temporary) == []
    temporary.chmod(0o755)
    assert len(sockets_in(temporary)) == 1
    assert sockets_in(temporary, STRANGER) == []


@needs_root
def test_root_may_list_what_is_private_to_another_user(temporary: Path) -> None:
    (temporary / "9.ctl").touch()
    temporary.chmod(0o700)
    os.chown(temporary, STRANGER, STRANGER)
    assert sockets_in(temporary) == []
    assert sockets_in(temporary, STRANGER) == [(9, temporary / "9.ctl")]


def test_a_socket_is_answered_while_somebody_listens(short_tmp_path: Path) -> None:
    path = short_tmp_path / "socket"
    assert not is_answered(path)
    with listening(path):
        assert is_answered(path)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for client in clients:
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        else:
            pytest.fail("the queue is never full")
        assert is_answered(path)
        for client in clients:
            client.close()
    assert path.exists()
    assert not is_answered(path)


def test_only_sockets_that_nobody_answers_are_removed(temporary: Path) -> None:
    temporary.chmod(0o700)
    live, dead, file = (temporary / f"{number}.ctl" for number in (1, 2, 3))
    listening(dead).close()
    file.touch()
    with listening(live):
        remove_stale_sockets(temporary)
        assert sorted(temporary.iterdir()) == [live, file]
    live.unlink()
