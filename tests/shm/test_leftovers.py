"""What a dead server has left is removed, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pounce.shm import name_lock, names, owner
from pounce.shm.leftovers import remove_leftovers
from pounce.shm.segment import OWNER, Segment, SegmentNotFoundError, unlink
from tests.shm.subprocesses import start_python
from tests.waiting import wait_until

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/shm")


@pytest.fixture(params=["locks", "pids"])
def evidence(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> str:
    """Whether locks tell that an owner lives, or only pids, as on macOS; there names are
    remembered instead of listed, too."""
    if request.param == "locks" and not name_lock.CAN_LOCK:
        pytest.skip("no locks here")
    if request.param == "pids":
        monkeypatch.setattr(name_lock, "CAN_LOCK", False)
        monkeypatch.setattr(names, "_IS_LISTED", False)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kind: str = request.param
    return kind


def exists(name: str) -> bool:
    try:
        Segment.attach(name).close()
    except SegmentNotFoundError:
        return False
    return True


# Both live until their standard input ends.
CREATE = """
    import os, sys
    from pounce.shm import name_lock
    from pounce.shm.segment import Segment
    name_lock.CAN_LOCK = sys.argv[1] == "locks"
    segment = Segment.create(100)
    forks = sys.argv[2:] == ["fork"]
    is_child = forks and not os.fork()
    if is_child or not forks:
        print(segment.name, flush=True)
    sys.stdin.readline()
    if is_child:
        os._exit(0)
"""


def name_from(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


@pytest.mark.parametrize("child", [[], ["fork"]], ids=["alone", "with a forked child"])
def test_a_killed_owner_leaves_a_leftover(evidence: str, child: list[str]) -> None:
    """A child that goes on for a while does not hold it."""
    with start_python(CREATE, evidence, *child) as program:
        name = name_from(program)
        names.remember(name)
        remove_leftovers()
        assert exists(name)
        program.send_signal(signal.SIGKILL)
        # It is a zombie then: nobody has waited for it.
        wait_until(lambda: not owner.is_alive(owner.owner_word(program.pid)), "it is dead")
        remove_leftovers()
        assert not exists(name)
        assert name not in names.existing_names()


# Lives until its standard input ends, and has told then that it may own the segment.
INHERIT = """
    import sys
    from pounce.shm import name_lock
    from pounce.shm.segment import Segment
    name_lock.CAN_LOCK = sys.argv[1] == "locks"
    segment = Segment.attach(sys.argv[2])
    segment.become_heir()
    print(flush=True)
    sys.stdin.readline()
"""


class Former:
    """A process that owns a segment, until it is killed."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program
        self.name = name_from(program)
        names.remember(self.name)

    def kill(self) -> None:
        """What it leaves is looked at by whoever looks for leftovers."""
        self._program.kill()
        self._program.wait(60)
        remove_leftovers()


@pytest.fixture
def former(evidence: str) -> Iterator[Former]:
    with start_python(CREATE, evidence) as program:
        yield Former(program)


def test_what_somebody_may_inherit_stays_when_its_owner_is_killed(
    evidence: str, former: Former
) -> None:
    with start_python(INHERIT, evidence, former.name) as heir:
        assert heir.stdout is not None
        assert heir.stdin is not None
        heir.stdout.readline()
        former.kill()
        assert exists(former.name)
        heir.stdin.close()
        heir.wait(60)
    remove_leftovers()
    assert not exists(former.name)


def test_an_heir_can_become_the_owner(former: Former) -> None:
    with Segment.attach(former.name) as heir:
        heir.become_heir()
        heir.become_heir()
        heir.adopt()
        assert heir.is_owned
        former.kill()
        assert exists(former.name)
    assert not exists(former.name)


def test_who_gives_up_to_inherit_keeps_nothing(former: Former) -> None:
    with Segment.attach(former.name) as heir:
        heir.become_heir()
    former.kill()
    assert not exists(former.name)


def test_what_the_caller_is_to_inherit_stays(evidence: str) -> None:
    with Segment.create(10) as segment:
        assert segment.name is not None
        segment._header[OWNER] ^= 1  # another process, which is dead
        name_lock.drop(segment._lock)
        remove_leftovers(but=segment.name)
        assert exists(segment.name)
        remove_leftovers()
        assert not exists(segment.name)


