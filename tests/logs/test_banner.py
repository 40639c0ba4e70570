"""The start-up banner: for people, for log files, for machines."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pounce.addresses import Address, InheritedAddress, TCPAddress, UnixAddress
from pounce.config import ServerConfig
from pounce.logs import configure_logging
from pounce.logs.banner import format_address, print_banner


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    logger = logging.getLogger("pounce")
    state = (logger.level, logger.propagate, logger.handlers[:])
    yield
    logger.setLevel(state[0])
    logger.propagate, logger.handlers[:] = state[1:]


def banner(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, workers: int = 2, **options: Any
) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    config = ServerConfig(**options)
    configure_logging(config)
    print_banner(
        config,
        addresses=["http://127.0.0.1:8000", "http://[::1]:8000"],
        workers=workers,
        mode="process",
        version="1.2.3",
        app="shop.main:app",
    )
    return stream.getvalue()


def test_people_on_a_terminal_get_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = banner(monkeypatch, Terminal(), use_colors=False)
    assert text == (
        "\n"
        "  Pounce 1.2.3\n"
        "\n"
        "  Listening  http://127.0.0.1:8000\n"
        "  Listening  http://[::1]:8000\n"
        "  App        shop.main:app\n"
        "  Workers    2 workers (process)\n"
        f"  Python     {platform.python_implementation()} {platform.python_version()}"
        f"{' free-threaded' if 'free-threading' in sys.version else ''}\n"
        "\n"
        "  Ctrl+C to stop\n"
        "\n"
    )


def test_colors_leave_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = banner(monkeypatch, Terminal(), use_colors=False)
    colored = banner(monkeypatch, Terminal())
    assert "\x1b[1mPounce 1.2.3\x1b[0m" in colored
    for code in ("\x1b[1m", "\x1b[2m", "\x1b[4;36m", "\x1b[0m"):
        colored = colored.replace(code, "")
    assert colored == plain


def test_a_log_file_gets_a_line_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    text = banner(monkeypatch, io.StringIO(), workers=1)
    assert text.startswith(
        "INFO:     Pounce 1.2.3 running shop.main:app on http://127.0.0.1:8000, "
        "http://[::1]:8000, 1 worker (process), "
    )
    assert text.count("\n") == 1


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_json_is_one_object_also_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    (line,) = banner(monkeypatch, stream(), log_format="json").splitlines()
    fields = json.loads(line)
    assert (
        fields.items()
        >= {
            "event": "server_started",
            "level": "info",
            "version": "1.2.3",
            "addresses": ["http://127.0.0.1:8000", "http://[::1]:8000"],
            "workers": 2,
            "mode": "process",
            "app": "shop.main:app",
            "pid": os.getpid(),
        }.items()
    )
    assert platform.python_version() in fields["python"]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_quiet_server_says_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], log_format: str
) -> None:
    assert banner(monkeypatch, stream(), log_level="warning", log_format=log_format) == ""


def test_with_a_log_config_the_banner_goes_where_logs_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "logging.json"
    settings = {
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(tmp_path / "log")}},
        "loggers": {"pounce": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
    path.write_text(json.dumps(settings))
    assert banner(monkeypatch, Terminal(), log_config=str(path)) == ""
    logging.getLogger("pounce").handlers[-1].close()
    assert (tmp_path / "log").read_text().startswith("Pounce 1.2.3 running shop.main:app on ")


def test_before_an_address_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    config = ServerConfig()
    configure_logging(config)
    print_banner(config, addresses=[], workers=1, mode="thread", version="1", app="a:b")
    assert stream.getvalue().startswith("INFO:     Pounce 1 running a:b, 1 worker (thread), ")


@pytest.mark.parametrize(
    ("address", "tls", "expected"),
    [
        (TCPAddress("127.0.0.1", 8000), False, "http://127.0.0.1:8000"),
        (TCPAddress("localhost", 443), True, "https://localhost:443"),
        (TCPAddress("::1", 8000), False, "http://[::1]:8000"),
        (TCPAddress("127.0.0.1", 0), False, "http://127.0.0.1:0"),
        (UnixAddress("/run/app.sock"), True, "unix:/run/app.sock"),
        (UnixAddress("@app"), False, "unix:@app"),
        (InheritedAddress(3), False, "fd://3"),
        (InheritedAddress(3, "web"), False, "fd://3 (web)"),
    ],
)
def test_addresses(address: Address, tls: bool, expected: str) -> None:
    assert format_address(address, tls=tls) == expected
