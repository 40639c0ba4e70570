"""The names of processes, with and without the package that sets whole command lines."""

from __future__ import annotations

import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from pounce.supervisor import prctl
from pounce.supervisor.titles import set_master_title, set_worker_thread_title, set_worker_title

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs prctl(2)")


@pytest.fixture
def command_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the package was told."""
    told: list[str] = []
    package = types.ModuleType("setproctitle")
    package.setproctitle = told.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "setproctitle", package)
    return told


def run(program: str) -> str:
    """What a process of its own prints: the name of the tests' process must stay."""
    preamble = "from pounce.supervisor.titles import *\n"
    done = subprocess.run(
        [sys.executable, "-c", preamble + program], capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


def test_the_command_line_says_what_the_process_does(command_lines: list[str]) -> None:
    set_master_title("app:app")
    set_worker_title(2, 3)
    set_master_title("app\0app")
    assert command_lines == [
        "pounce: master [app:app]",
        "pounce: worker 2 gen 3",
        "pounce: master [app app]",
    ]


WITHOUT_PACKAGE = "import sys\nsys.modules['setproctitle'] = None\n"
SHOW_NAME = "print(open('/proc/self/comm').read())"


@linux_only
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("set_master_title('app:app')", "pounce: master"),
        ("set_worker_title(2, 3)", "pounce: w2 g3"),
        ("set_worker_title(123456, 78)", "pounce: w123456"),
    ],
)
def test_without_the_package_the_kernel_is_given_a_short_name(call: str, name: str) -> None:
    assert run(f"{WITHOUT_PACKAGE}{call}\n{SHOW_NAME}") == name


@linux_only
def test_a_worker_that_is_a_thread_names_only_its_thread() -> None:
    own = Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text()
    names: list[str] = []

    def work() -> None:
        set_worker_thread_title(2, 3)
        task = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        names.append(task.read_text().strip())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert names == ["pounce: w2 g3"]
    assert Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text() == own


def test_where_nothing_can_be_done_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(prctl, "load", prctl.load.__wrapped__)
    set_master_title("app:app")
    set_worker_title(1, 1)
    set_worker_thread_title(1, 1)


def test_a_python_without_ctypes_goes_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    monkeypatch.setattr(prctl, "load", prctl.load.__wrapped__)
    set_worker_title(1, 1)


@linux_only
def test_a_name_that_is_refused_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prctl, "load", lambda: lambda *args: -1)
    set_worker_thread_title(1, 1)


@linux_only
def test_the_real_package_replaces_the_command_line() -> None:
    pytest.importorskip("setproctitle")
    shown = run("set_worker_title(2, 3)\nprint(open('/proc/self/cmdline').read().rstrip('\\0'))")
    assert shown == "pounce: worker 2 gen 3"
