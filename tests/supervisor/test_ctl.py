"""`pounce ctl`: which server is found, what is asked of it, and what is printed."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pounce import ctl as ctl_module
from pounce.ctl import ctl, describe_status
from pounce.errors import PounceError, SupervisorError
from pounce.supervisor import control_client, control_paths
from pounce.supervisor.control_client import ask, find_servers
from pounce.supervisor.control_messages import ControlError
from tests.supervisor.running_control import Answer, RunningControl
from tests.waiting import wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")

NOW = 1_000_000.0

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "pid": 4242,
    "uptime": 3725.4,
    "addresses": ["http://127.0.0.1:8000", "unix:/run/app.sock"],
    "workers_target": 2,
    "generation": 3,
    "last_reload": None,
    "upgrading": False,
    "workers": [
        {
            "slot": 0,
            "worker_id": 5,
            "pid": 4301,
            "generation": 3,
            "state": "ready",
            "age": 59.9,
            "connections": 12,
            "requests": 123456,
            "in_flight": 2,
            "reason": None,
            "requests_per_second": 42.5,
            "duration_p50": 0.0013,
            "duration_p99": 0.05,
            "loop_delay_p99": 0.0009,
            "heartbeat_age": 0.1,
            "stuck_threads": 0,
            "rss": 91_000_000,
            "open_fds": 20,
        },
        {
            "slot": 1,
            "worker_id": 16,
            "pid": 43020,
            "generation": 3,
            "state": "ready",
            "age": 60,
            "connections": 0,
            "requests": 7,
            "in_flight": 0,
            "reason": "",
        },
    ],
}


TRACEBACK = """worker 9 failed: Traceback (most recent call last):
  File "app.py", line 7, in <module>
NameError: no\x1bway
"""


def answers(**results: dict[str, Any] | Exception) -> Answer:
    def answer(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = {"status": STATUS, **results}[command.replace("-", "_")]
        if isinstance(result, Exception):
            raise result
        return result

    return answer


class Shell:
    """Runs `pounce ctl` as the command `pounce` does."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> tuple[int, list[str]]:
        """The exit status and the lines printed, those of errors with `error: ` before them."""
        try:
            action = ctl.main(arguments, prog_name="pounce ctl", standalone_mode=False)
            status = action() if callable(action) else int(action)
        except PounceError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}")
            status = error.exit_code
        except click.ClickException as error:
            click.echo(f"usage: {error.format_message()}")
            status = error.exit_code
        return status, self._capture.readouterr().out.splitlines()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(autouse=True)
def place(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which servers are looked for."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_tmp_path))
    monkeypatch.delenv("POUNCE_CONTROL_SOCKET", raising=False)
    monkeypatch.setattr(control_paths, "TEMPORARY", short_tmp_path / "tmp")
    monkeypatch.setattr(control_paths, "USERS", short_tmp_path / "users")
    folder = short_tmp_path / "pounce"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def server(place: Path) -> Iterator[RunningControl]:
    """The one server that runs."""
    with RunningControl(place / "4242.ctl", answers()) as running:
        yield running


# Which server


def test_the_only_server_needs_no_name(server: RunningControl, shell: Shell) -> None:
    status, lines = shell("status")
    assert status == 0
    assert lines[0] == "Pounce 1.2.3, pid 4242, up 1h02m, generation 3"


def test_without_a_server_there_is_one_line(shell: Shell, place: Path) -> None:
    message = "error: no server with a control socket runs as this user"
    assert shell("status") == (1, [message])
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "77.ctl"))
        dead.listen(1)
    assert shell("status") == (1, [message])


def test_of_several_servers_one_must_be_chosen(place: Path, shell: Shell) -> None:
    other_status = {**STATUS, "pid": 70, "addresses": ["http://127.0.0.1:9000"]}
    with (
        RunningControl(place / "4242.ctl", answers()) as first,
        RunningControl(place / "70.ctl", answers(status=other_status)) as second,
        RunningControl(place / "9999.ctl", answers()) as busy,
        RunningControl(place / "10000.ctl", answers(status={})),
    ):
        busy.hold.add("status")
        assert shell("status") == (
            1,
            [
                "error: several servers run as this user; choose one with --pid or --socket:",
                "error:   --pid 70  (http://127.0.0.1:9000)",
                "error:   --pid 4242  (http://127.0.0.1:8000, unix:/run/app.sock)",
                "error:   --pid 9999  (does not say where it listens)",
                "error:   --pid 10000  (does not say where it listens)",
            ],
        )
        for arguments in (
            ("--pid", "70", "status"),
            ("status", "--pid", "70"),
            ("--pid", "1", "status", "--pid", "70"),
            ("--socket", str(second.path), "status"),
            ("status", "--socket", str(second.path)),
        ):
            status, lines = shell(*arguments)
            assert status == 0
            assert lines[1] == "listening on http://127.0.0.1:9000"
        assert first.asked == [("status", {})]


