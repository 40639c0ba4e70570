"""Who holds the pidfile, and when it is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pounce.errors import SupervisorError
from pounce.supervisor import pidfile as module
from pounce.supervisor.pidfile import Pidfile

# Holds a pidfile until its standard input ends. Says "pounce" in its command line.
HOLDER = """
import os, sys
from pounce.errors import SupervisorError
from pounce.supervisor import pidfile
from pounce.supervisor.pidfile import Pidfile

pidfile._LOCK_TIMEOUT = 60.0  # who has the lock may wait long for the CPU
file = Pidfile(sys.argv[1])
print("at the start", flush=True)
sys.stdin.readline()
try:
    file.create()
    print("holds", flush=True)
except SupervisorError as error:
    print(error, flush=True)
sys.stdin.read()
file.remove()
"""


class Holder:
    """Another server that wants the pidfile."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        assert self.answer() == "at the start"

    @property
    def pid(self) -> int:
        return self.process.pid

    def answer(self) -> str:
        return self._stdout.readline().strip()

    def begin(self) -> None:
        self._stdin.write("go\n")
        self._stdin.flush()

    def close(self) -> None:
        with self.process:
            self._stdin.close()
        assert self.process.returncode == 0

    def kill(self) -> None:
        with self.process:
            self.process.kill()
            self._stdin.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


@pytest.fixture
def other(path: Path) -> Iterator[Holder]:
    """Another server that holds the file."""
    holder = Holder(path)
    holder.begin()
    assert holder.answer() == "holds"
    yield holder
    if holder.process.returncode is None:
        holder.close()


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_the_file_is_one_line_with_the_pid(path: Path) -> None:
    with Pidfile(path) as file:
        file.create()
        assert path.read_text() == f"{os.getpid()}\n"
        assert file.path == path
        assert os.listdir(path.parent) == ["server.pid"]
        assert path.stat().st_mode & 0o022 == 0
    assert os.listdir(path.parent) == []


def test_a_relative_path_outlives_a_change_of_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    with Pidfile("server.pid") as file:
        file.create()
        monkeypatch.chdir("/")
        assert path.exists()
    assert not path.exists()


def test_a_live_server_keeps_its_file(path: Path, other: Holder) -> None:
    file = Pidfile(path)
    with pytest.raises(SupervisorError) as caught:
        file.create()
    assert str(caught.value) == (
        f"pidfile {path} belongs to a running server (pid {other.pid}); "
        "if it is none, remove the file"
    )
    file.remove()
    assert path.read_text() == f"{other.pid}\n"
    assert os.listdir(path.parent) == ["server.pid"]


def test_a_file_of_a_server_that_was_killed_is_taken_over(path: Path, other: Holder) -> None:
    other.kill()
    assert path.read_text() == f"{other.pid}\n"
    with Pidfile(path) as file:
        file.create()
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_of_a_server_that_nobody_has_reaped_is_taken_over(path: Path, other: Holder) -> None:
    os.kill(other.pid, 9)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    try:
        assert psutil.pid_exists(other.pid)
        with Pidfile(path) as file:
            file.create()
            assert path.read_text() == f"{os.getpid()}\n"
    finally:
        other.kill()


@pytest.mark.parametrize(
    "content", ["", "\n", "pounce", "0", "-1", "1e3", "99999999999999999999", "9" * 60, "\0\0"]
)
def test_a_file_that_no_server_wrote_is_taken_over(path: Path, content: str) -> None:
    path.write_text(content)
    with Pidfile(path) as file:
        file.create()
        assert path.read_text() == f"{os.getpid()}\n"


def test_the_own_pid_from_an_earlier_life_is_taken_over(path: Path) -> None:
    path.write_text(f"{os.getpid()}\n")
    with Pidfile(path) as file:
        file.create()
    assert not path.exists()


def test_a_program_that_has_got_the_number_of_a_dead_server_does_not_hold_the_file(
    path: Path,
) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with sleeper:
        path.write_text(f"{sleeper.pid}\n")
        long_ago = psutil.Process(sleeper.pid).create_time() - 3600
        os.utime(path, (long_ago, long_ago))
        with Pidfile(path) as file:
            file.create()
            assert path.read_text() == f"{os.getpid()}\n"
        sleeper.kill()


def test_a_server_on_a_machine_whose_clock_was_set_keeps_its_file(
    path: Path, other: Holder
) -> None:
    os.utime(path, (0, 0))
    with pytest.raises(SupervisorError, match=rf"running server \(pid {other.pid}\)"):
        Pidfile(path).create()


