"""Loggers, their formats, and where they write."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pounce.config import ServerConfig
from pounce.errors import ConfigError
from pounce.logs.setup import (
    TRACE,
    JSONFormatter,
    TextFormatter,
    configure_logging,
    format_time,
    reopen_log_files,
    wants_colors,
)

NAMES = ("", "pounce", "pounce.error", "pounce.access", "pounce.lifecycle")


@pytest.fixture(autouse=True)
def _restore_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    state = [(each.level, each.propagate, each.disabled, each.handlers[:]) for each in loggers]
    yield
    for each, (level, propagate, disabled, handlers) in zip(loggers, state, strict=True):
        for handler in each.handlers:
            if handler not in handlers:
                handler.close()
        each.setLevel(level)
        each.propagate, each.disabled, each.handlers[:] = propagate, disabled, handlers


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configured(**options: Any) -> logging.Logger:
    configure_logging(ServerConfig(**options))
    return logging.getLogger("pounce.error")


def record(message: str = "hello", level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("pounce.error", level, "file.py", 1, message, (), None)
    vars(made).update(extra)
    return made


def test_text_is_aligned_behind_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    logger = configured(log_level="trace")
    for name in ("trace", "debug", "info", "warning", "error", "critical"):
        logger.log(logging.getLevelName(name.upper()), "message %d", 1)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "TRACE:    message 1",
        "DEBUG:    message 1",
        "INFO:     message 1",
        "WARNING:  message 1",
        "ERROR:    message 1",
        "CRITICAL: message 1",
    ]


@pytest.mark.parametrize(
    ("level", "shown"),
    [("critical", 1), ("error", 2), ("warning", 3), ("info", 4), ("debug", 5), ("trace", 6)],
)
def test_level(capsys: pytest.CaptureFixture[str], level: Any, shown: int) -> None:
    logger = configured(log_level=level)
    for number in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
        logger.log(number, "message")
    logger.log(TRACE, "message")
    assert len(capsys.readouterr().err.splitlines()) == shown


def test_configuring_twice_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    configured(log_format="json")
    configured().info("once")
    assert capsys.readouterr().err == "INFO:     once\n"


def test_the_application_keeps_its_own_loggers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Mode "w": such a handler writes nothing any more once it was closed.
    own = logging.FileHandler(tmp_path / "app.log", mode="w")
    root, other = logging.getLogger(), logging.getLogger("an.application")
    root.addHandler(own)
    try:
        before = (root.level, root.handlers[:], other.disabled, other.handlers[:])
        configured().info("of the server")
        assert (root.level, root.handlers[:], other.disabled, other.handlers[:]) == before
        other.warning("of the application")
        assert (tmp_path / "app.log").read_text() == "of the application\n"
    finally:
        root.removeHandler(own)
        own.close()
    assert capsys.readouterr().err == "INFO:     of the server\n"


def test_messages_go_to_what_standard_error_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = configured()
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)
    logger.info("hello")
    assert replaced.getvalue() == "INFO:     hello\n"


def test_no_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configured().error("nobody hears this")


def test_colors_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logger = configured()
    logger.info("hello")
    logger.error("no")
    logger.log(25, "between")
    assert terminal.getvalue() == (
        "\x1b[32mINFO\x1b[0m:     hello\n\x1b[31mERROR\x1b[0m:    no\nLevel 25: between\n"
    )


@pytest.mark.parametrize(
    ("use_colors", "environment", "terminal", "expected"),
    [
        (None, {}, True, True),
        (None, {}, False, False),
        (None, {"NO_COLOR": "1"}, True, False),
        (None, {"NO_COLOR": ""}, True, True),
        (None, {"FORCE_COLOR": "1"}, False, True),
        (None, {"FORCE_COLOR": ""}, False, False),
        (None, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        (None, {"TERM": "dumb"}, True, False),
        (None, {"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        (True, {"NO_COLOR": "1"}, False, True),
        (False, {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_whether_to_use_colors(
    monkeypatch: pytest.MonkeyPatch,
    use_colors: bool | None,
    environment: dict[str, str],
    terminal: bool,
    expected: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert wants_colors(use_colors) is expected


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_no_colors_without_a_usable_standard_error(
    monkeypatch: pytest.MonkeyPatch, stderr: str | None
) -> None:
    stream = None if stderr is None else io.StringIO()
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert wants_colors(None) is False


def test_text_of_a_client_cannot_pass_for_a_line_of_the_log() -> None:
    text = TextFormatter().format(record("path /\nERROR:    forged\r\x1b[2J\x7f\x9b\tend"))
    assert text == "INFO:     path /\n          ERROR:    forged\\x0d\\x1b[2J\\x7f\\x9b\tend"


def test_text_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logger = configured()
    try:
        raise KeyError("\x1b[31mred")
    except KeyError:
        logger.exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["ERROR:    it failed", "Traceback (most recent call last):"]
    assert "\x1b" not in lines[-1]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logger = configured(log_format="json", log_level="trace")
    logger.warning("hello %s", "wörld", extra={"worker": 3, "addresses": ["http://[::1]:1"]})
    logger.log(TRACE, "fine")
    first, second = (json.loads(text) for text in capsys.readouterr().err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("ts"))
    assert first == {
        "level": "warning",
        "logger": "pounce.error",
        "message": "hello wörld",
        "worker": 3,
        "addresses": ["http://[::1]:1"],
    }
    assert second["level"] == "trace"


def test_json_with_a_traceback_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logger = configured(log_format="json")
    try:
        raise KeyError("a\nb")
    except KeyError:
        logger.exception("it failed", stack_info=True)
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields["exc"].startswith("Traceback (most recent call last):\n")
    assert fields["exc"].endswith("KeyError: 'a\\nb'")
    assert fields["stack"].startswith("Stack (most recent call last):\n")


def test_json_keeps_what_it_says_itself() -> None:
    made = record()
    vars(made).update(ts="x", level="y", logger="z", exc="e")
    fields = json.loads(JSONFormatter().format(made))
    assert (fields["level"], fields["logger"], fields["exc"]) == ("info", "pounce.error", "e")
    assert fields["ts"] != "x"


class Shy:
    def __str__(self) -> str:
        raise ZeroDivisionError


def test_json_of_what_json_cannot_express() -> None:
    circle: list[Any] = []
    circle.append(circle)
    fields = json.loads(
        JSONFormatter().format(
            record(nan=float("nan"), circle=circle, pair={(1, 2): 3}, path=Path("/x"), shy=Shy())
        ),
        parse_constant=pytest.fail,
    )
    assert fields["nan"] == "nan"
    assert fields["circle"] == "[[...]]"
    assert fields["pair"] == "{(1, 2): 3}"
    assert fields["path"] == "/x"
    assert fields["shy"] == "<Shy that cannot be shown>"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), JSON_VALUES))
def test_json_lines_hold_what_was_put_in(message: str, extra: dict[str, Any]) -> None:
    line = JSONFormatter().format(record(message, **extra))
    assert line.isascii()
    assert line.isprintable()
    fields = json.loads(line, parse_constant=pytest.fail)
    assert fields.pop("message") == message
    assert {key: fields[key] for key in extra} == extra
    assert fields.keys() - extra.keys() == {"ts", "level", "logger"}


@given(st.text())
def test_text_lines_never_begin_with_text_of_the_message(message: str) -> None:
    first, *rest = TextFormatter().format(record(message)).split("\n")
    assert first.startswith("INFO:     ")
    assert all(line.startswith(" " * 10) for line in rest)
    controls = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)]
    assert not {chr(code) for code in controls} & set("".join([first, *rest]))


@given(st.integers(0, 4_000_000_000_000))
def test_times(milliseconds: int) -> None:
    # Half a millisecond more, because a float cannot hold every millisecond exactly.
    text = format_time((milliseconds + 0.5) / 1000)
    parsed = datetime.fromisoformat(text)
    assert round(parsed.timestamp() * 1000) == milliseconds
    assert len(text) == len("2026-11-22T18:00:00.123Z")


DICT_CONFIG: dict[str, Any] = {
    "formatters": {"own": {"format": "own %(levelname)s %(name)s %(message)s"}},
    "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "own"}},
    "loggers": {"pounce": {"handlers": ["err"], "level": "WARNING", "propagate": False}},
}
TOML_CONFIG = """
[formatters.own]
format = "own %(levelname)s %(name)s %(message)s"
[handlers.err]
class = "logging.StreamHandler"
formatter = "own"
[loggers.pounce]
handlers = ["err"]
level = "WARNING"
propagate = false
"""
INI_CONFIG = """
[loggers]
keys=root,pounce
[handlers]
keys=err
[formatters]
keys=own
[logger_root]
handlers=
[logger_pounce]
qualname=pounce
handlers=err
level=WARNING
propagate=0
[handler_err]
class=StreamHandler
formatter=own
args=()
[formatter_own]
format=own %(levelname)s %(name)s %(message)s
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("logging.json", json.dumps({"version": 1, **DICT_CONFIG})),
        ("without_version.json", json.dumps(DICT_CONFIG)),
        ("logging.toml", TOML_CONFIG),
        ("logging.ini", INI_CONFIG),
        ("LOGGING.CONF", INI_CONFIG),
    ],
)
def test_log_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    other = logging.getLogger("an.application")
    configured()
    logger = configured(log_config=str(tmp_path / name))
    logger.info("below the level of the file")
    logger.warning("hello")
    assert capsys.readouterr().err == "own WARNING pounce.error hello\n"
    assert not other.disabled
    # And back.
    logging.getLogger("pounce").handlers.clear()
    configured().info("hello")
    assert capsys.readouterr().err == "INFO:     hello\n"