def test_a_server_is_found_in_every_place_where_it_may_be(
    short_tmp_path: Path, shell: Shell
) -> None:
    """A service has no runtime directory, or another one than the shell."""
    uid = os.geteuid()
    for folder in (short_tmp_path / "tmp" / f"pounce-{uid}", short_tmp_path / "users" / str(uid)):
        path = (folder if "tmp" in folder.parts[-2] else folder / "pounce") / "4242.ctl"
        path.parent.mkdir(parents=True, mode=0o700)
        with RunningControl(path, answers()):
            assert [found.path for found in find_servers()] == [path]
            assert shell("status")[0] == 0
            assert shell("--pid", "4242", "status")[0] == 0


def test_a_pid_without_a_server_is_named(server: RunningControl, shell: Shell) -> None:
    assert shell("--pid", "4000000", "status") == (
        1,
        ["error: no control socket of a server with pid 4000000 is found"],
    )


@needs_root
def test_root_finds_the_server_of_another_user_by_its_pid(
    short_tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = 3_456_789
    program = (
        f"import os; os.setgroups([]); os.setgid({stranger}); os.setuid({stranger}); "
        "print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        folder = short_tmp_path / "tmp" / f"pounce-{stranger}"
        folder.mkdir(parents=True, mode=0o700)
        with RunningControl(folder / f"{process.pid}.ctl", answers()):
            os.chown(folder, stranger, stranger)
            assert shell("status")[0] == 1
            assert shell("--pid", str(process.pid), "status")[0] == 0
        process.stdin.write(b"\n")


def test_the_variable_of_the_server_names_the_socket(
    short_tmp_path: Path, server: RunningControl, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningControl(short_tmp_path / "own", answers(status={**STATUS, "pid": 9})) as own:
        monkeypatch.setenv("POUNCE_CONTROL_SOCKET", str(own.path))
        assert shell("status")[1][0] == "Pounce 1.2.3, pid 9, up 1h02m, generation 3"
        assert " pid 4242," in shell("--pid", "4242", "status")[1][0]
        assert " pid 4242," in shell("--socket", str(server.path), "status")[1][0]
        for word in ("auto", "off", ""):
            monkeypatch.setenv("POUNCE_CONTROL_SOCKET", word)
            assert " pid 4242," in shell("status")[1][0]


def test_pid_and_socket_exclude_each_other(shell: Shell) -> None:
    for arguments in (
        ("--pid", "1", "--socket", "x", "status"),
        ("status", "--pid", "1", "--socket", "x"),
        ("--pid", "1", "status", "--socket", "x"),
    ):
        assert shell(*arguments) == (2, ["usage: --pid and --socket exclude each other"])


def test_a_socket_that_does_not_answer_is_named(short_tmp_path: Path, shell: Shell) -> None:
    path = short_tmp_path / "own"
    said = f"error: there is no control socket at {path}"
    assert shell("--socket", str(path), "status") == (1, [said])
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    said = f"error: no server answers at {path}"
    assert shell("--socket", str(path), "status") == (1, [said])
    said = f"error: cannot connect to {path}/x: Not a directory"
    assert shell("--socket", f"{path}/x", "status") == (1, [said])
    path.unlink()


# How it is asked


@contextlib.contextmanager
def answering(path: Path, *parts: bytes, then_close: bool = True) -> Iterator[None]:
    """A server that sends `parts` to one client, whatever it is asked."""
    done = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1)
            for part in parts:
                client.sendall(part)
            if not then_close:
                done.wait(60)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            path.unlink()


def test_an_answer_in_parts_is_put_together(short_tmp_path: Path) -> None:
    with answering(short_tmp_path / "s", b'{"ok": tr', b'ue, "result": {"a"', b": 1}}\n"):
        assert ask(short_tmp_path / "s", "status") == {"a": 1}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "the server went away before it answered"),
        ((b'{"ok": true',), "the server went away before it answered"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "not a line of JSON"),
        ((b"{}\n",), "the answer cannot be understood"),
        ((b'{"ok": false, "error": "no"}\n',), "no"),
    ],
)
def test_what_is_no_answer_is_told(
    short_tmp_path: Path, parts: tuple[bytes, ...], message: str
) -> None:
    with (
        answering(short_tmp_path / "s", *parts),
        pytest.raises(ControlError, match=f"^{message}"),
    ):
        ask(short_tmp_path / "s", "status")