def test_a_process_that_must_not_be_looked_at_is_taken_for_a_server(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hidden:
        def __init__(self, pid: int) -> None:
            raise psutil.AccessDenied(pid)

    monkeypatch.setattr(module.psutil, "Process", Hidden)
    path.write_text("77\n")
    with pytest.raises(SupervisorError, match=r"running server \(pid 77\)"):
        Pidfile(path).create()


def test_of_many_servers_that_find_a_stale_file_one_gets_it(path: Path) -> None:
    for _ in range(2):
        path.write_text(f"{dead_pid()}\n")
        holders = [Holder(path) for _ in range(4)]
        try:
            for holder in holders:
                holder.begin()
            answers = {holder.pid: holder.answer() for holder in holders}
            (winner,) = [pid for pid, answer in answers.items() if answer == "holds"]
            assert path.read_text() == f"{winner}\n"
            for pid, answer in answers.items():
                if pid != winner:
                    assert re.search(rf"belongs to a running server \(pid {winner}\)", answer)
        finally:
            for holder in holders:
                holder.close()
        assert os.listdir(path.parent) == []


def test_a_file_that_a_stranger_has_locked_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_TIMEOUT", 0.05)
    path.write_text(f"{dead_pid()}\n")
    with path.open() as stranger:
        module.fcntl.flock(stranger, module.fcntl.LOCK_EX)
        with pytest.raises(SupervisorError, match=r"is locked by another program$"):
            Pidfile(path).create()
    assert os.listdir(path.parent) == ["server.pid"]


# What is in the way


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "server.pid"
    with pytest.raises(SupervisorError) as caught:
        Pidfile(path).create()
    assert str(caught.value) == f"pidfile {path} cannot be written: No such file or directory"


def test_what_is_not_a_file_is_left_alone(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SupervisorError, match=r"cannot be written: Is a directory$"):
        Pidfile(path).create()
    assert os.listdir(path.parent) == ["server.pid"]


def test_a_symbolic_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(SupervisorError, match=r"cannot be written: "):
        Pidfile(path).create()
    assert victim.read_text() == "precious"
    assert path.is_symlink()


# Who removes it


def test_a_file_that_another_server_has_put_there_stays(path: Path) -> None:
    file = Pidfile(path)
    file.create()
    path.unlink()
    path.write_text("4242\n")
    file.remove()
    assert path.read_text() == "4242\n"


def test_a_file_that_somebody_has_removed_is_no_fault(path: Path) -> None:
    file = Pidfile(path)
    file.create()
    path.unlink()
    file.remove()
    file.remove()


def test_a_forked_worker_does_not_remove_it(path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pounce.supervisor.pidfile import Pidfile\n"
        "with Pidfile(sys.argv[1]) as file:\n"
        "    file.create()\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        file.remove()\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    assert os.path.exists(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert not path.exists()


def test_what_cannot_be_removed_is_logged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = Pidfile(path)
    file.create()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "unlink", refuse)
        file.remove()
    assert caplog.messages == [f"Pidfile {path} cannot be removed: Permission denied"]


# Upgrades


def test_the_next_master_writes_beside_and_then_takes_the_place(path: Path, other: Holder) -> None:
    successor = Pidfile(path)
    successor.create(successor=True)
    beside = Path(f"{path}.2")
    assert successor.path == beside
    assert beside.read_text() == f"{os.getpid()}\n"
    assert path.read_text() == f"{other.pid}\n"

    successor.promote()
    assert successor.path == path
    assert path.read_text() == f"{os.getpid()}\n"
    assert not beside.exists()

    other.close()  # which finds that the file is no longer its own
    assert path.read_text() == f"{os.getpid()}\n"
    successor.remove()
    assert os.listdir(path.parent) == []


def test_an_upgrade_that_fails_leaves_the_file_to_the_old_master(path: Path, other: Holder) -> None:
    with Pidfile(path) as successor:
        successor.create(successor=True)
    assert os.listdir(path.parent) == ["server.pid"]
    assert path.read_text() == f"{other.pid}\n"


def test_a_second_upgrade_at_the_same_time_is_refused(path: Path) -> None:
    holder = Holder(Path(f"{path}.2"))
    holder.begin()
    assert holder.answer() == "holds"
    with pytest.raises(SupervisorError, match=r"server\.pid\.2 belongs to a running server"):
        Pidfile(path).create(successor=True)
    holder.close()


def test_promotion_needs_a_file_that_waits(path: Path) -> None:
    file = Pidfile(path)
    file.promote()
    assert not path.exists()
    with file:
        file.create()
        file.promote()
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_promotion_that_fails_says_why(path: Path) -> None:
    with Pidfile(path) as file:
        file.create(successor=True)
        path.mkdir()
        with pytest.raises(SupervisorError, match=r"server\.pid\.2 cannot be renamed to "):
            file.promote()
        assert file.path.exists()
    assert not file.path.exists()