def test_a_log_config_may_use_the_formatters_of_the_server(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "logging.json"
    settings = DICT_CONFIG | {"formatters": {"own": {"()": "pounce.logs.setup.JSONFormatter"}}}
    path.write_text(json.dumps(settings))
    configured(log_config=str(path)).warning("hello")
    assert json.loads(capsys.readouterr().err)["message"] == "hello"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("missing.json", None, "cannot read .*: No such file"),
        ("binary.toml", "\udcff", "cannot read"),
        ("logging.yaml", "version: 1", r"must end in \.json, \.toml, \.ini or \.conf"),
        ("broken.json", "{", "JSONDecodeError"),
        ("list.json", "[]", "must be an object"),
        ("broken.toml", "a =", "TOMLDecodeError"),
        ("broken.ini", "no section", "MissingSectionHeaderError"),
        ("empty.ini", "", "KeyError|RuntimeError"),
        ("wrong.json", '{"handlers": {"x": {"class": "no.such.Handler"}}}', "no.such|'no'"),
        ("version.json", '{"version": 2}', "version"),
    ],
)
def test_a_wrong_log_config_is_one_line(
    tmp_path: Path, name: str, text: str | None, complaint: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=f"(?s)log_config.*({complaint})") as error:
        configured(log_config=str(tmp_path / name))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_log_files_are_reopened_after_rotation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = configured()
    paths = {mode: tmp_path / f"{mode}.log" for mode in "aw"}
    lazy = tmp_path / "lazy.log"
    handlers = [logging.FileHandler(path, mode) for mode, path in paths.items()]
    handlers.append(logging.FileHandler(lazy, delay=True))
    try:
        for handler in handlers:
            logger.addHandler(handler)
        logger.error("one")
        for path in paths.values():
            path.rename(path.with_suffix(".1"))
        reopen_log_files()
        logger.error("two")
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
    assert paths["a"].with_suffix(".1").read_text() == "one\n"
    assert paths["a"].read_text() == "two\n"
    assert paths["w"].with_suffix(".1").read_text() == "one\ntwo\n"
    assert lazy.read_text() == "one\ntwo\n"


def test_a_log_file_that_cannot_be_reopened_is_reported_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = configured()
    (tmp_path / "logs").mkdir()
    handler = logging.FileHandler(tmp_path / "logs" / "error.log")
    logger.addHandler(handler)
    try:
        (tmp_path / "logs").rename(tmp_path / "moved")
        reopen_log_files()
        logger.error("after")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert "ERROR:    Cannot reopen a log file: " in capsys.readouterr().err
    assert (tmp_path / "moved" / "error.log").read_text().endswith("\nafter\n")
