"""The access log: nothing is lost, nothing stops the server."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pounce.config import ServerConfig
from pounce.errors import ConfigError
from pounce.logs import access_writer, configure_logging
from pounce.logs.access_format import DEFAULT_FORMAT, Entry
from pounce.logs.access_log import AccessLog
from pounce.logs.access_writer import BlockWriter, FileTarget, LoggerTarget, WriteFailure

DEADLINE = 60.0

needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")


def entry(number: int = 0, *, end: float = 1.5) -> Entry:
    return (end, 0.001, ("192.0.2.7", 1), "GET", b"/%d" % number, "1.1", 200, 5, (), (), "http")


def config(path: Path | str, fmt: str = "%(U)s", **options: Any) -> ServerConfig:
    return ServerConfig(access_log_file=str(path), access_log_format=fmt, **options)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.005)


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def errors() -> Iterator[Records]:
    """What is logged to `pounce.error`."""
    logger = logging.getLogger("pounce.error")
    handler = Records()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def pipe() -> Iterator[tuple[int, Path]]:
    """The reading end of a pipe, and a path that opens the writing end."""
    if not os.path.exists("/dev/fd"):
        pytest.skip("needs /dev/fd")
    reader, writer = os.pipe()
    yield reader, Path(f"/dev/fd/{writer}")
    os.close(writer)
    with suppress(OSError):
        # A test may have closed it.
        os.close(reader)


def read_lines(reader: int, count: int) -> list[bytes]:
    """At least `count` lines out of a pipe."""
    data = b""
    deadline = time.monotonic() + DEADLINE
    while data.count(b"\n") < count:
        assert select.select([reader], [], [], deadline - time.monotonic())[0], data[-200:]
        data += os.read(reader, 65536)
    return data.splitlines()


def test_the_default_format_of_the_configuration_is_the_one_known_here() -> None:
    assert ServerConfig().access_log_format == DEFAULT_FORMAT


def test_one_hundred_thousand_entries_are_as_many_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    append = log.entries.append
    for number in range(100_000):
        append(entry(number))
        if len(log.entries) >= AccessLog.BATCH:
            log.flush()
    log.close()
    assert path.read_text().splitlines() == [f"/{number}" for number in range(100_000)]
    assert log.dropped == 0


def test_close_writes_what_was_never_flushed(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    for number in range(3000):
        log.append(entry(number))
    assert path.read_bytes() == b""
    log.close()
    log.close()
    assert path.read_text().splitlines() == [f"/{number}" for number in range(3000)]


def test_flush_keeps_the_same_list(tmp_path: Path) -> None:
    log = AccessLog(config(tmp_path / "access.log"))
    entries = log.entries
    log.append(entry())
    assert repr(log) == "<AccessLog 1 pending, 0 dropped>"
    log.flush()
    assert log.entries is entries
    assert entries == []
    log.close()


def test_flush_does_not_wait_for_close_to_write(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    log.append(entry(1))
    log.flush()
    wait_for(lambda: path.read_bytes() == b"/1\n")
    log.append(entry(2))
    log.flush()
    wait_for(lambda: path.read_bytes() == b"/1\n/2\n")
    log.close()


def test_a_log_without_entries_starts_no_thread_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    before = threading.active_count()
    log = AccessLog(config(path))
    log.flush()
    assert threading.active_count() == before
    log.close()
    assert path.read_bytes() == b""


def test_the_thread_ends_with_the_log(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    log = AccessLog(config(tmp_path / "access.log"))
    log.append(entry())
    log.flush()
    assert len(set(threading.enumerate()) - before) == 1
    log.close()
    assert set(threading.enumerate()) <= before


def test_entries_of_several_threads_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))

    def produce(start: int) -> None:
        for number in range(start, start + 2000):
            log.append(entry(number))
            if len(log.entries) >= 50:
                log.flush()

    threads = [threading.Thread(target=produce, args=(n * 2000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    numbers = [int(text[1:]) for text in path.read_text().splitlines()]
    assert sorted(numbers) == list(range(8000))


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text("before\n")
    log = AccessLog(config(path))
    log.append(entry())
    log.close()
    assert path.read_text() == "before\n/0\n"


def test_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(config("-"))
    log.append(entry())
    log.close()
    assert capfd.readouterr() == ("", "/0\n")
    os.fstat(2)


def test_without_standard_error_nobody_elses_file_is_written_to(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)
    log = AccessLog(config("-"))
    log.append(entry())
    log.close()
    assert capfd.readouterr() == ("", "")


def test_lines_share_the_form_of_what_else_is_on_standard_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    json_logs = ServerConfig(log_format="json")
    log = AccessLog(json_logs)
    log.append(entry())
    log.close()
    assert json.loads(capfd.readouterr().err)["path"] == "/0"
    own_format = AccessLog(replace(json_logs, access_log_format="%(U)s"))
    own_format.append(entry())
    own_format.close()
    assert capfd.readouterr().err == "/0\n"
    path = tmp_path / "access.log"
    file = AccessLog(replace(json_logs, access_log_file=str(path)))
    file.append(entry())
    file.close()
    assert path.read_text().startswith("192.0.2.7 - - [")


@pytest.mark.parametrize("where", ["missing/access.log", "."])
def test_a_file_that_cannot_be_opened_is_a_config_error(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigError, match=r"access_log_file: cannot write to .*: ") as error:
        AccessLog(config(tmp_path / where))
    assert "\n" not in str(error.value)


def test_a_fifo_that_nobody_reads_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="fifo"):
        AccessLog(config(tmp_path / "fifo"))


def test_rotation(tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(config(path))
    for number in range(1000):
        log.append(entry(number))
    path.rename(rotated)
    log.reopen()
    for number in range(1000, 2000):
        log.append(entry(number))
    log.close()
    assert rotated.read_text().splitlines() == [f"/{number}" for number in range(1000)]
    assert path.read_text().splitlines() == [f"/{number}" for number in range(1000, 2000)]


def test_rotation_before_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    wait_for(path.exists)
    log.append(entry())
    log.close()
    assert path.read_text() == "/0\n"


def test_rotation_that_fails_goes_on_in_the_old_file(tmp_path: Path, errors: Records) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    log = AccessLog(config(folder / "access.log"))
    folder.rename(moved)
    log.reopen()
    log.append(entry())
    log.close()
    assert (moved / "access.log").read_text() == "/0\n"
    (message,) = errors.messages
    assert "Cannot reopen the access log" in message


def test_reopening_standard_error_does_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(config("-"))
    log.reopen()
    log.append(entry())
    log.close()
    assert capfd.readouterr().err == "/0\n"


@needs_dev_full
def test_a_full_disk_costs_lines_but_not_the_server(tmp_path: Path, errors: Records) -> None:
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    log = AccessLog(config(path))
    for number in range(5):
        log.append(entry(number))
        log.flush()
    wait_for(lambda: log.dropped == 5)
    path.unlink()
    log.reopen()
    log.append(entry(5))
    log.append(entry(6))
    log.close()
    assert path.read_text() == "/5\n/6\n"
    assert log.dropped == 5
    assert errors.messages == [
        f"Cannot write the access log to {path}: [Errno 28] No space left on device; "
        "lines are dropped until it works again",
        f"The access log is written to {path} again; 5 lines were lost",
    ]


def test_a_closed_pipe_costs_lines_but_not_the_server(
    pipe: tuple[int, Path], errors: Records
) -> None:
    reader, path = pipe
    log = AccessLog(config(path))
    log.append(entry())
    log.flush()
    assert read_lines(reader, 1) == [b"/0"]
    os.close(reader)
    for number in range(3):
        log.append(entry(number))
        log.flush()
    log.close()
    assert log.dropped == 3
    (message,) = errors.messages
    assert "Broken pipe" in message


def test_a_pipe_is_written_to_in_pieces_that_end_with_a_line(
    pipe: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, path = pipe
    pieces: list[bytes] = []
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        pieces.append(bytes(data))
        return real_write(fd, data)

    monkeypatch.setattr(access_writer.os, "write", write)
    log = AccessLog(config(path, "%(U)s %({x}i)s"))
    expected = []
    for number in range(300):
        value = b"v" * (9000 if number == 150 else 40)
        log.append((*entry(number)[:8], ((b"x", value),), (), "http"))
        expected.append(b"/%d %s" % (number, value))
    closing = threading.Thread(target=log.close)
    closing.start()
    assert read_lines(reader, 300) == expected
    closing.join()
    assert all(piece.endswith(b"\n") for piece in pieces)
    too_long = [piece for piece in pieces if len(piece) > select.PIPE_BUF]
    assert [piece.count(b"\n") for piece in too_long] == [1]


def test_lines_of_two_processes_on_one_pipe_do_not_mix() -> None:
    code = """if True:
        import sys
        from pounce.logs.access_log import AccessLog
        from pounce.config import ServerConfig
        log = AccessLog(ServerConfig(access_log_format="%(U)s %(U)s"))
        target = b"/" + sys.argv[1].encode() * 300
        for number in range(4000):
            log.append((1.0, 0.0, None, "GET", target, "1.1", 200, 5, (), (), "http"))
            if len(log.entries) >= log.BATCH:
                log.flush()
    """
    reader, writer = os.pipe()
    processes = [
        subprocess.Popen([sys.executable, "-c", code, letter], stderr=writer) for letter in "ab"
    ]
    os.close(writer)
    with open(reader, "rb") as stream:
        lines = stream.read().splitlines()
    assert [process.wait(DEADLINE) for process in processes] == [0, 0]
    parts = {letter: b"/" + letter * 300 for letter in (b"a", b"b")}
    for letter in (b"a", b"b"):
        assert lines.count(parts[letter] + b" " + parts[letter]) == 4000
    assert len(lines) == 8000


def test_a_non_blocking_pipe_is_waited_for(pipe: tuple[int, Path]) -> None:
    reader, path = pipe
    log = AccessLog(config(path))
    target = log._writer._target
    assert isinstance(target, FileTarget)
    os.set_blocking(target._fd, False)
    for number in range(30_000):
        log.append(entry(number))
    closing = threading.Thread(target=log.close)
    closing.start()
    assert read_lines(reader, 30_000) == [b"/%d" % number for number in range(30_000)]
    closing.join()
    assert log.dropped == 0


def test_a_line_is_not_continued_by_the_next_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    real_write = os.write
    limits = iter([4, None])

    def write(fd: int, data: bytes) -> int:
        limit = next(limits, len(data))
        if limit is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data[:limit])

    monkeypatch.setattr(access_writer.os, "write", write)
    for number in range(3):
        log.append(entry(number))
    log.flush()
    wait_for(lambda: log.dropped == 2)
    log.append(entry(3))
    log.close()
    assert path.read_text() == "/0\n/\n/3\n"


def test_a_slow_reader_makes_flush_wait_and_loses_nothing(
    pipe: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, path = pipe
    monkeypatch.setattr(BlockWriter, "MAX_PENDING", 1000)
    log = AccessLog(config(path))
    done = threading.Event()

    def serve() -> None:
        for number in range(20_000):
            log.append(entry(number))
            if number % 100 == 99:
                log.flush()
        log.close()
        done.set()

    server = threading.Thread(target=serve)
    server.start()
    # More than a pipe holds: without a reader it does not come to its end.
    writer = int(path.name)
    wait_for(lambda: log._writer._pending and not select.select([], [writer], [], 0)[1])
    assert not done.is_set()
    assert read_lines(reader, 20_000) == [b"/%d" % number for number in range(20_000)]
    server.join()
    assert log.dropped == 0


def test_a_reader_that_stopped_for_good_stops_neither_server_nor_close(
    pipe: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, path = pipe
    monkeypatch.setattr(BlockWriter, "MAX_PENDING", 1000)
    monkeypatch.setattr(BlockWriter, "STALL_TIMEOUT", 0.1)
    log = AccessLog(config(path))
    for number in range(30_000):
        log.append(entry(number))
        if number % 100 == 99:
            log.flush()
    log.close()
    assert 0 < log.dropped < 30_000
    thread = log._writer._thread
    assert thread is not None
    # What the thread holds in its hands is still written, so that it can end.
    kept = read_lines(reader, 30_000 - log.dropped)
    assert kept[0] == b"/0"
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_lines_flow_again_after_a_stall(
    pipe: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, errors: Records
) -> None:
    reader, path = pipe
    monkeypatch.setattr(BlockWriter, "MAX_PENDING", 1000)
    monkeypatch.setattr(BlockWriter, "STALL_TIMEOUT", 0.1)
    log = AccessLog(config(path))
    number = 0
    while log.dropped == 0:
        log.append(entry(number))
        number += 1
        if number % 100 == 0:
            log.flush()
    dropped = log.dropped
    lines = read_lines(reader, number - dropped)
    log.append(entry(999_999))
    log.close()
    lines += read_lines(reader, 1)
    assert len(lines) == number - dropped + 1
    assert lines[-1] == b"/999999"
    assert log.dropped == dropped
    assert [f"{dropped} lines were lost" in message for message in errors.messages] == [True]


def test_an_entry_that_cannot_be_formatted_costs_only_its_own_line(
    tmp_path: Path, errors: Records
) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    bad: Any = (1.0, 0.0, None, "GET", None, "1.1", 200, 5, (), (), "http")
    for one in (entry(0), bad, entry(1), bad, entry(2)):
        log.append(one)
    log.close()
    assert path.read_text() == "/0\n/1\n/2\n"
    assert log.dropped == 2
    assert len(errors.messages) == 1


def test_entries_after_close_are_counted_as_dropped(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    log.close()
    log.append(entry())
    log.flush()
    assert log.dropped == 1
    assert path.read_bytes() == b""


def test_without_a_thread_the_caller_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    path = tmp_path / "access.log"
    log = AccessLog(config(path))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        log.append(entry(0))
        log.flush()
        assert path.read_text() == "/0\n"
    log.append(entry(1))
    log.close()
    assert path.read_text() == "/0\n/1\n"


RUN = """if True:
    import os, sys, warnings
    warnings.simplefilter("ignore")
    from pounce.logs.access_log import AccessLog
    from pounce.config import ServerConfig
    log = AccessLog(ServerConfig(access_log_file=sys.argv[1], access_log_format="%(U)s %(p)s"))
    def put(name):
        target = name.encode()
        log.append((1.0, 0.0, None, "GET", target, "1.1", 200, 5, (), (), "http"))
