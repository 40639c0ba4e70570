from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pounce.config import ServerConfig
from pounce.errors import ConfigError
from pounce.net.sockets import bind, close_sockets
from pounce.reload import Reloader
from tests.reload import program as reload_program
from tests.waiting import PATIENCE, wait_until

ROOT = Path(reload_program.__file__).parents[2]
TIMEOUT = PATIENCE


class Program:
    """The program of `tests/reload/program.py` in a directory with its `app.py`."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self._log = (directory / "log").open("w")
        stdin = options.pop("stdin", subprocess.PIPE)
        timing = {"reload_delay": 0.02, "timeout_graceful_shutdown": 10}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.reload.program", json.dumps(timing | options)],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session="terminal" in options,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or 0)
        assert self.port, self.log

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def children(self) -> list[psutil.Process]:
        """The children that serve, that is without multiprocessing's own helper."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                child
                for child in psutil.Process(self.process.pid).children()
                if "resource_tracker" not in " ".join(child.cmdline())
            ]
        return []

    def edit(self, **names: object) -> None:
        self.write("".join(f"{name} = {value!r}\n" for name, value in names.items()))

    def write(self, source: str) -> None:
        write_app(self.directory, source)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)

    def ask(self) -> tuple[int, str]:
        """The process that answers, and its answer."""
        with self.connect() as connection:
            return read_answer(connection)

    def wait_for_answer(self, expected: str) -> int:
        """The process that gives the expected answer."""

        def answered() -> int:
            pid, answer = self.ask()
            return pid if answer == expected else 0

        return wait_until(answered, f"the answer is {expected!r}", TIMEOUT)

    def wait_for_log(self, text: str) -> None:
        wait_until(lambda: text in self.log, f"the log has {text!r}: {self.log}", TIMEOUT)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def stopped(self) -> set[int]:
        """The processes that came to their regular end."""
        with contextlib.suppress(FileNotFoundError):
            return {int(line) for line in (self.directory / "stopped").read_text().split()}
        return set()

    def close(self) -> None:
        family = [*self.children, psutil.Process(self.process.pid)] if self.running else []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(TIMEOUT)
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    @property
    def running(self) -> bool:
        return self.process.poll() is None


def write_app(directory: Path, source: str) -> None:
    fresh = directory / "app.new"
    fresh.write_text(source)
    os.replace(fresh, directory / "app.py")