def test_an_endless_answer_is_not_read_to_its_end(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_client, "MAX_ANSWER", 1000)
    with (
        answering(short_tmp_path / "s", b"x" * 2000, then_close=False),
        pytest.raises(ControlError, match=r"^the server's answer is longer than 1000 bytes$"),
    ):
        ask(short_tmp_path / "s", "status")


def test_a_server_that_does_not_answer_is_not_waited_for(
    server: RunningControl, short_tmp_path: Path
) -> None:
    server.hold.add("status")
    with pytest.raises(ControlError, match=r"^the server did not answer within 0\.1 s$"):
        ask(server.path, "status", timeout=0.1)
    with (
        answering(short_tmp_path / "s", b"{", then_close=False),
        pytest.raises(ControlError, match=r"^the server did not answer within 0\.1 s$"),
    ):
        ask(short_tmp_path / "s", "status", timeout=0.1)


def test_a_server_whose_queue_is_full_is_waited_for_a_while(short_tmp_path: Path) -> None:
    path = short_tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(ControlError, match=r"is too busy$"):
            ask(path, "status", timeout=0.1)
        for client in clients:
            client.close()
    path.unlink()


def test_a_refusal_of_the_server_is_an_error(place: Path, shell: Shell) -> None:
    refusal = SupervisorError("there is no worker 9")
    with RunningControl(place / "1.ctl", answers(restart_worker=refusal)):
        assert shell("restart-worker", "9") == (1, ["error: there is no worker 9"])


# status


def test_status_is_a_head_and_a_table() -> None:
    assert describe_status(STATUS, NOW) == [
        "Pounce 1.2.3, pid 4242, up 1h02m, generation 3",
        "listening on http://127.0.0.1:8000, unix:/run/app.sock",
        "workers 2, wanted 2",
        "",
        "ID    PID  GEN  STATE    AGE  CONN    REQS  REQ/S  BUSY    P50   P99   LOOP  RSS   BEAT",
        " 5   4301    3  ready    59s    12  123456   42.5     2  1.3ms  50ms  0.9ms  87M  100ms",
        "16  43020    3  ready  1m00s     0       7      -     0      -     -      -    -      -",
    ]


def test_status_says_why_workers_leave_and_what_is_not_known() -> None:
    first, second = STATUS["workers"]
    workers = [
        {**first, "state": "draining", "reason": "max requests\x1b[31m\nreached"},
        {**second, "pid": None, "connections": None, "requests": None, "in_flight": None},
    ]
    lines = describe_status({**STATUS, "workers": workers}, NOW)
    assert lines[4:] == [
        "ID   PID  GEN  STATE       AGE  CONN    REQS  REQ/S  BUSY    P50   P99   LOOP  RSS   BEAT",
        " 5  4301    3  draining    59s    12  123456   42.5     2  1.3ms  50ms  0.9ms  87M  100ms",
        "16     -    3  ready     1m00s     -       -      -     -      -     -      -    -      -",
        "worker 5: max requests [31m reached",
    ]


def test_the_table_of_busy_workers_is_100_columns_wide_at_most() -> None:
    worker = {
        "slot": 0,
        "worker_id": 1234,
        "pid": 4194304,
        "generation": 100,
        "state": "draining",
        "age": 86399,
        "connections": 65535,
        "requests": 987_654_321,
        "in_flight": 9999,
        "reason": "max_error_rate",
        "requests_per_second": 123456.7,
        "duration_p50": 0.9994,
        "duration_p99": 59.94,
        "loop_delay_p99": 5.0,
        "heartbeat_age": 3599,
        "rss": 1023 * 1024**2,
        "open_fds": 100,
        "stuck_threads": 1,
    }
    lines = describe_status({**STATUS, "workers": [worker]}, NOW)
    assert lines[5] == (
        "1234  4194304  100  draining  23h59m  65535  987.7M  123457  9999  999ms  59.9s  5.0s"
        "  1.0G  59m59s"
    )
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("requests", 999_999, "999999"),
        ("requests", 1_000_000, "1M"),
        ("requests", 12_345_678_901, "12.35G"),
        ("requests_per_second", 99.94, "99.9"),
        ("requests_per_second", 1234.5, "1234"),
        ("duration_p99", 0.00025, "0.2ms"),
        ("duration_p99", 0.0101, "10ms"),
        ("heartbeat_age", 1.04, "1.0s"),
        ("heartbeat_age", 61, "1m01s"),
        ("rss", 700_000, "684K"),
        ("rss", 5 * 1024**3, "5.0G"),
        ("loop_delay_p99", None, "-"),
    ],
)
def test_figures_are_short(key: str, value: float | None, shown: str) -> None:
    workers = [{**STATUS["workers"][1], key: value}]
    line = describe_status({**STATUS, "workers": workers}, NOW)[5]
    assert shown in line.split()


