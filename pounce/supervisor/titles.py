"""What ps and top call the processes of the server.

With setproctitle (the extra `pounce[title]`) the whole command line is replaced. Without it Linux
still lets a process choose the 15 bytes that `ps -o comm` and top show; elsewhere nothing is done.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from pounce.supervisor.prctl import prctl

_PR_SET_NAME: Final = 15  # <linux/prctl.h>


def set_master_title(app: str) -> None:
    """Name this process after its work: `pounce: master [main:app]`.

    Args:
        app: The import string of the application, or what else tells this server from others.
    """
    _set_title(f"pounce: master [{app}]", "pounce: master")


def set_worker_title(worker_id: int, generation: int) -> None:
    """Name this process after its work: `pounce: worker 2 gen 3`, in short `pounce: w2 g3`."""
    _set_title(f"pounce: worker {worker_id} gen {generation}", _short(worker_id, generation))


def set_worker_thread_title(worker_id: int, generation: int) -> None:
    """The same for a worker that is a thread, called in that thread; shown by `top -H`."""
    _name_thread(_short(worker_id, generation))


def _short(worker_id: int, generation: int) -> str:
    return f"pounce: w{worker_id} g{generation}"


def _set_title(title: str, short: str) -> None:
    try:
        # The kernel ends a command line at NUL.
        _setproctitle()(title.replace("\0", " "))
    except ImportError:
        # In a process, the name of the main thread is that of the process.
        _name_thread(short)


def _setproctitle() -> Callable[[str], object]:
    """Raises ImportError where the package is not installed, or not for this interpreter."""
    function: Callable[[str], object] = importlib.import_module("setproctitle").setproctitle
    return function


def _name_thread(name: str) -> None:
    prctl(_PR_SET_NAME, name.encode())