"""


def run(path: Path, code: str) -> None:
    subprocess.run([sys.executable, "-c", RUN + code, str(path)], check=True, timeout=60)


def test_a_process_that_ends_without_close_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    run(path, "    for number in range(1000): put(f'/{number}')\n")
    assert [text.split()[0] for text in path.read_text().splitlines()] == [
        f"/{number}" for number in range(1000)
    ]


def test_a_process_that_ends_by_an_exception_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    code = RUN + "    put('/1')\n    log.flush()\n    put('/2')\n    raise SystemExit(3)\n"
    done = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    assert done.returncode == 3
    assert [text.split()[0] for text in path.read_text().splitlines()] == ["/1", "/2"]


def test_a_child_logs_for_itself_and_not_for_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    run(
        path,
        """
    put("/written-before")
    log.flush()
    put("/pending-at-fork")
    pid = os.fork()
    name = "/parent" if pid else "/child"
    for number in range(1000):
        put(f"{name}-{number}")
        if number == 500:
            log.flush()
    log.close()
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
""",
    )
    lines = [re.fullmatch(r"(\S+) <(\d+)>", text) for text in path.read_text().splitlines()]
    found = [(match[1], match[2]) for match in lines if match]
    assert len(found) == len(lines) == 2002
    names = [name for name, _ in found]
    assert names.count("/written-before") == names.count("/pending-at-fork") == 1
    for side in ("/parent", "/child"):
        own = [(name, pid) for name, pid in found if name.startswith(side)]
        assert [name for name, _ in own] == [f"{side}-{number}" for number in range(1000)]
        assert len({pid for _, pid in own}) == 1
    assert len({pid for _, pid in found}) == 2


@pytest.fixture
def access_logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("pounce.access")
    state = (logger.level, logger.propagate, logger.handlers[:])
    yield logger
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(state[0])
    logger.propagate = state[1]
    for handler in state[2]:
        logger.addHandler(handler)


def logging_to(tmp_path: Path, **logger: Any) -> ServerConfig:
    """A configuration whose log_config sends the access log to a file of its own."""
    settings = {
        "formatters": {"plain": {"format": "%(asctime)s.%(msecs)03d %(levelname)s %(message)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(tmp_path / "handled.log"),
                "formatter": "plain",
            }
        },
        "loggers": {"pounce.access": {"level": "INFO", "propagate": False} | logger},
    }
    path = tmp_path / "logging.json"
    path.write_text(json.dumps(settings))
    resolved = config(tmp_path / "unused.log", log_config=str(path))
    configure_logging(resolved)
    return resolved


def test_an_operators_handlers_get_the_lines(tmp_path: Path, access_logger: logging.Logger) -> None:
    log = AccessLog(logging_to(tmp_path, handlers=["file"]))
    for number in range(500):
        log.append(entry(number, end=1_000_000_000.25))
    log.close()
    lines = (tmp_path / "handled.log").read_text().splitlines()
    assert [text.split()[-2:] for text in lines] == [["INFO", f"/{n}"] for n in range(500)]
    assert {text.split()[1][-4:] for text in lines} == {".250"}
    assert not (tmp_path / "unused.log").exists()


def test_an_operators_level_counts(tmp_path: Path, access_logger: logging.Logger) -> None:
    log = AccessLog(logging_to(tmp_path, handlers=["file"], level="WARNING"))
    log.append(entry())
    log.close()
    assert (tmp_path / "handled.log").read_text() == ""
    assert log.dropped == 0


def test_a_log_config_without_access_handlers_leaves_the_file(
    tmp_path: Path, access_logger: logging.Logger
) -> None:
    log = AccessLog(logging_to(tmp_path))
    log.append(entry())
    log.close()
    assert (tmp_path / "unused.log").read_text() == "/0\n"


def test_rotation_of_an_operators_file(tmp_path: Path, access_logger: logging.Logger) -> None:
    log = AccessLog(logging_to(tmp_path, handlers=["file"]))
    handled = tmp_path / "handled.log"
    log.append(entry(1))
    log.flush()
    wait_for(lambda: handled.read_text().endswith("/1\n"))
    handled.rename(tmp_path / "handled.log.1")
    log.append(entry(2))
    log.reopen()
    log.append(entry(3))
    log.close()
    assert [
        [text.split()[-1] for text in path.read_text().splitlines()]
        for path in (tmp_path / "handled.log.1", handled)
    ] == [["/1", "/2"], ["/3"]]


def test_a_handler_that_raises_costs_lines_but_not_the_server(
    access_logger: logging.Logger, errors: Records
) -> None:
    class Raising(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            if record.getMessage() in ("/1", "/3"):
                raise ZeroDivisionError("handler")
            return True

    access_logger.addHandler(Raising())
    access_logger.setLevel(logging.INFO)
    writer = BlockWriter(LoggerTarget(access_logger))
    entries = [entry(number) for number in range(5)]
    writer.put(entries, [f"/{number}" for number in range(5)])
    writer.close()
    assert writer.dropped == 2
    (message,) = errors.messages
    assert "logger pounce.access: handler" in message


def test_a_target_that_raises_costs_lines_but_not_the_server(errors: Records) -> None:
    class Raising:
        name = "nowhere"
        taken = 0

        def prepare(
            self, entries: object, lines: list[str]
        ) -> tuple[int, Callable[[], WriteFailure | None]]:
            return 1, self.write

        def write(self) -> WriteFailure | None:
            raise ZeroDivisionError("target")

        def reopen(self) -> None:
            return

        def close(self) -> None:
            return

    writer = BlockWriter(Raising())
    for _ in range(3):
        writer.put([entry()] * 2, ["/"] * 2)
    writer.close()
    assert writer.dropped == 6
    assert len(errors.messages) == 1