@pytest.mark.parametrize(
    ("result", "reason", "end"),
    [
        ("succeeded", None, ""),
        ("succeeded", "", ""),
        ("failed", "worker 9: SyntaxError", ": worker 9: SyntaxError"),
        ("failed", TRACEBACK, ": worker 9 failed: NameError: no way"),
        ("failed", "worker 9:\n\n", ": worker 9:"),
    ],
)
@pytest.mark.parametrize("what", ["reload", "upgrade"])
def test_status_tells_of_the_last_reload(
    result: str, reason: str | None, end: str, what: str
) -> None:
    last = {"result": result, "reason": reason, "at": NOW - 90_061}
    line = describe_status({**STATUS, f"last_{what}": last}, NOW)[2]
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW - 90_061))
    assert line == f"last {what} {result} 1d01h ago ({at}){end}"


def test_status_of_a_pool_in_trouble() -> None:
    trouble = {"slot": 1, "failures": 4, "retry_in": 7.9, "reason": "exit code 3"}
    found = {**STATUS, "upgrading": True, "workers": [], "troubles": [trouble]}
    assert describe_status(found, NOW) == [
        "Pounce 1.2.3, pid 4242, up 1h02m, generation 3, upgrading",
        "listening on http://127.0.0.1:8000, unix:/run/app.sock",
        "workers 0, wanted 2",
        "slot 1: 4 failures in a row, next attempt in 7s: exit code 3",
    ]


def test_status_as_json_is_what_the_server_said(server: RunningControl, shell: Shell) -> None:
    status, lines = shell("status", "--json")
    assert status == 0
    assert json.loads("\n".join(lines)) == STATUS


def test_status_of_many_workers_arrives(place: Path, shell: Shell) -> None:
    many = {**STATUS, "workers": [{**STATUS["workers"][0], "worker_id": n} for n in range(1024)]}
    with RunningControl(place / "1.ctl", answers(status=many)):
        status, lines = shell("status")
    assert status == 0
    assert len(lines) == 1024 + 5


# reload


def test_reload_waits_and_prints_the_result(place: Path, shell: Shell) -> None:
    done = {"result": "succeeded", "reason": None, "generation": 4}
    with RunningControl(place / "1.ctl", answers(reload=done)) as server:
        assert shell("reload") == (0, ["reloaded, generation 4"])
        assert server.asked == [("reload", {"wait": True})]


