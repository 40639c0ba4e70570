"""Giving up root: the user and the group that the program, or its workers, go on as.

The order is that of setuid programs (CERT POS36-C): supplementary groups first, then the group,
then the user, because the last step takes away the right to the others. Each step is verified, and
so is that there is no way back.
"""

from __future__ import annotations

import grp
import os
import pwd
import sys
from dataclasses import dataclass
from typing import Final

from pounce.errors import ConfigError, SupervisorError

_HIGHEST_ID: Final = 2**32 - 2
"""4294967295 is -1, which means "leave it as it is" to setresuid(2)."""
_HIGHEST_MASK: Final = 0o777


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a process acts as."""

    uid: int
    gid: int
    user_name: str | None
    """Name of the account, whose supplementary groups are taken; None: there are none of them."""


def resolve_identity(user: str | None, group: str | None) -> Identity | None:
    """The identity that names or numbers stand for; None where neither is given.

    Without a group it is the main group of the user; without a user the present user stays. All
    digits are a number, unless an account has that name.

    Raises:
        ConfigError: There is no such user or group, or a user without an account was given
            without a group.
    """
    if user is None and group is None:
        return None
    if user is None:
        assert group is not None
        uid = os.geteuid()
        return Identity(uid, _find_group(group), _account_name(uid))
    account = _find_account(user)
    if isinstance(account, pwd.struct_passwd):
        gid = account.pw_gid if group is None else _find_group(group)
        return Identity(account.pw_uid, gid, account.pw_name)
    if group is None:
        raise ConfigError(f"user {account} has no account that names a group: give the group, too")
    return Identity(account, _find_group(group), None)


def check_may_become(identity: Identity) -> None:
    """Whether `drop_privileges` has a chance, without doing it.

    Raises:
        SupervisorError: This process is somebody else, and not root.
    """
    if not _has_ids_of(identity) and os.geteuid() != 0:
        raise SupervisorError(_refusal(identity, PermissionError()))


def drop_privileges(identity: Identity) -> None:
    """Go on as `identity`, for good. Nothing happens where this process is that already.

    Must be called in the main thread before others are started, and before anything is made that
    the new user shall own.

    Raises:
        SupervisorError: This process may not do that, or could get root back. It must end then:
            some steps may have been done.
    """
    if not _has_ids_of(identity) or os.geteuid() == 0:
        try:
            _become(identity)
        except OSError as error:
            raise SupervisorError(_refusal(identity, error)) from error
    if identity.uid != 0 and _can_become_root():
        raise SupervisorError(f"root could be regained after going on as {_describe(identity)}")


def set_umask(mask: int) -> int:
    """Takes the bits of `mask` from the mode of every file that is made from now on; returns the
    mask before.

    Raises:
        ConfigError: `mask` is more than the nine permission bits.
    """
    if not 0 <= mask <= _HIGHEST_MASK:
        raise ConfigError(f"umask {mask:#o} is not within 0 and {_HIGHEST_MASK:#o}")
    return os.umask(mask)


def _find_account(user: str) -> pwd.struct_passwd | int:
    """The account of a name or a number, or the number itself where it has no account."""
    if "\0" not in user:
        try:
            return pwd.getpwnam(user)
        except KeyError:
            pass
    uid = _number(user)
    if uid is None:
        raise ConfigError(f"there is no user {user!r}")
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return uid


def _find_group(group: str) -> int:
    if "\0" not in group:
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            pass
    gid = _number(group)
    if gid is None:
        raise ConfigError(f"there is no group {group!r}")
    return gid


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _HIGHEST_ID:
        return int(text)
    return None


def _account_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _become(identity: Identity) -> None:
    if identity.user_name is None:
        groups = {identity.gid}
        os.setgroups([identity.gid])
    else:
        groups = {identity.gid, *os.getgrouplist(identity.user_name, identity.gid)}
        os.initgroups(identity.user_name, identity.gid)
    os.setgid(identity.gid)
    os.setuid(identity.uid)
    if not _has_ids_of(identity):
        raise SupervisorError(f"this process did not become {_describe(identity)}")
    # macOS counts as supplementary what its directory service says at the moment.
    if sys.platform == "linux" and set(os.getgroups()) - groups:
        raise SupervisorError(f"groups were kept after going on as {_describe(identity)}")


def _has_ids_of(identity: Identity) -> bool:
    if sys.platform == "linux":
        uids, gids = set(os.getresuid()), set(os.getresgid())
    else:
        uids, gids = {os.getuid(), os.geteuid()}, {os.getgid(), os.getegid()}
    return uids == {identity.uid} and gids == {identity.gid}


def _can_become_root() -> bool:
    """Whether a process that is not root can be it again, by a saved id or a capability."""
    for become in (os.seteuid, os.setuid):
        try:
            become(0)
        except OSError:
            continue
        return True
    return False


def _refusal(identity: Identity, error: OSError) -> str:
    if isinstance(error, PermissionError) and os.geteuid() != 0:
        return f"only root may go on as {_describe(identity)}; this is user {os.geteuid()}"
    return f"cannot go on as {_describe(identity)}: {error.strerror or error}"


def _describe(identity: Identity) -> str:
    name = f" ({identity.user_name})" if identity.user_name is not None else ""
    return f"user {identity.uid}{name} and group {identity.gid}"
