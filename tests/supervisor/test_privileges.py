"""Who the program goes on as, and that it cannot go back."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pounce.errors import ConfigError, PounceError, SupervisorError
from pounce.supervisor import privileges as module
from pounce.supervisor.privileges import (
    Identity,
    drop_privileges,
    resolve_identity,
    set_umask,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give root up")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

ROOT = pwd.getpwuid(0)
# Neither has an account on any machine.
UID, GID = 3_456_789, 3_456_790

# What is told of the process comes after what it did; modules of the standard library that this
# needs are loaded before, as the new user may not read them.
PROGRAM = """
import json, os, sys
from pounce.errors import SupervisorError
from pounce.supervisor.privileges import Identity, drop_privileges

{before}
try:
    drop_privileges(Identity({identity}))
    said = None
except SupervisorError as error:
    said = str(error)
status = dict(line.split(":", 1) for line in open("/proc/self/status")) if {linux} else dict()
try:
    os.setuid(0)
    regained = True
except PermissionError:
    regained = False
print(json.dumps([said, status, regained, os.getgroups()]))
"""


def after_dropping(*identity: object, before: str = "") -> tuple[str | None, dict[str, Any]]:
    """What a process of root said and is after it went on as `identity`."""
    program = PROGRAM.format(
        identity=", ".join(map(repr, identity)), before=before, linux=sys.platform == "linux"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    said, status, regained, groups = json.loads(done.stdout)
    facts = {name: value.split() for name, value in status.items()}
    return said, {**facts, "regained": regained, "groups": groups}


# Names and numbers


def test_nothing_wanted_is_nobody() -> None:
    assert resolve_identity(None, None) is None


@pytest.mark.parametrize("user", [ROOT.pw_name, "0"])
def test_a_user_brings_the_main_group(user: str) -> None:
    assert resolve_identity(user, None) == Identity(0, ROOT.pw_gid, ROOT.pw_name)


def test_a_group_of_its_own_is_taken_by_name_and_by_number() -> None:
    group = max(grp.getgrall(), key=lambda entry: entry.gr_gid)
    by_name = resolve_identity(ROOT.pw_name, group.gr_name)
    assert by_name == resolve_identity("0", str(group.gr_gid))
    assert by_name == Identity(0, group.gr_gid, ROOT.pw_name)


def test_a_group_alone_keeps_the_user() -> None:
    own = pwd.getpwuid(os.geteuid()).pw_name
    assert resolve_identity(None, str(GID)) == Identity(os.geteuid(), GID, own)


def test_a_number_needs_no_account() -> None:
    assert resolve_identity(str(UID), str(GID)) == Identity(UID, GID, None)


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "there is no user 'no-such-user'"),
        ("no-such-user", "0", "there is no user 'no-such-user'"),
        ("0", "no-such-group", "there is no group 'no-such-group'"),
        (None, "no-such-group", "there is no group 'no-such-group'"),
        ("", None, "there is no user ''"),
        ("0", "", "there is no group ''"),
        ("-1", None, "there is no user '-1'"),
        ("4294967295", "0", "there is no user '4294967295'"),
        ("0", "4294967295", "there is no group '4294967295'"),
        ("99999999999", "0", "there is no user '99999999999'"),
        ("٣", "0", "there is no user '٣'"),
        ("a\0b", "0", "there is no user 'a\\x00b'"),
        (
            str(UID),
            None,
            f"user {UID} has no account that names a group: give the group, too",
        ),
    ],
)
def test_what_does_not_exist_is_named(user: str | None, group: str | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_identity(user, group)
    assert str(caught.value) == message


# Giving root up


@needs_root
@linux_only
def test_every_id_is_given_up_and_so_are_all_groups_and_capabilities() -> None:
    said, facts = after_dropping(UID, GID, None, before="os.setgroups([0, 4, 5])")
    assert said is None
    assert facts["Uid"] == [str(UID)] * 4
    assert facts["Gid"] == [str(GID)] * 4
    assert facts["groups"] == [GID]
    assert facts["regained"] is False
    assert {int(facts[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}


@needs_root
def test_an_account_brings_its_groups() -> None:
    # Any account but root, best one that is in several groups.
    account = max(
        (entry for entry in pwd.getpwall() if entry.pw_uid != 0),
        key=lambda entry: len(os.getgrouplist(entry.pw_name, entry.pw_gid)),
    )
    said, facts = after_dropping(
        account.pw_uid, account.pw_gid, account.pw_name, before="os.setgroups([0])"
    )
    assert said is None
    assert set(facts["groups"]) == set(os.getgrouplist(account.pw_name, account.pw_gid))
    assert facts["regained"] is False


@needs_root
@linux_only
def test_a_group_alone_is_changed_and_root_kept() -> None:
    said, facts = after_dropping(0, GID, ROOT.pw_name)
    assert said is None
    assert facts["Uid"] == ["0"] * 4
    assert facts["Gid"] == [str(GID)] * 4
    assert GID in facts["groups"]


@needs_root
@linux_only
def test_saved_ids_do_not_survive() -> None:
    """Root that goes about as somebody else for a while has not given anything up."""
    said, facts = after_dropping(UID, GID, None, before=f"os.setresuid(0, 0, {UID})")
    assert said is None
    assert facts["Uid"] == [str(UID)] * 4


@needs_root
@linux_only
def test_a_process_that_can_get_root_back_is_told_so() -> None:
    # Securebits: capabilities stay when the last id of root goes (capabilities(7)).
    keep = "import ctypes; assert ctypes.CDLL(None).prctl(28, 1 << 2, 0, 0, 0) == 0"
    said, _ = after_dropping(UID, GID, None, before=keep)
    assert said == f"root could be regained after going on as user {UID} and group {GID}"


@needs_root
@linux_only
def test_a_user_that_is_not_root_cannot_become_another() -> None:
    before = "os.setgroups([]); os.setgid(5000); os.setuid(5001)"
    said, facts = after_dropping(UID, GID, None, before=before)
    assert said == f"only root may go on as user {UID} and group {GID}; this is user 5001"
    assert facts["Uid"][0] == "5001"


@needs_root
@linux_only
def test_a_user_that_is_the_wanted_one_already_goes_on() -> None:
    before = "os.setgroups([4, 5]); os.setgid(5000); os.setuid(5001)"
    said, facts = after_dropping(5001, 5000, None, before=before)
    assert said is None
    assert facts["Uid"][0] == "5001"


def test_a_kernel_that_says_no_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose namespace does not have the number."""

    def refuse(*args: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(module.os, "setgroups", refuse)
    with pytest.raises(SupervisorError) as caught:
        drop_privileges(Identity(UID, GID, None))
    assert str(caught.value) == f"cannot go on as user {UID} and group {GID}: Invalid argument"


def test_a_call_that_does_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, object]] = []
    for name in ("setgroups", "setgid", "setuid", "seteuid"):
        monkeypatch.setattr(module.os, name, lambda value, name=name: done.append((name, value)))
    with pytest.raises(SupervisorError) as caught:
        drop_privileges(Identity(UID, GID, None))
    assert str(caught.value) == f"this process did not become user {UID} and group {GID}"
    assert done == [("setgroups", [GID]), ("setgid", GID), ("setuid", UID)]


# The mask


def test_the_mask_of_new_files_is_set(tmp_path: Path) -> None:
    before = set_umask(0o027)
    try:
        (tmp_path / "file").touch()
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
        assert set_umask(0o077) == 0o027
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [-1, 0o1000, 0o7777])
def test_a_mask_of_other_bits_is_refused(mask: int) -> None:
    with pytest.raises(PounceError, match=r"^umask .* is not within 0 and 0o777$"):
        set_umask(mask)