def test_reload_may_take_longer_than_other_answers(
    place: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    monkeypatch.setattr(control_client, "ANSWER_TIMEOUT", 0.05)

    def answer(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.2)
        return {"result": "succeeded", "reason": "1 worker crashed meanwhile", "generation": 4}

    with RunningControl(place / "1.ctl", answer):
        assert shell("reload") == (0, ["reloaded, generation 4: 1 worker crashed meanwhile"])


def test_a_reload_that_failed_is_an_error(place: Path, shell: Shell) -> None:
    failed = {"result": "failed", "reason": "SyntaxError:\x07 bad", "generation": 3}
    with RunningControl(place / "1.ctl", answers(reload=failed)):
        assert shell("reload") == (1, ["error: reload failed: SyntaxError:  bad"])
    with RunningControl(place / "1.ctl", answers(reload={**failed, "reason": TRACEBACK})):
        status, lines = shell("reload")
    assert status == 1
    assert lines == [
        "error: reload failed: worker 9 failed: Traceback (most recent call last):",
        'error:   File "app.py", line 7, in <module>',
        "error: NameError: no way",
    ]
    with RunningControl(place / "1.ctl", answers(reload={"result": "started"})):
        assert shell("reload") == (1, ["error: reload started: no reason was given"])
    with RunningControl(place / "1.ctl", answers(reload={})):
        assert shell("reload") == (1, ["error: reload None: no reason was given"])


def test_a_reload_need_not_be_waited_for(place: Path, shell: Shell) -> None:
    started = {"result": "started", "reason": None, "generation": 4}
    with RunningControl(place / "1.ctl", answers(reload=started)) as server:
        assert shell("reload", "--no-wait") == (0, ["reload started"])
        assert server.asked == [("reload", {"wait": False})]


def test_a_server_that_ends_during_a_reload_is_told(place: Path, shell: Shell) -> None:
    with RunningControl(place / "1.ctl", answers()) as server:
        server.hold.add("reload")
        result: list[tuple[int, list[str]]] = []
        thread = threading.Thread(target=lambda: result.append(shell("reload")))
        thread.start()
        wait_until(lambda: server.asked, "the reload has begun")
    thread.join()
    assert result == [(1, ["error: the server stops"])]


# scale, restart-worker, stop


def test_scale_and_restart_worker_are_passed_on(place: Path, shell: Shell) -> None:
    with RunningControl(place / "1.ctl", answers(scale={}, restart_worker={})) as server:
        assert shell("scale", "4") == (0, ["scaling to 4 workers"])
        assert shell("scale", "1") == (0, ["scaling to 1 worker"])
        assert shell("restart-worker", "16") == (0, ["replacing worker 16"])
        assert server.asked == [
            ("scale", {"workers": 4}),
            ("scale", {"workers": 1}),
            ("restart-worker", {"worker_id": 16}),
        ]


@pytest.mark.parametrize(
    "arguments",
    [("scale",), ("scale", "0"), ("scale", "x"), ("restart-worker",), ("explode",), ("stop", "5")],
)
def test_what_makes_no_sense_is_not_sent(
    server: RunningControl, shell: Shell, arguments: tuple[str, ...]
) -> None:
    status, lines = shell(*arguments)
    assert status == 2
    assert lines[0].startswith("usage: ")
    assert server.asked == []


@pytest.fixture
def ending() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when its standard input does."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize(("flags", "now"), [((), False), (("--now",), True)])
def test_stop_waits_until_the_server_has_ended(
    place: Path,
    shell: Shell,
    ending: subprocess.Popen[bytes],
    flags: tuple[str, ...],
    now: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin = ending.stdin
    assert stdin is not None
    naps = 0

    def nap(seconds: float) -> None:
        nonlocal naps
        naps += 1
        if naps == 3:
            stdin.write(b"\n")
            stdin.flush()

    monkeypatch.setattr(ctl_module.time, "sleep", nap)
    own = {**STATUS, "pid": ending.pid}
    with RunningControl(place / "1.ctl", answers(status=own, stop={})) as server:
        # It has not been waited for by its parent, so it ends as a zombie.
        assert shell("stop", *flags) == (0, ["stopped"])
        assert server.asked[-1] == ("stop", {"now": now})
    assert naps >= 3


def test_stop_waits_for_the_socket_where_the_process_cannot_be_seen(
    place: Path, shell: Shell
) -> None:
    """As from outside of a container."""
    result: list[tuple[int, list[str]]] = []
    unseen = {**STATUS, "pid": 4_190_000}
    with RunningControl(place / "1.ctl", answers(status=unseen, stop={})) as server:
        thread = threading.Thread(target=lambda: result.append(shell("stop")))
        thread.start()
        wait_until(lambda: len(server.asked) == 2, "the server is to stop")
        assert result == []
    thread.join(60)
    assert result == [(0, ["stopped"])]


def test_stop_need_not_wait(place: Path, shell: Shell) -> None:
    own = {**STATUS, "pid": os.getpid()}
    with RunningControl(place / "1.ctl", answers(status=own, stop={})):
        assert shell("stop", "--no-wait") == (0, ["stopping"])


# The command itself


def test_help_names_every_command(shell: Shell) -> None:
    status, lines = shell("--help")
    assert status == 0
    text = "\n".join(lines)
    for command in ("status", "reload", "scale", "restart-worker", "stop"):
        assert f"\n  {command} " in text
        assert shell(command, "--help")[0] == 0


ANOTHER_SHELL = (
    "import sys\n"
    "from pounce.ctl import ctl\n"
    "sys.exit(ctl.main(['status'], prog_name='pounce ctl', standalone_mode=False)())\n"
)


def test_it_works_from_another_shell(server: RunningControl) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER_SHELL], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == describe_status(STATUS)