@LINUX
def test_a_forked_child_of_an_heir_takes_a_lock_of_its_own() -> None:
    with Segment.create(10) as former:
        assert former.name is not None
        with Segment.attach(former.name) as heir:
            heir.become_heir()
            pid = os.fork()
            if not pid:
                heir.adopt()
                os._exit(0 if name_lock.is_held(heir._lock) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        unlink(former.name)  # nobody owns it any more


def test_what_is_gone_cannot_be_inherited(evidence: str) -> None:
    with Segment.create(10) as former:
        assert former.name is not None
        with Segment.attach(former.name) as heir:
            former.close()
            with pytest.raises(SegmentNotFoundError, match="is gone"):
                heir.become_heir()


def test_what_is_in_use_stays(evidence: str) -> None:
    with Segment.create(10) as segment:
        assert segment.name is not None
        assert segment.name not in remove_leftovers()
        assert exists(segment.name)


def test_a_later_process_with_the_pid_of_the_owner_is_not_the_owner(evidence: str) -> None:
    with Segment.create(10) as segment:
        assert segment.name is not None
        segment._header[OWNER] ^= 1  # another start time
        name_lock.drop(segment._lock)
        remove_leftovers()
        assert not exists(segment.name)


@LINUX
def test_an_owner_whose_lock_is_lost_is_known_by_its_pid() -> None:
    """Some programs close all descriptors they do not know."""
    with Segment.create(10) as segment:
        assert segment.name is not None
        name_lock.drop(segment._lock)
        assert segment.name not in remove_leftovers()


@LINUX
def test_an_owner_whose_pid_means_nothing_here_is_known_by_its_lock() -> None:
    unshare = shutil.which("unshare")
    probe = [unshare or "false", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace")
    with start_python(CREATE, "locks", prefix=probe[:-1]) as program:
        name = name_from(program)
        with Segment.attach(name) as segment:
            assert segment.owner_pid < 10
        remove_leftovers()
        assert exists(name)
        assert program.stdin is not None
        program.stdin.close()
        program.wait(60)
    remove_leftovers()
    assert not exists(name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("is_complete", [True, False])
def test_what_another_user_has_left_stays(is_complete: bool) -> None:
    segment = Segment.create(10)
    name = segment.name
    assert name is not None
    try:
        # As if it had been created by the user that is now only 65533 here.
        segment._header[3] = 65533
        if not is_complete:
            os.chown(names.FOLDER / name, 65533, 65533)
            segment._header[0] = 0
        segment._header[OWNER] = 0
        segment.close()
        assert name not in remove_leftovers()
        assert (names.FOLDER / name).exists()
    finally:
        unlink(name)


@LINUX
def test_what_was_never_completed_is_left_over() -> None:
    path = names.FOLDER / names.new_name()
    path.touch()
    remove_leftovers()
    assert not path.exists()


@LINUX
def test_what_is_being_created_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its creator has its lock before it reserves the pages."""
    removed = []

    def write_header(segment: Segment, size: int) -> None:
        removed.extend(remove_leftovers())
        original(segment, size)

    original = Segment._write_header
    monkeypatch.setattr(Segment, "_write_header", write_header)
    with Segment.create(10) as segment:
        assert segment.name is not None
        assert segment.name not in removed
        assert exists(segment.name)


@LINUX
@pytest.mark.parametrize("name", ["pounce-", "pounce-../x", "pounce_1", "pounce-A1.tmp", "other-1"])
def test_files_with_other_names_stay(name: str) -> None:
    assert not names._PATTERN.fullmatch(name)


def test_a_further_segment_goes_with_the_one_that_it_belongs_to() -> None:
    with Segment.create(10) as base:
        assert base.name is not None
        further = Segment.create(10, names.further_name(base.name, 0))
        assert further.name is not None
        further._header[OWNER] = 0  # its creator has died
        further.close()
        name_lock.drop(further._lock)
        remove_leftovers()
        assert exists(further.name)
    remove_leftovers()
    assert not exists(further.name)