def read_answer(connection: socket.socket) -> tuple[int, str]:
    with connection.makefile() as lines:
        pid, _, answer = lines.readline().rstrip("\n").partition(" ")
    return int(pid), answer


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program on an `app.py` with the given text."""
    with contextlib.ExitStack() as stack:

        def start(source: str = "ANSWER = 'one'\n", **options: Any) -> Program:
            write_app(tmp_path, source)
            program = Program(tmp_path, **options)
            stack.callback(program.close)
            return program

        yield start


# Changes


def test_a_change_brings_a_new_process_with_the_new_code(start: Start) -> None:
    program = start()
    first = program.wait_for_answer("one")
    program.edit(ANSWER="two")
    second = program.wait_for_answer("two")
    assert second not in (first, program.process.pid)
    wait_until(lambda: program.stopped() == {first}, "the first has come to its end")
    assert "app.py changed, restarting" in program.log


def test_no_connection_is_refused_or_left_without_an_answer_while_processes_are_replaced(
    start: Start,
) -> None:
    program = start()
    program.wait_for_answer("one")
    finished = threading.Event()
    answers: list[str] = []
    errors: list[Exception] = []

    def keep_asking() -> None:
        while not finished.is_set():
            try:
                answers.append(program.ask()[1])
            except Exception as error:
                errors.append(error)

    def wait_until_answered(answer: str) -> None:
        wait_until(lambda: answer in answers or errors, f"{answer!r} is answered", TIMEOUT)

    client = threading.Thread(target=keep_asking)
    client.start()
    try:
        for answer in ("two", "three", "four"):
            program.edit(ANSWER=answer)
            wait_until_answered(answer)
    finally:
        finished.set()
        client.join()
    assert errors == []
    assert list(dict.fromkeys(answers)) == ["one", "two", "three", "four"]


def test_broken_code_waits_for_its_repair_and_so_does_the_client(start: Start) -> None:
    program = start()
    program.wait_for_answer("one")
    program.write("ANSWER = \n")
    program.wait_for_log("exit code 1; waiting for a change")
    assert "SyntaxError" in program.log
    with program.connect() as waiting:
        assert program.children == []
        program.edit(ANSWER="mended")
        assert read_answer(waiting)[1] == "mended"


def test_code_that_is_broken_from_the_start_can_be_repaired(start: Start) -> None:
    program = start("import nothing_of_that_name\n")
    program.wait_for_log("waiting for a change")
    assert "ModuleNotFoundError" in program.log
    program.edit(ANSWER="mended")
    program.wait_for_answer("mended")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"MODE": "exit", "CODE": 3}, "ended with exit code 3; waiting for a change"),
        ({"MODE": "exit", "CODE": 0}, "ended with exit code 0; waiting for a change"),
        ({"MODE": "crash"}, "was ended by SIGKILL; waiting for a change"),
    ],
)
def test_a_process_that_ends_by_itself_is_reported_and_not_repeated(
    start: Start, behaviour: dict[str, object], message: str
) -> None:
    program = start()
    program.wait_for_answer("one")
    program.edit(**behaviour)
    program.wait_for_log(message)
    program.edit(ANSWER="mended")
    program.wait_for_answer("mended")
    assert program.log.count("waiting for a change") == 1


def test_a_process_that_is_busy_finishes_beside_the_new_one(start: Start) -> None:
    program = start("ANSWER = 'one'\nMODE = 'slow'\n", overlap_after=0.1)
    first = program.wait_for_answer("one")
    program.edit(ANSWER="two")
    second = program.wait_for_answer("two")
    assert {child.pid for child in program.children} == {first, second}
    assert program.stopped() == set()
    (program.directory / "finish").touch()
    wait_until(lambda: [c.pid for c in program.children] == [second], "the first is gone", TIMEOUT)
    assert program.stopped() == {first}


def test_a_process_that_does_not_stop_is_killed(start: Start) -> None:
    program = start(
        "ANSWER = 'one'\nMODE = 'frozen'\n",
        timeout_graceful_shutdown=0.1,
        stop_margin=0.1,
    )
    first = program.wait_for_answer("one")
    program.edit(ANSWER="two")
    program.wait_for_answer("two")
    wait_until(lambda: is_gone(first), "the frozen process is gone", TIMEOUT)
    program.wait_for_log(f"process {first} did not stop in time, killed")


def test_two_changes_within_a_second_and_of_one_size_are_not_confused(start: Start) -> None:
    program = start("")
    program.wait_for_log("waiting for a change")
    for milliseconds, answer in enumerate(("one", "two")):
        fresh = program.directory / "app.new"
        fresh.write_text(f"ANSWER = {answer!r}\n")
        # Python's compiled files know the time of their source in whole seconds.
        os.utime(fresh, ns=(0, 1_700_000_000_000_000_000 + milliseconds * 1_000_000))
        os.replace(fresh, program.directory / "app.py")
        program.wait_for_answer(answer)


def test_only_files_that_are_asked_for_count(start: Start) -> None:
    program = start(reload_includes=["*.txt"], reload_excludes=["ignored"])
    first = program.wait_for_answer("one")
    (program.directory / "ignored").mkdir()
    (program.directory / "ignored" / "module.py").touch()
    (program.directory / "notes.txt").touch()
    program.wait_for_log("notes.txt changed, restarting")
    wait_until(lambda: program.ask()[0] != first, "another process answers", TIMEOUT)
    assert "module.py" not in program.log


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_child_gracefully(start: Start, number: signal.Signals) -> None:
    program = start()
    child = program.wait_for_answer("one")
    program.signal(number)
    assert program.wait() == 0
    assert program.stopped() == {child}
    assert is_gone(child)


def test_a_signal_ends_the_program_while_the_code_is_broken(start: Start) -> None:
    program = start("ANSWER = \n")
    program.wait_for_log("waiting for a change")
    program.signal(signal.SIGTERM)
    assert program.wait() == 0


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    program = start("ANSWER = 'one'\nMODE = 'slow'\n")
    child = program.wait_for_answer("one")
    program.signal(signal.SIGTERM)
    program.wait_for_log("received SIGTERM, stopping")
    program.signal(signal.SIGTERM)
    assert program.wait() == 1
    assert is_gone(child)
    assert program.stopped() == set()


def test_sighup_replaces_the_child(start: Start) -> None:
    program = start()
    first = program.wait_for_answer("one")
    program.signal(signal.SIGHUP)
    wait_until(lambda: program.ask()[0] != first, "another process answers", TIMEOUT)
    wait_until(lambda: program.stopped() == {first}, "the first has come to its end")
    assert program.running


def test_sigusr2_changes_nothing(start: Start) -> None:
    program = start()
    first = program.wait_for_answer("one")
    program.signal(signal.SIGUSR2)
    log = program.directory / "log"
    wait_until(lambda: "there is no upgrade with --reload" in log.read_text(), "a warning", TIMEOUT)
    assert program.ask()[0] == first


def test_the_child_does_not_outlive_a_killed_parent(start: Start) -> None:
    program = start()
    child = program.wait_for_answer("one")
    program.signal(signal.SIGKILL)
    program.wait()
    wait_until(lambda: is_gone(child), "the child is gone", TIMEOUT)
    assert program.stopped() == {child}


def test_a_child_that_cannot_stop_does_not_outlive_a_killed_parent_either(start: Start) -> None:
    program = start(
        "ANSWER = 'one'\nMODE = 'slow'\n", timeout_graceful_shutdown=0.1, stop_margin=0.1
    )
    child = program.wait_for_answer("one")
    program.signal(signal.SIGKILL)
    program.wait()
    wait_until(lambda: is_gone(child), "the child is gone", TIMEOUT)


def test_it_can_be_stopped_from_a_thread(start: Start) -> None:
    program = start(stop_from_thread=True)
    child = program.wait_for_answer("one")
    assert program.process.stdin is not None
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()
    assert program.wait() == 0
    assert program.stopped() == {child}


# At a terminal


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """The two ends of a terminal: the one of the person, the one of the program."""
    person, program = pty.openpty()
    yield person, program
    for fd in (person, program):
        with contextlib.suppress(OSError):
            os.close(fd)


def at(terminal: tuple[int, int]) -> dict[str, Any]:
    return {"terminal": os.ttyname(terminal[1]), "stdin": terminal[1]}


def test_ctrl_c_stops_the_child_gracefully(start: Start, terminal: tuple[int, int]) -> None:
    program = start(**at(terminal))
    child = program.wait_for_answer("one")
    os.write(terminal[0], b"\x03")
    assert program.wait() == 0
    assert program.stopped() == {child}
    assert "Traceback" not in program.log


def test_the_program_ends_when_its_terminal_is_closed(
    start: Start, terminal: tuple[int, int]
) -> None:
    program = start(**at(terminal))
    child = program.wait_for_answer("one")
    for fd in terminal:
        os.close(fd)
    assert program.wait() == 0
    assert is_gone(child)


def test_the_child_reads_from_the_terminal(start: Start, terminal: tuple[int, int]) -> None:
    program = start("MODE = 'read stdin'\n", **at(terminal))
    os.write(terminal[0], b"typed\n")
    program.wait_for_answer("typed")


# Set-up


def test_a_directory_to_watch_must_exist(tmp_path: Path) -> None:
    config = ServerConfig(reload=True, port=0, reload_dirs=(str(tmp_path / "gone"),))
    sockets = bind(config)
    try:
        with pytest.raises(ConfigError, match=r"^reload_dirs: .*/gone is not a directory$"):
            Reloader(config, "app:app", sockets)
    finally:
        close_sockets(sockets)
